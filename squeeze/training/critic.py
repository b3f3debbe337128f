"""A judge of the pictures that the phases foresee, thrown away after training: it reads the toy and the scene from
latents.

The error of a picture says little about its small parts, and blurring them costs a transformer next to nothing. Before
a critic it also has to foresee a picture in which the toy of the reference can be read, and the scene of the prompt: an
identity loss (compare PuLID, arXiv 2404.16022). The critic is trained on the VAE's latents of renders alone; it shares
neither weights nor input with the probe, which measures.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import Tensor, nn

from ..models.vae import Vae
from ..plush.probe import HEADS, build_loss, probe_loss
from ..plush.world import PROPORTIONS
from .data import Chunk, Pool, chunk_seed, draw_labelled, to_unit
from .loop import Schedule, read_start, save_bf16
from .parts import tile

CHUNK = 512
NOISE = 0.6  # the most that is added to what the critic learns from, in deviations of the latents


class _Block(nn.Module):
    def __init__(self, width_in: int, width_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.skip = nn.Conv2d(width_in, width_out, 1, bias=False) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(y)) + self.skip(self.pool(x)))


class Critic(ModelMixin, ConfigMixin):
    """Latents (B, channels, side, side) to logits for each attribute, a facing direction (B, 2) and proportions (B, 4),
    as a Probe tells them of pixels; two residual blocks at each of three resolutions."""

    @register_to_config
    def __init__(self, channels: int = 16, side: int = 16, widths: tuple[int, ...] = (64, 128, 192)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, 1, 1)
        blocks = [_Block(widths[0], widths[0]), _Block(widths[0], widths[0])]
        for before, width in pairwise(widths):
            blocks += [_Block(before, width, stride=2), _Block(width, width)]
        self.blocks = nn.Sequential(*blocks)
        self.neck = nn.Linear(widths[-1] * (side // 2 ** (len(widths) - 1)) ** 2, 256)
        self.heads = nn.ModuleDict({name: nn.Linear(256, count) for name, count in HEADS.items()})
        self.direction = nn.Linear(256, 2)
        self.proportions = nn.Linear(256, len(PROPORTIONS))

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) for each attribute, `direction` (B, 2) and `proportions` (B, 4), see Probe."""
        features = F.silu(self.neck(self.blocks(self.stem(latents)).flatten(1)))
        features = F.dropout(features, 0.2, self.training)
        told = {name: head(features) for name, head in self.heads.items()}
        return told | {"direction": self.direction(features), "proportions": self.proportions(features)}

    def loss(self, latents: Tensor, truth: Chunk) -> Tensor:
        """What is read wrong in latents (B, channels, side, side), a scalar; `truth` as for `probe_loss`, with
        `proportions` (B, 4)."""
        told = self(latents.contiguous(memory_format=torch.channels_last))
        return probe_loss(told, truth) + build_loss(told, truth)


class CriticPart:
    """The critic, on the latents of renders by `vae`, made worse as those are that a transformer foresees: a part of
    them blurred, all paler or stronger and with noise."""

    name = "critic"

    def __init__(
        self,
        vae: AutoencoderKL,
        size: int = 64,
        device: str = "cpu",
        seed: int = 0,
        start: Path | None = None,
        batch: int | None = None,
        rate: float | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.schedule = Schedule(batch=batch or 128, rate=rate or 2e-3, decay=0.05)
        self._vae = Vae(vae.to(device).eval().requires_grad_(False))
        model = Critic(self._vae.channels, size // self._vae.factor)
        if start is not None:
            model = read_start(Critic, start / "critic")
        self.model = model.float().to(device, memory_format=torch.channels_last)
        self._device, self._size, self._seed = device, size, seed
        self._pool = Pool(self._make, batch=self.schedule.batch, chunk=CHUNK, window=64, reuse=9, seed=seed)

    def _make(self, index: int) -> Chunk:
        return self._seen(chunk_seed(9, self._seed, index), CHUNK)

    @torch.no_grad()
    def _seen(self, seed: int, count: int, held_out: bool = False) -> Chunk:
        told = draw_labelled(count, seed, self._size, self._device, held_out)
        pixels = told.pop("pixels")
        del told["cells"]
        return told | {"latents": torch.cat([self._vae.encode(to_unit(part)).bfloat16() for part in pixels.split(64)])}

    def loss(self, step: int) -> Tensor:
        """See `Critic.loss`."""
        batch = {key: value.to(self._device) for key, value in self._pool.batch(step).items()}
        latents = worsened(batch["latents"].float(), torch.Generator().manual_seed(step))
        with torch.random.fork_rng():  # of the dropout
            torch.manual_seed(chunk_seed(9, self._seed, step))
            return self.model.loss(latents, batch)

    def grid(self, model: nn.Module) -> Image.Image:
        """What the VAE's decoder makes of what the critic is shown."""
        latents = worsened(self._seen(7, 16, held_out=True)["latents"].float(), torch.Generator().manual_seed(0))
        return tile(self._vae.decode(latents), 16)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes `critic/`."""
        save_bf16(model, folder / "critic")


def worsened(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (B, C, h, w) as training shows them to the critic: half of them blurred by up to 0.6, all times 0.8 to
    1.2, with noise of up to NOISE."""

    def degree() -> Tensor:
        return torch.rand(len(latents), 1, 1, 1, generator=generator).to(latents.device)

    blurred = F.avg_pool2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3, 1)
    latents = torch.lerp(latents, blurred, (1.2 * degree() - 0.6).clamp_min(0)) * (0.8 + 0.4 * degree())
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    return latents + NOISE * degree() * noise
