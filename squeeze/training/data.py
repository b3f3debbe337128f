"""Training data of the embedded world: drawn on the fly, kept a while, used a few times, a pure function of seed and
step."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..models.framing import resized_crop
from ..plush.language import Wish, wishes
from ..plush.render import CELLS, MATERIALS, Rendered, render, visible
from ..plush.world import PROPORTIONS, Scenes, Toys, draw_scenes, draw_toys

Chunk = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """References, the toys in them, what is wished of each, and the scenes that fulfil it; every field of length B."""

    toys: Toys
    references: Scenes
    targets: Scenes
    wishes: list[Wish]

    def __getitem__(self, index: slice) -> Case:
        return Case(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def draw_cases(count: int, seed: int, held_out: bool = False) -> Case:
    """Draws toys, reference scenes, target scenes and prompts; the prompts do not depend on the reference's scene."""
    generator = torch.Generator().manual_seed(seed)
    toys = draw_toys(count, generator, held_out)
    references = draw_scenes(count, generator)
    targets = draw_scenes(count, generator, held_out)
    rng = random.Random(seed)
    return Case(
        toys=toys, references=references, targets=targets, wishes=wishes(toys, references, targets, rng, held_out)
    )


def to_bytes(pixels: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as uint8, a quarter of the memory."""
    return (pixels * 255).round().to(torch.uint8)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pictures (B, 3, H, W) to [-1, 1], what the VAE reads."""
    return pixels.float() / 127.5 - 1


def grainy(pixels: Tensor, step: int) -> Tensor:
    """uint8 pictures (B, 3, H, W) in [-1, 1], each with more or less noise, a function of the step."""
    noise = torch.Generator().manual_seed(step)
    level = 0.1 * torch.rand(len(pixels), 1, 1, 1, generator=noise)
    return to_unit(pixels) + (level * torch.randn(pixels.shape, generator=noise)).to(pixels.device)


IDENTITY = ("body", "belly", "pattern", "ears", "tail")
SCENE = ("place", "hat", "size")


def draw_labelled(count: int, seed: int, size: int, device: str = "cpu", held_out: bool = False) -> Chunk:
    """Renders `pixels` uint8 (B, 3, size, size) with their `truth` and the `proportions` (B, 4) of their toys."""
    generator = torch.Generator().manual_seed(seed)
    toys = draw_toys(count, generator, held_out).to(device)
    scenes = draw_scenes(count, generator, held_out).to(device)
    drawn = render(toys, scenes, size)
    told = truth(toys, scenes, drawn) | {"proportions": toys.shape[:, PROPORTIONS]}
    return {"pixels": to_bytes(drawn.pixels)} | told


def truth(toys: Toys, scenes: Scenes, drawn: Rendered) -> Chunk:
    """What renders show: `cells` uint8 as in Rendered, `azimuth` in degrees, `facing`, and an index (B,) for each
    attribute, -1 where it cannot be seen in that picture."""
    seen = visible(toys, drawn)
    told = {"cells": to_bytes(drawn.cells), "azimuth": scenes.azimuth, "facing": scenes.facing}
    told |= {name: getattr(scenes, name) for name in SCENE}
    return told | {name: torch.where(seen[name], getattr(toys, name), -1) for name in IDENTITY}


def draw_parts(drawn: Rendered, generator: torch.Generator) -> Tensor:
    """Squares of pictures that hold their toys, as visitors crop theirs: (B, 3), as `resized_crop` takes them."""
    toy = drawn.cells[:, :MATERIALS].sum(1) > 0
    lines = torch.stack([toy.any(1), toy.any(2)], 1).int()  # (B, x and y, CELLS)
    low, high = lines.argmax(-1) / CELLS, 1 - lines.flip(-1).argmax(-1) / CELLS

    def between(least: Tensor, most: Tensor) -> Tensor:
        return least + (most - least) * torch.rand(least.shape, generator=generator).to(least.device)

    side = between((high - low).amax(1, keepdim=True), torch.ones_like(low[:, :1]))
    start = between((high - side).clamp_min(0), torch.minimum(low, 1 - side))
    return torch.cat([2 * start + side - 1, side], 1)


def parts_of(drawn: Rendered, squares: Tensor) -> Rendered:
    """The `squares` (B, 3) of pictures, brought to the pictures' size."""
    return Rendered(pixels=resized_crop(drawn.pixels, squares), cells=resized_crop(drawn.cells, squares))


def unanswerable(case: Case, number: int, belly: bool) -> frozenset[str]:
    """What prompt `number` asks for that its reference does not tell: a hat of the belly's colour where no `belly` is
    shown."""
    wish = case.wishes[number]
    of_belly = "hat" in wish.needs_picture and wish.hat != int(case.toys.body[number]) + 1
    return frozenset({"hat"} if of_belly and not belly else ())


def wanted(case: Case, references: Rendered, told: Chunk) -> Chunk:
    """Of what the target pictures show, `told` as from `truth`, that which can be known beforehand: of the toy what
    its reference shows, of the scene what prompt and reference name. The same indices, -1 elsewhere; the azimuth NaN
    elsewhere; and the toy's `proportions` (B, 4)."""
    seen = visible(case.toys, references)
    hidden = [unanswerable(case, number, belly) for number, belly in enumerate(seen["belly"].tolist())]
    named = {
        name: torch.tensor([
            getattr(wish, name) is not None and name not in unknown
            for wish, unknown in zip(case.wishes, hidden, strict=True)
        ])
        for name in (*SCENE, "facing")
    }  # fmt: skip
    known = {name: torch.where(seen[name].to(told[name].device), told[name], -1) for name in IDENTITY}
    known |= {name: torch.where(named[name].to(told[name].device), told[name], -1) for name in SCENE}
    azimuth = torch.where(named["facing"].to(told["azimuth"].device), told["azimuth"], torch.nan)
    return known | {"azimuth": azimuth, "proportions": case.toys.shape[:, PROPORTIONS].to(azimuth.device)}


def chunk_seed(part: int, seed: int, index: int) -> int:
    """The seed of chunk `index`, of 32 bits, which is all that torch's generator takes: parts, and runs of different
    `seed`, share samples by no more than chance."""
    return int.from_bytes(hashlib.blake2b(f"{part} {seed} {index}".encode(), digest_size=4).digest())


class Pool:
    """A sliding window of chunks, from which each step draws its batch.

    `make(index)` gives chunk number `index`, always the same; a new one enters each time the window's samples have
    been used `reuse` times on average. `alike` names a mask whose length should vary little inside a batch, to save
    padding. A batch depends on the step alone, and a resumed run sees what an uninterrupted one sees.
    """

    def __init__(
        self,
        make: Callable[[int], Chunk],
        *,
        batch: int,
        chunk: int,
        window: int,
        reuse: float,
        seed: int = 0,
        alike: str | None = None,
    ) -> None:
        self._make, self._batch, self._chunk, self._window, self._reuse = make, batch, chunk, window, reuse
        self._seed, self._alike = seed, alike
        self._numbers: list[int | None] = [None] * window  # of the chunks that the window's places hold
        self._held: Chunk = {}  # (window * chunk, ...) each

    def batch(self, step: int) -> Chunk:
        """The batch of one step, each tensor (batch, ...)."""
        newest = 2 + int(step * self._batch / (self._chunk * self._reuse))
        oldest = max(0, newest - self._window)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        wanted = self._batch * (4 if self._alike else 1)
        drawn = torch.randint(oldest * self._chunk, newest * self._chunk, (wanted,), generator=generator)
        for index in (drawn // self._chunk).unique().tolist():
            self._hold(index)
        rows = drawn % (self._window * self._chunk)
        if self._alike:
            mask = self._held[self._alike]
            ordered = mask[rows.to(mask.device)].sum(1).argsort(stable=True).cpu()
            quarter = int(torch.randint(4, (1,), generator=generator)) * self._batch
            rows = rows[ordered[quarter : quarter + self._batch]]
        return {key: value[rows.to(value.device)] for key, value in self._held.items()}

    def _hold(self, index: int) -> None:
        place = index % self._window
        if self._numbers[place] == index:
            return
        chunk = self._make(index)
        if not self._held:
            self._held = {
                key: value.new_empty(self._window * self._chunk, *value.shape[1:]) for key, value in chunk.items()
            }
        for key, value in chunk.items():
            self._held[key][place * self._chunk : (place + 1) * self._chunk] = value
        self._numbers[place] = index
