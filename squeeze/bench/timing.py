"""Times side by side: interleaved A B A B, warm-up apart, within a box of minutes; and the figures made of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

ROUNDS = 15  # at most; fewer where the time is short


class OutOfTime(RuntimeError):
    """The minutes are over; the message is what stands in the table."""


class Clock:
    """The whole run's box, of it the share of the `block` that is under way, and of that what a measurement may take,
    `until` when."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.end = self.block = self.until = time.monotonic() + 60 * minutes

    def share(self, blocks: int) -> None:
        """The next block may take its equal part of what is left for `blocks` of them."""
        self.block = self.until = _part(self.end, blocks)

    def part(self, parts: int) -> None:
        """The next measurement may take its equal part of what is left of the block for `parts` of them."""
        self.until = _part(self.block, parts)

    def check(self) -> None:
        """Raises OutOfTime once the whole run's minutes are over."""
        if time.monotonic() >= self.end:
            raise OutOfTime(f"Not measured: the {self.minutes:g} minutes were over. Give more with --minutes.")


def _part(end: float, parts: int) -> float:
    now = time.monotonic()
    return now + max(0.0, end - now) / parts


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median with its quartiles, of `count` values."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Of one value or more; quartiles are interpolated linearly."""
    low, median, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double())
    return Spread(median=median.item(), low=low.item(), high=high.item(), count=len(values))


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """What a call takes until the device has done all of it."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def interleaved(
    sides: Mapping[str, Callable[[], Any]], clock: Clock, device: torch.device, rounds: int | None = None,
    warm: bool = False,
) -> dict[str, list[float]]:  # fmt: skip
    """Seconds of every side in every round: `rounds` of them (ROUNDS if left out), or as many as fit into what the
    clock leaves for it, but one at least.

    Each side runs once before, which is not counted, unless they are `warm`. Raises OutOfTime where the whole run's
    minutes are over.
    """
    clock.check()
    longest = 0.0 if warm else sum(seconds(side, device) for side in sides.values())
    times: dict[str, list[float]] = {name: [] for name in sides}
    for done in range(ROUNDS if rounds is None else rounds):
        if not done:
            clock.check()
        elif time.monotonic() + longest > clock.until:
            break
        once = {name: seconds(side, device) for name, side in sides.items()}
        longest = sum(once.values())
        for name, taken in once.items():
            times[name].append(taken)
    return times


def ratio(times: Mapping[str, Sequence[float]], over: str, under: str) -> Spread:
    """One side's time over another's, round by round."""
    return spread([a / b for a, b in zip(times[over], times[under], strict=True)])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
