"""What a generation reports while it runs: Encoded, for each stage StageStarted and its StepDone, then Finished."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The MLLM and the VAE have read the references. `seconds` it took; `unknown_words` of the prompt the model has no
    token for; `stage_steps` the whole steps of each stage; `times` the t at which each step begins."""

    seconds: float
    unknown_words: tuple[str, ...]
    stage_steps: tuple[int, int, int]
    times: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    """A stage begins at step `step` (from 0); `balance` is its b in [0, 1]."""

    stage: int
    step: int
    balance: float


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One step is done. `step` counts from 0, `steps` is their number, `t` is where the step began.

    `preview` is the picture as foreseen from here, None where previews are off: sketched by the preview map, at the
    end of a stage drawn by the autoencoder, after the last step the picture itself. `img` is the latent (1, N, C) after
    the step, a float32 tensor on the CPU: what `generate(..., resume=...)` goes on from.
    """

    step: int
    steps: int
    stage: int
    t: float
    seconds: float
    preview: Image.Image | None
    img: Any


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The picture, and the recipe that makes it again. `seconds` since the start, reading included."""

    image: Image.Image
    recipe: dict[str, Any]
    seconds: float


Event = Encoded | StageStarted | StepDone | Finished


def finished(events: Iterable[Event]) -> Finished:
    """The outcome of a run of which nothing else is wanted."""
    return next(event for event in events if isinstance(event, Finished))
