"""Reads the embedded world's attributes from any picture: the measuring instrument of the evaluator.

A small convolutional network, trained on renders alone. It takes no part in training the generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..images import moved
from ..models.framing import Block
from .language import ANSWERS
from .world import PROPORTIONS

HEADS: dict[str, int] = {name: len(ANSWERS[name]) for name in ANSWERS if name != "facing"}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the probe sees. `index` and `confidence` (B,) for each attribute; `azimuth` (B,) in degrees [0, 360);
    `proportions` (B, 4) in [0, 1], see world.PROPORTIONS."""

    index: dict[str, Tensor]
    confidence: dict[str, Tensor]
    azimuth: Tensor
    proportions: Tensor


class Probe(ModelMixin, ConfigMixin):
    """Pictures (B, 3, size, size) in [-1, 1] to logits for each attribute, a facing direction (B, 2) and proportions
    (B, 4); every `fold` x `fold` pixels are seen as one of more channels, so that fine lines tell at little cost."""

    @register_to_config
    def __init__(self, size: int = 128, fold: int = 2, widths: tuple[int, ...] = (32, 64, 128, 192)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3 * fold**2, widths[0], 3, 1, 1)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip((widths[0], *widths), widths, strict=False)))
        side = size // fold // 2 ** len(widths)
        self.neck = nn.Linear(widths[-1] * side * side, 256)
        self.heads = nn.ModuleDict({name: nn.Linear(256, count) for name, count in HEADS.items()})
        self.direction = nn.Linear(256, 2)
        self.proportions = nn.Linear(256, len(PROPORTIONS))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) for each attribute, `direction` (B, 2), unnormalised (sin, cos) of the azimuth, and
        `proportions` (B, 4)."""
        return self.judge(self.coarse(pixels))

    def coarse(self, pixels: Tensor) -> Tensor:
        """Features (B, widths[1], H / 4 / fold, W / 4 / fold), where things still have their places."""
        return self.blocks[:2](F.relu(self.stem(F.pixel_unshuffle(pixels, self.config["fold"]))))

    def judge(self, coarse: Tensor) -> dict[str, Tensor]:
        """The rest of `forward`."""
        features = F.relu(self.neck(self.blocks[2:](coarse).flatten(1)))
        told = {name: head(features) for name, head in self.heads.items()}
        return told | {"direction": self.direction(features), "proportions": self.proportions(features)}

    @torch.inference_mode()
    def read(self, pixels: Tensor) -> Reading:
        """Reads pictures (B, 3, H, W) in [-1, 1], of any size; each together with its mirror image, which shows the
        same toy and scene, turned the other way."""
        seen = at_size(pixels, self.config["size"]).to(self.dtype)
        out = {name: both.float().chunk(2) for name, both in self(torch.cat([seen, seen.flip(-1)])).items()}
        proportions = torch.stack(out.pop("proportions")).mean(0).clamp(0, 1)
        plain, mirrored = out.pop("direction")
        sin, cos = (plain + mirrored * mirrored.new_tensor([-1, 1])).unbind(-1)
        best = {name: ((a.softmax(-1) + b.softmax(-1)) / 2).max(-1) for name, (a, b) in out.items()}
        return Reading(
            index={name: value.indices for name, value in best.items()},
            confidence={name: value.values for name, value in best.items()},
            azimuth=torch.atan2(sin, cos) * 180 / math.pi % 360,
            proportions=proportions,
        )


def at_size(pixels: Tensor, size: int) -> Tensor:
    """Pictures (B, 3, H, W) brought to (B, 3, size, size), as the probe is shown all."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


def probe_loss(out: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Cross-entropy over what is asked (truth >= 0), and the same for the facing, unless its azimuth is NaN: the
    direction's length is the concentration of a von Mises distribution round it, so that small errors still count once
    it is sure; a scalar."""
    asked = truth["azimuth"].isfinite()
    radians = truth["azimuth"].nan_to_num() * math.pi / 180
    target = torch.stack([radians.sin(), radians.cos()], -1)
    direction = out["direction"].float()
    sure = direction.norm(dim=-1)
    missed = torch.special.i0e(sure).log() + sure - (direction * target).sum(-1)
    loss = (missed * asked).sum() / asked.sum().clamp_min(1)
    for name in HEADS:
        wrong = F.cross_entropy(out[name].float(), truth[name], ignore_index=-1, label_smoothing=0.02, reduction="sum")
        loss = loss + wrong / (truth[name] >= 0).sum().clamp_min(1)  # nothing asked, nothing to learn
    return loss


def build_loss(out: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """The squared error of the `proportions` (B, 4), as a share of a blind guess's; a scalar."""
    return 12 * F.mse_loss(out["proportions"].float(), truth["proportions"])  # 1/12 is the variance in [0, 1]


def degrees_between(a: Tensor, b: Tensor) -> Tensor:
    """The angle between two directions in degrees, in [0, 180]."""
    return ((a - b + 180) % 360 - 180).abs()


def augment(pixels: Tensor, cells: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shifts, blurs, dims and roughens pictures (B, 3, H, W) in [-1, 1], as generation and decoding may, and shows a
    quarter of them as pictures of half the size are shown; `cells` (B, C, h, w), what is where in them, are shifted
    along."""
    batch = len(pixels)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(pixels.device)

    scale = 0.92 + 0.16 * rand(batch)
    theta = torch.zeros(batch, 2, 3, device=pixels.device)
    theta[:, 0, 0], theta[:, 1, 1] = scale, scale
    theta[:, :, 2] = (rand(batch, 2) - 0.5) * 0.16
    pixels, cells = moved(pixels, theta), moved(cells, theta)
    halved = at_size(F.avg_pool2d(pixels, 2), pixels.shape[-1])
    pixels = torch.where(rand(batch, 1, 1, 1) < 0.25, halved, pixels)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="reflect"), 3, 1)
    pixels = pixels + (blurred - pixels) * (rand(batch, 1, 1, 1) * 1.6 - 0.6).clamp_min(0)
    pixels = pixels * (0.9 + 0.2 * rand(batch, 1, 1, 1)) + 0.1 * (rand(batch, 3, 1, 1) - 0.5)
    noise = torch.randn(pixels.shape, generator=generator).to(pixels.device)
    return (pixels + noise * 0.06 * rand(batch, 1, 1, 1)).clamp(-1, 1), cells
