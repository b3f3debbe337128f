"""What every command asks of its flags before any work begins: numbers that make sense, files that can be written."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .balance import PRESETS
from .files import part_of
from .recipe import number
from .request import RequestError

MOST_SEED = 999_999_999


def _numbers(text: str) -> tuple[int | float | str, ...]:
    """Numbers as they were written; what they are is judged by Request, with a sentence."""
    return tuple(number(part) for part in text.split(","))


def _balance(text: str) -> tuple[int | float | str, ...]:
    """A preset's balances or three numbers."""
    return PRESETS.get(text) or _numbers(text)


ASKED: dict[str, tuple[Callable[[str], Any], str]] = {
    "balance": (_balance, "three numbers from 0 to 1, or a preset: " + ", ".join(PRESETS)),
    "steps": (number, "whole steps"),
    "stage_steps": (_numbers, "whole steps of the three stages, for example 12,7,6"),
    "cfg": (number, "true classifier-free guidance, 1 = off"),
    "eta": (number, "how much of each step's noise is drawn anew, 0 to 1"),
}
"""Fields of Request that one picture and a whole evaluation can be asked with alike: how each is read, and its help."""


def add_asked(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each field of ASKED, None where it is left out."""
    for name, (read, told) in ASKED.items():
        parser.add_argument(flag(name), type=read, help=told)


def flag(name: str) -> str:
    """What is typed for an option of this name."""
    return "--" + name.replace("_", "-")


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = _float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return value


def shares(text: str) -> tuple[float, float]:
    """A number from 0 to 1 for two things alike, or one for each with a comma between."""
    values = [_float(part) for part in text.split(",")]
    if len(values) > 2 or not all(0 <= value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1 or two with a comma between, not {text}")
    return values[0], values[-1]


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text}")
    return value


def training_seed(text: str) -> int:
    """A whole number from 0 to MOST_SEED, from which the seeds of all samples follow."""
    if not text.isascii() or not text.isdigit() or int(text) > MOST_SEED:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {MOST_SEED}, not {text}")
    return int(text)


def check_writable(path: Path) -> None:
    """Raises RequestError where a file cannot be written, which an hour's work must not end with: `path` is a folder or
    too long a name, or the nearest folder above it that is there takes no files."""
    if os.path.isdir(path):
        raise RequestError("out_folder", value=path)
    try:
        os.lstat(part_of(path))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except OSError as error:
        raise RequestError("out_name", value=path, reason=error.strerror) from error
    above = next(folder for folder in path.absolute().parents if os.path.exists(folder))
    if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
        raise RequestError("out_closed", value=path, folder=above)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
