"""The eight places of the embedded world, drawn as flat scenery from a few random numbers each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Colour and strength of the light on a toy there: (red, green, blue, ambient).
_PLACES: dict[str, tuple[float, float, float, float]] = {
    "beach": (1.0, 1.0, 0.98, 0.62),
    "snow": (0.98, 1.0, 1.0, 0.66),
    "forest": (0.94, 0.98, 0.92, 0.54),
    "desert": (1.0, 0.98, 0.92, 0.60),
    "city": (0.88, 0.90, 0.98, 0.50),
    "meadow": (1.0, 1.0, 0.98, 0.60),
    "room": (1.0, 0.97, 0.93, 0.56),
    "sea": (0.97, 1.0, 1.0, 0.60),
}
PLACES = tuple(_PLACES)
PLACE_LIGHT = torch.tensor(list(_PLACES.values()))


def _rgb(red: float, green: float, blue: float, like: Tensor) -> Tensor:
    return torch.tensor([red, green, blue], device=like.device)


def _mix(below: Tensor, above: Tensor, amount: Tensor) -> Tensor:
    """`above` over `below` where amount (B, N) is 1."""
    amount = amount.clamp(0, 1)[..., None]
    return below * (1 - amount) + above * amount


def _edge(distance: Tensor, sharp: float = 40.0) -> Tensor:
    """A soft step: 1 where distance > 0."""
    return (distance * sharp + 0.5).clamp(0, 1)


def _sky(y: Tensor, high: Tensor, low: Tensor) -> Tensor:
    amount = ((y + 0.2) / 1.2).clamp(0, 1)[..., None]
    return low * (1 - amount) + high * amount


def _disc(x: Tensor, y: Tensor, cx: Tensor, cy: Tensor, radius: Tensor | float) -> Tensor:
    return _edge(radius - ((x - cx) ** 2 + (y - cy) ** 2).sqrt())


def _beach(n: Tensor, x: Tensor, y: Tensor) -> Tensor:
    horizon = 0.18 + 0.2 * n[:, 0:1]
    shore = horizon - 0.28 - 0.12 * n[:, 1:2] + 0.06 * torch.sin(x * 3 + 6 * n[:, 2:3])
    out = _sky(y, _rgb(0.36, 0.66, 0.95, x), _rgb(0.80, 0.91, 0.98, x))
    out = _mix(out, _rgb(1.0, 0.95, 0.62, x), _disc(x, y, 1.6 * n[:, 3:4] - 0.8, horizon + 0.45, 0.16))
    out = _mix(out, _rgb(0.08, 0.48, 0.66, x), _edge(horizon - y))
    out = _mix(out, _rgb(0.96, 0.98, 0.98, x), _edge(shore + 0.05 - y))
    return _mix(out, _rgb(0.93, 0.82, 0.58, x) * (0.94 + 0.06 * n[:, 4:5, None]), _edge(shore - y))


def _snow(n: Tensor, x: Tensor, y: Tensor) -> Tensor:
    horizon = 0.05 + 0.2 * n[:, 0:1] + 0.10 * torch.sin(x * 2.2 + 6 * n[:, 1:2])
    out = _sky(y, _rgb(0.62, 0.72, 0.84, x), _rgb(0.86, 0.90, 0.95, x))
    for i in range(4):
        cx = -0.9 + 0.55 * i + 0.3 * n[:, 2 + i : 3 + i]
        height = horizon + 0.42 + 0.25 * n[:, 6 + i : 7 + i]
        inside = _edge(0.42 * (height - y) - (x - cx).abs(), 25) * _edge(y - horizon)
        out = _mix(out, _rgb(0.30, 0.46, 0.44, x), inside)
    return _mix(out, _rgb(0.95, 0.97, 1.0, x), _edge(horizon - y))


def _forest(n: Tensor, x: Tensor, y: Tensor) -> Tensor:
    ground = -0.22 + 0.14 * n[:, 0:1] + 0.04 * torch.sin(x * 5 + 6 * n[:, 1:2])
    out = _sky(y, _rgb(0.05, 0.22, 0.10, x), _rgb(0.22, 0.44, 0.20, x)) + torch.zeros_like(n[:, :1, None])
    for i in range(5):
        cx = -0.95 + 0.46 * i + 0.3 * n[:, 2 + i : 3 + i]
        width = 0.05 + 0.06 * n[:, 7 + i : 8 + i]
        out = _mix(out, _rgb(0.28, 0.17, 0.09, x), _edge(width - (x - cx).abs()))
    return _mix(out, _rgb(0.16, 0.30, 0.10, x), _edge(ground - y))


def _desert(n: Tensor, x: Tensor, y: Tensor) -> Tensor:
    back = 0.10 + 0.2 * n[:, 0:1] + 0.16 * torch.sin(x * 2.4 + 6 * n[:, 1:2])
    fore = -0.30 + 0.1 * n[:, 2:3] + 0.12 * torch.sin(x * 1.8 + 6 * n[:, 3:4])
    out = _sky(y, _rgb(0.98, 0.80, 0.50, x), _rgb(1.0, 0.93, 0.76, x))
    out = _mix(out, _rgb(1.0, 0.98, 0.86, x), _disc(x, y, 1.4 * n[:, 4:5] - 0.7, 0.72 + 0 * x, 0.14))
    out = _mix(out, _rgb(0.86, 0.56, 0.30, x), _edge(back - y))
    return _mix(out, _rgb(0.93, 0.66, 0.36, x), _edge(fore - y))


def _city(n: Tensor, x: Tensor, y: Tensor) -> Tensor:
    out = _sky(y, _rgb(0.03, 0.04, 0.14, x), _rgb(0.16, 0.14, 0.34, x)) + torch.zeros_like(n[:, :1, None])
    out = _mix(out, _rgb(0.96, 0.95, 0.84, x), _disc(x, y, 1.6 * n[:, 0:1] - 0.8, 0.78 + 0 * x, 0.10))
    for i in range(5):
        left = -1.0 + 0.4 * i + 0.08 * n[:, 1 + i : 2 + i]
        height = 0.05 + 0.65 * n[:, 6 + i : 7 + i]
        inside = _edge(x - left) * _edge(left + 0.34 - x) * _edge(height - y)
        out = _mix(out, _rgb(0.07, 0.08, 0.15, x), inside)
        lit = ((x - left) * 8.8 % 1 > 0.5) & (y * 5.5 % 1 > 0.5) & (x - left > 0.03)
        out = _mix(out, _rgb(1.0, 0.83, 0.36, x), inside * _edge(height - 0.08 - y) * lit)
    return _mix(out, _rgb(0.22, 0.22, 0.27, x), _edge(-0.32 + 0.1 * n[:, 12:13] - y))


def _meadow(n: Tensor, x: Tensor, y: Tensor) -> Tensor:
    horizon = -0.02 + 0.2 * n[:, 0:1] + 0.08 * torch.sin(x * 2 + 6 * n[:, 1:2])
    out = _sky(y, _rgb(0.30, 0.58, 0.94, x), _rgb(0.72, 0.87, 0.98, x))
    for i in range(2):
        cx, cy = 1.8 * n[:, 2 + i : 3 + i] - 0.9, 0.55 + 0.35 * n[:, 4 + i : 5 + i]
        puff = torch.maximum(_disc(x, y * 1.6, cx, cy * 1.6, 0.26), _disc(x, y * 1.6, cx + 0.24, cy * 1.6 - 0.05, 0.19))
        out = _mix(out, _rgb(1.0, 1.0, 1.0, x), puff)
    out = _mix(out, _rgb(0.42, 0.74, 0.26, x), _edge(horizon - y))
    for i in range(6):
        cx, cy = 2 * n[:, 6 + i : 7 + i] - 1, -0.30 - 0.65 * n[:, (11 + i) % 18 : (11 + i) % 18 + 1]
        bloom = _rgb(0.98, 0.92, 0.30, x) if i % 2 else _rgb(0.98, 0.98, 0.98, x)
        out = _mix(out, bloom, _disc(x, y, cx, cy, 0.05))
    return out


def _room(n: Tensor, x: Tensor, y: Tensor) -> Tensor:
    floor = -0.28 + 0.14 * n[:, 0:1]
    wall = _rgb(0.90, 0.84, 0.72, x) * (0.92 + 0.08 * n[:, 1:2, None])
    out = wall.expand(-1, x.shape[-1], -1)
    cx, cy = 1.2 * n[:, 2:3] - 0.6, 0.42 + 0.12 * n[:, 3:4]
    frame = torch.minimum(0.34 - (x - cx).abs(), 0.38 - (y - cy).abs())
    out = _mix(out, _rgb(0.99, 0.98, 0.95, x), _edge(frame))
    out = _mix(out, _rgb(0.55, 0.78, 0.95, x), _edge(frame - 0.05))
    bars = torch.maximum(_edge(0.025 - (x - cx).abs()), _edge(0.025 - (y - cy).abs()))
    out = _mix(out, _rgb(0.99, 0.98, 0.95, x), _edge(frame - 0.03) * bars)
    out = _mix(out, _rgb(0.62, 0.41, 0.24, x), _edge(floor - y))
    return _mix(out, _rgb(0.97, 0.95, 0.90, x), _edge(0.03 - (y - floor).abs()))


def _sea(n: Tensor, x: Tensor, y: Tensor) -> Tensor:
    horizon = 0.25 + 0.2 * n[:, 0:1]
    out = _sky(y, _rgb(0.48, 0.74, 0.92, x), _rgb(0.88, 0.94, 0.96, x))
    cx = 1.7 * n[:, 1:2] - 0.85
    sail = _edge(0.42 * (horizon + 0.46 - y) - (x - cx).abs(), 30) * _edge(y - horizon - 0.08)
    out = _mix(out, _rgb(0.98, 0.97, 0.94, x), sail)
    depth = ((horizon - y) / 1.3).clamp(0, 1)[..., None]
    water = _rgb(0.10, 0.52, 0.70, x) * (1 - depth) + _rgb(0.03, 0.24, 0.52, x) * depth
    out = _mix(out, water, _edge(horizon - y))
    wave = torch.sin(y * 26 + 0.9 * torch.sin(x * 5 + 6 * n[:, 2:3]) + 6 * n[:, 3:4]) - 0.72
    return _mix(out, _rgb(0.55, 0.82, 0.90, x), _edge(wave, 4) * _edge(horizon - 0.05 - y))


_DRAWERS: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (
    _beach, _snow, _forest, _desert, _city, _meadow, _room, _sea,
)  # fmt: skip


def draw_place(place: Tensor, noise: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Pictures of places without a toy: place (B,) int64, noise (B, 18) in [0, 1], x and y (N,) in [-1, 1] with y up;
    gives colours (B, N, 3) in [0, 1]."""
    out = torch.empty(len(place), x.shape[-1], 3, device=place.device)
    for index, draw in enumerate(_DRAWERS):
        rows = (place == index).nonzero()[:, 0]
        if len(rows):
            shape = (len(rows), x.shape[-1])
            out[rows] = draw(noise[rows], x.expand(shape), y.expand(shape)).clamp(0, 1)
    return out
