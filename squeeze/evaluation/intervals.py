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
    names = list(range(len(values))) if groups is None else list(groups)
    index = {name: number for number, name in enumerate(dict.fromkeys(names))}
    sums, counts = torch.zeros(2, len(index), 1, dtype=torch.float64)
    for name, value in zip(names, values, strict=True):
        sums[index[name]] += float(value)
        counts[index[name]] += 1
    return _quantiles(sums, counts)


def mean_interval(rows: Sequence[Sequence[float | None]]) -> list[float] | None:
    """The interval of a mean of several rates: a row holds what each rate counts of one case, None where it does not
    judge it. Cases are drawn whole, each rate is taken over those it judges, then the rates' mean."""
    if not rows:
        return None
    sums = torch.tensor([[float(value or 0) for value in row] for row in rows], dtype=torch.float64)
    counts = torch.tensor([[float(value is not None) for value in row] for row in rows], dtype=torch.float64)
    return _quantiles(sums, counts)


def _quantiles(sums: Tensor, counts: Tensor) -> list[float] | None:
    """Of the mean over K of sums / counts, both (groups, K); a rate without cases in a resample is left out of it."""
    if len(sums) < 2 or not counts.any():
        return None
    drawn = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=torch.Generator().manual_seed(0))
    means = (sums[drawn].sum(1) / counts[drawn].sum(1)).nanmean(1)
    return [round(float(means.nanquantile(q)), 4) for q in (0.025, 0.975)]
