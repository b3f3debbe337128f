"""Trains what frames pictures for the embedded MLLM, on renders and parts of them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..models.framing import Framing, resized_crop
from ..plush.render import near_squares, render
from ..plush.world import draw_scenes, draw_toys
from .data import Chunk, Pool, chunk_seed, draw_parts, grainy, parts_of, to_bytes, to_unit
from .loop import Schedule, read_start, save_bf16
from .parts import tile

CHUNK = 512
CROPPED = 0.5  # of the pictures, as visitors crop theirs
UNITS = (0.04, 0.02, 0.02)  # of misses across, down and in size, as shares of the square's side


class FramingPart:
    """The framing: where toys stand and how large, of whole pictures and parts, more or less noisy."""

    name = "framing"

    def __init__(
        self,
        size: int = 128,
        device: str = "cpu",
        seed: int = 0,
        start: Path | None = None,
        batch: int | None = None,
        rate: float | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.schedule = Schedule(batch=batch or 64, rate=rate or 2e-3, ema=0.998, decay=0.02)
        model = Framing(size) if start is None else read_start(Framing, start / "framing")
        self.model = model.float().to(device, memory_format=torch.channels_last)
        self._device, self._size, self._seed = device, size, seed
        self._pool = Pool(self._make, batch=self.schedule.batch, chunk=CHUNK, window=16, reuse=6, seed=seed)

    def _make(self, index: int) -> Chunk:
        return self.lessons(CHUNK, chunk_seed(10, self._seed, index))

    def lessons(self, count: int, seed: int, held_out: bool = False) -> Chunk:
        """Pictures, uint8 (B, 3, size, size), and their `squares` (B, 3), see Framing."""
        generator = torch.Generator().manual_seed(seed)
        toys = draw_toys(count, generator, held_out).to(self._device)
        scenes = draw_scenes(count, generator, held_out).to(self._device)
        drawn, squares = render(toys, scenes, self._size), near_squares(scenes)
        parts = draw_parts(drawn, generator)
        whole = (torch.rand(count, 1, generator=generator) >= CROPPED).to(self._device)
        parts = torch.where(whole, parts.new_tensor([0.0, 0.0, 1.0]), parts)
        return {"pixels": to_bytes(parts_of(drawn, parts).pixels), "squares": within(squares, parts)}

    def loss(self, step: int) -> Tensor:
        """How far the squares are off, see `missed`."""
        batch = {key: value.to(self._device) for key, value in self._pool.batch(step).items()}
        shown = grainy(batch["pixels"], step).contiguous(memory_format=torch.channels_last)
        return F.smooth_l1_loss(missed(self.model(shown), batch["squares"]), torch.zeros_like(batch["squares"]))

    @torch.inference_mode()
    def grid(self, model: nn.Module) -> Image.Image:
        """Held-out pictures above, what is made of them below."""
        pixels = to_unit(self.lessons(16, 7, held_out=True)["pixels"])
        return tile(torch.cat([pixels, resized_crop(pixels, model(pixels))]), 16)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes `framing/`."""
        save_bf16(model, folder / "framing")


def within(squares: Tensor, parts: Tensor) -> Tensor:
    """Where squares (B, 3) of pictures lie in square `parts` (B, 3) of these."""
    return torch.cat([squares[:, :2] - parts[:, :2], squares[:, 2:]], 1) / parts[:, 2:]


def jittered(squares: Tensor, generator: torch.Generator) -> Tensor:
    """Squares (B, 3) that are off by one of UNITS on average (root mean square)."""
    off = torch.randn(squares.shape, generator=generator).to(squares.device) * squares.new_tensor(UNITS)
    return torch.cat([squares[:, :2] + 2 * squares[:, 2:] * off[:, :2], squares[:, 2:] * off[:, 2:].exp()], 1)


def missed(squares: Tensor, truth: Tensor) -> Tensor:
    """How far squares (B, 3) are off across, down and in size, (B, 3), in UNITS."""
    centre = (squares[:, :2] - truth[:, :2]) / (2 * truth[:, 2:])
    size = (squares[:, 2:] / truth[:, 2:]).log()
    return torch.cat([centre, size], 1) / centre.new_tensor(UNITS)
