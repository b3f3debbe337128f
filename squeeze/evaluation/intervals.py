"""95 % bootstrap intervals of a mean."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

RESAMPLES = 2000


def interval(values: Sequence[float], groups: Sequence[Hashable] | None = None) -> list[float] | None:
    """The 95 % percentile bootstrap interval of the mean of `values`, [low, high]; None where there are less than
    two groups to draw from.

    `groups` names what each value belongs to; whole groups are drawn, because the values of one subject are not
    independent. Without it each value is a group of its own. 2,000 resamples, always the same.
    """
    return mean_interval([[value] for value in values], groups)


def mean_interval(
    rows: Sequence[Sequence[float | None]], groups: Sequence[Hashable] | None = None
) -> list[float] | None:
    """The interval of a mean of several rates: a row holds what each rate counts of one picture, None where it does not
    judge it. Groups are drawn whole, see `interval`, each rate is taken over what it judges, then the rates' mean."""
    if not rows:
        return None
    places, count = numbered(range(len(rows)) if groups is None else groups)
    sums, counts = torch.zeros(2, count, len(rows[0]), dtype=torch.float64)
    sums.index_add_(0, places, torch.tensor([[float(v or 0) for v in row] for row in rows], dtype=torch.float64))
    counts.index_add_(0, places, torch.tensor([[v is not None for v in row] for row in rows], dtype=torch.float64))
    return _quantiles(sums, counts)


def numbered(groups: Sequence[Hashable]) -> tuple[Tensor, int]:
    """The number of each value's group, in the order in which they come, and how many there are."""
    index = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    return torch.tensor([index[name] for name in groups], dtype=torch.int64), len(index)


def _quantiles(sums: Tensor, counts: Tensor) -> list[float] | None:
    """Of the mean over K of sums / counts, both (groups, K); a rate without cases in a resample is left out of it."""
    if len(sums) < 2 or not counts.any():
        return None
    drawn = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=torch.Generator().manual_seed(0))
    means = (sums[drawn].sum(1) / counts[drawn].sum(1)).nanmean(1)
    return [round(float(means.nanquantile(q)), 4) for q in (0.025, 0.975)]
