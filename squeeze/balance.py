"""Stages of a generation and the balance between semantics and identity in each.

A generation runs through three stages as t falls from 1 (noise) to 0 (picture): layout, both, detail. Each stage has
one number b in [0, 1]: 0 = semantics only (MLLM tokens), 0.5 = both in full, 1 = identity only (VAE tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STAGES = ("meaning", "both", "identity")

# Balance of the three stages. Scores on the embedded world stand in the README.
PRESETS: dict[str, tuple[float, float, float]] = {
    "paper": (0.0, 0.5, 1.0),
    "meaning": (0.0, 0.0, 0.0),
    "both": (0.5, 0.5, 0.5),
    "identity": (1.0, 1.0, 1.0),
    "gentle": (0.0, 0.5, 0.75),
}


def preset_of(balance: Sequence[float]) -> str | None:
    """The name of the preset with this balance, a list from JSON or a tuple; None where there is none."""
    return next((name for name, preset in PRESETS.items() if preset == tuple(balance)), None)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How much each group of tokens counts in attention, both in [0, 1]; 0 leaves the group out."""

    mllm: float
    vae: float


def weights(balance: float) -> Weights:
    """w_mllm = min(1, 2 (1 - b)), w_vae = min(1, 2 b)."""
    return Weights(mllm=min(1.0, 2 * (1 - balance)), vae=min(1.0, 2 * balance))


def steps_per_stage(times: Sequence[float], tau1: float, tau2: float) -> tuple[int, int, int]:
    """How many steps fall into each stage, from the t at which each step begins (the masks of Eq. 5).

    `times` are the N step times in falling order, shifted, without the final 0: t >= tau1 is stage 1, tau2 <= t < tau1
    stage 2, t < tau2 stage 3.
    """
    first = sum(t >= tau1 for t in times)
    third = sum(t < tau2 for t in times)
    return first, len(times) - first - third, third


def stage_of(step: int, counts: Sequence[int]) -> int:
    """The stage (0, 1, 2) that step number `step`, counted from 0, belongs to."""
    if not 0 <= step < sum(counts):
        raise ValueError(f"step must be in [0, {sum(counts)}), got {step}")
    return 0 if step < counts[0] else 1 if step < counts[0] + counts[1] else 2
