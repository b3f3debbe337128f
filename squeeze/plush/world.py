"""The embedded world: which plush toys there are, in which scenes, and which combinations are never trained on.

Angles are in degrees. Azimuth 0 faces the viewer, 90 faces the picture's right, 180 faces away, 270 faces the picture's
left.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .places import PLACES

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.12, 0.14),
    "orange": (0.95, 0.50, 0.10),
    "yellow": (0.96, 0.86, 0.22),
    "green": (0.20, 0.60, 0.22),
    "blue": (0.16, 0.34, 0.84),
    "purple": (0.52, 0.20, 0.66),
    "pink": (0.97, 0.58, 0.74),
    "brown": (0.44, 0.26, 0.13),
    "white": (0.95, 0.94, 0.90),
    "black": (0.13, 0.13, 0.15),
}
COLOUR_NAMES = tuple(COLOURS)
PATTERNS = ("plain", "stripes", "spots", "patches")
EARS = ("round", "pointed", "long", "floppy")
TAILS = ("stub", "long", "bushy")
FACINGS = ("front", "front right", "right", "back right", "back", "back left", "left", "front left")
SIZES = ("near", "far")
HATS = ("no hat", *COLOUR_NAMES)

SHAPE_DIMS = 10  # continuous build of a toy: widths, lengths, pattern phases
PROPORTIONS = [0, 1, 3, 6]  # those of them that show from every side: body's and head's width, length of arms and ears
NOISE_DIMS = 24  # continuous freedom of a scene: position, light, drawing of the place
HELD_OUT = 10  # one combination in this many is never trained on


@dataclass(frozen=True, kw_only=True)
class Toys:
    """Identities. Index tensors (B,) int64 into the tables above; `shape` (B, SHAPE_DIMS) in [0, 1]."""

    body: Tensor
    belly: Tensor
    pattern: Tensor
    ears: Tensor
    tail: Tensor
    shape: Tensor

    def __len__(self) -> int:
        return len(self.body)

    def __getitem__(self, index: Tensor | slice) -> Toys:
        return Toys(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> Toys:
        return Toys(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """What a prompt may ask for. `place, facing, hat, size` (B,) int64; `azimuth` (B,) degrees, within 15 of the
    facing's centre; `noise` (B, NOISE_DIMS) in [0, 1]."""

    place: Tensor
    facing: Tensor
    hat: Tensor
    size: Tensor
    azimuth: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, index: Tensor | slice) -> Scenes:
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> Scenes:
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def _tenth(*parts: Tensor) -> Tensor:
    """Spreads index combinations over HELD_OUT buckets by a fixed integer hash; (B,) bool, true = held out."""
    state = torch.full_like(parts[0], 40503)
    for part in parts:
        state = ((state ^ (part + 1)) * 2654435761) & 0xFFFFFFFF
        state = state ^ (state >> 15)
    return (state * 2246822519 & 0xFFFFFFFF) >> 8 & 0xFFFF < 0xFFFF // HELD_OUT


def toy_held_out(toys: Toys) -> Tensor:
    """(B,) bool: the combination of body, belly, pattern, ears and tail belongs to the held-out tenth."""
    return _tenth(toys.body, toys.belly, toys.pattern, toys.ears, toys.tail)


def prompt_held_out(place: Tensor, facing: Tensor, hat: Tensor) -> Tensor:
    """(B,) bool: the combination of what a prompt names belongs to the held-out tenth; -1 stands for not named."""
    return _tenth(place + 1, facing + 1, hat + 1)


def draw_toys(count: int, generator: torch.Generator, held_out: bool = False) -> Toys:
    """Draws `count` toys, all from the training combinations or all from the held-out tenth."""

    def draw(n: int) -> Toys:
        body = torch.randint(len(COLOURS), (n,), generator=generator)
        other = torch.randint(1, len(COLOURS), (n,), generator=generator)
        return Toys(
            body=body,
            belly=(body + other) % len(COLOURS),
            pattern=torch.randint(len(PATTERNS), (n,), generator=generator),
            ears=torch.randint(len(EARS), (n,), generator=generator),
            tail=torch.randint(len(TAILS), (n,), generator=generator),
            shape=torch.rand(n, SHAPE_DIMS, generator=generator),
        )

    return _until_full(Toys, count, draw, lambda toys: toy_held_out(toys) == held_out)


def draw_scenes(count: int, generator: torch.Generator, held_out: bool = False) -> Scenes:
    """Draws `count` scenes whose (place, facing, hat) is in the training part or in the held-out tenth."""

    def draw(n: int) -> Scenes:
        facing = torch.randint(len(FACINGS), (n,), generator=generator)
        bare = torch.rand(n, generator=generator) < 0.35
        hat = torch.randint(1, len(HATS), (n,), generator=generator)
        return Scenes(
            place=torch.randint(len(PLACES), (n,), generator=generator),
            facing=facing,
            hat=torch.where(bare, 0, hat),
            size=torch.randint(len(SIZES), (n,), generator=generator),
            azimuth=(facing * 45 + torch.rand(n, generator=generator) * 30 - 15) % 360,
            noise=torch.rand(n, NOISE_DIMS, generator=generator),
        )

    return _until_full(Scenes, count, draw, lambda s: prompt_held_out(s.place, s.facing, s.hat) == held_out)


def _until_full(kind, count, draw, keep):  # noqa: ANN001, ANN202 - the two callers above carry the types
    parts, have = [], 0
    while have < count:
        drawn = draw(2 * count + 64)
        drawn = drawn[keep(drawn)]
        parts.append(drawn)
        have += len(drawn)
    return kind(**{f.name: torch.cat([getattr(p, f.name) for p in parts])[:count] for f in fields(kind)})


def facing_of(azimuth: Tensor) -> Tensor:
    """The nearest of the eight facings, (B,) int64, from degrees."""
    return torch.round(azimuth / 45).long() % len(FACINGS)
