"""The flags that say which weights are loaded and how, the same for the page and for every command that draws."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models.loading import Models
    from .models.profiles import Profile

FLAGS = ("weights", "adapter", "revision", "memory", "compile")


def add_models(parser: argparse.ArgumentParser) -> None:
    """Adds FLAGS to a command's parser."""
    parser.add_argument("--weights", type=Path, help="a folder of weights in place of the profile's own")
    parser.add_argument("--adapter", type=Path, help="the folder of an adapter, for profiles that need one")
    parser.add_argument(
        "--revision", action="append", metavar="REPO@COMMIT",
        help="another commit of a repository on the hub than the profile's; may be repeated",
    )  # fmt: skip
    parser.add_argument("--memory", help="what stays on a CUDA card: auto, resident, swap or lean; auto if left out")
    parser.add_argument(
        "--compile", action="store_const", const=True, help="minutes of compiling first, then faster steps"
    )


def load_models(
    options: argparse.Namespace, profile: Profile, device: str | None, say: Callable[[str], None]
) -> Models:
    """The profile's models as FLAGS ask for; `say` is told the memory plan. Raises LoadError as `load` does."""
    with importing():  # here, so that --help and a slip answer at once
        from .models.loading import load
        from .models.sources import revisions_of

    return load(
        profile, options.weights, device, adapter=options.adapter, revisions=revisions_of(options.revision or []),
        memory=options.memory or "auto", compiled=bool(options.compile), report=lambda plan: say(plan.as_text()),
    )  # fmt: skip


@contextmanager
def importing() -> Iterator[None]:
    """Imports within take a quarter less time: Python's garbage collector, which would look through what they bring a
    hundred times over and find nothing, waits, and leaves all that out afterwards, too."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
