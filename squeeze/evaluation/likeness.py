"""How like true pictures of the world drawn ones look: the kernel distance of Binkowski et al. (KID, arXiv 1801.01401).

Rates of attributes say nothing of frayed edges and smeared faces; this does. Its features are the probe's early ones,
where things still have their places, in place of those of a network that was trained on photos.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..images import to_tensor
from ..plush.probe import Probe, at_size
from ..training.data import draw_labelled, to_unit
from .intervals import numbered
from .plush import CASES_SEED

RENDERS = 1000
CELLS = 4  # a side of the grid over which features are averaged
HALVES = 1000  # half-samples that the interval is taken from


def likeness(
    probe: Probe, pictures: Sequence[Image.Image], size: int, groups: Sequence[Hashable] | None = None
) -> dict[str, Any]:
    """`renders_distance`, the kernel distance of pictures to 1,000 held-out renders of `size` pixels a side, times
    1,000: 0 where they are drawn alike, None of a single group; and its 95 % interval, None of less than four groups.
    `groups` names what each picture belongs to, each a group of its own where it is None: pictures of one group, as
    several trainings draw of one case, are alike because of it, and are not held against each other.

    The interval's half-samples without replacement vary as the whole does (the delete-half jackknife): in a bootstrap
    a picture would meet itself."""
    group, count = numbered(range(len(pictures)) if groups is None else groups)
    if count < 2:
        return {"renders_distance": None, "renders_distance_interval": None}
    drawn = torch.cat([features(probe, to_tensor(picture)) for picture in pictures])
    true = _renders(probe, size)
    within, between = _kernel(drawn, drawn), _kernel(drawn, true).mean(1)
    other = _mean_apart(_kernel(true, true), torch.arange(len(true)))

    def distance(rows: Tensor) -> float:
        return 1000 * float(_mean_apart(within[rows][:, rows], group[rows]) + other - 2 * between[rows].mean())

    between_halves, generator = None, torch.Generator().manual_seed(0)
    if count >= 4:
        halves = [torch.randperm(count, generator=generator)[: count // 2] for _ in range(HALVES)]
        found = torch.tensor([distance(torch.isin(group, half).nonzero().flatten()) for half in halves])
        between_halves = [round(float(found.quantile(q)), 1) for q in (0.025, 0.975)]
    whole = round(distance(torch.arange(len(pictures))), 1)
    return {"renders_distance": whole, "renders_distance_interval": between_halves}


@torch.inference_mode()
def features(probe: Probe, pixels: Tensor) -> Tensor:
    """What the probe sees early of pictures (B, 3, H, W) in [-1, 1], averaged over cells: (B, F), float64."""
    coarse = probe.coarse(at_size(pixels, probe.config["size"]).to(probe.dtype)).double()
    return F.adaptive_avg_pool2d(coarse, CELLS).flatten(1).clone()


@lru_cache(maxsize=1)
def _renders(probe: Probe, size: int) -> Tensor:
    pixels = to_unit(draw_labelled(RENDERS, CASES_SEED + 4, size, held_out=True)["pixels"])
    return torch.cat([features(probe, part) for part in pixels.split(100)])


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    """The cubic kernel of KID between features (A, F) and (B, F): (A, B)."""
    return (one @ other.T / one.shape[1] + 1) ** 3


def _mean_apart(kernel: Tensor, group: Tensor) -> Tensor:
    """The mean of a square kernel over pairs of different groups; `group` holds the number of each row's."""
    apart = group[:, None] != group
    return (kernel * apart).sum() / apart.sum()
