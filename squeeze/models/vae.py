"""The autoencoder with its scale and shift, and the fitted map that turns latents into previews."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Vae:
    """An AutoencoderKL; pictures (B, 3, H, W) in [-1, 1], latents (B, C, H / factor, W / factor) of unit scale."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.factor = 2 ** (len(model.config.block_out_channels) - 1)
        self.channels = model.config.latent_channels
        self._shift, self._scale = model.config.shift_factor or 0.0, model.config.scaling_factor

    def encode(self, pixels: Tensor) -> Tensor:
        """The mean latent, shifted and scaled; nothing is sampled."""
        latent = self.model.encode(pixels.to(self.model.device, self.model.dtype)).latent_dist.mode()
        return (latent.float() - self._shift) * self._scale

    def decode(self, latent: Tensor) -> Tensor:
        """The picture, float32, clamped to [-1, 1]."""
        latent = latent / self._scale + self._shift
        return self.model.decode(latent.to(self.model.device, self.model.dtype)).sample.float().clamp(-1, 1)

    def restored(self, pixels: Tensor) -> Tensor:
        """Pictures after the round trip through the latents."""
        with torch.inference_mode():
            return self.decode(self.encode(pixels)).clone()


class PreviewMap(nn.Module):
    """A linear map from a latent's neighbourhoods to patches of pixels, fitted by least squares; where it was trained
    further, with a small network beside it that sees what no linear map can.

    `weight` (3 p^2, C, k, k) and `bias` (3 p^2,): each latent position becomes a patch of p x p pixels. `hidden` are
    the network's channels, 0 = none; at first it adds nothing.
    """

    def __init__(self, weight: Tensor, bias: Tensor, hidden: int = 0) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(fitted, requires_grad=False) for fitted in (weight, bias))
        widths = [weight.shape[1], hidden, hidden, weight.shape[0]]
        self.network = _convolutions(widths) if hidden else None

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> PreviewMap:
        """From what `state_dict` gave. Raises KeyError or RuntimeError where it is no preview map's."""
        hidden = len(state["network.0.bias"]) if "network.0.bias" in state else 0
        made = cls(state["weight"], state["bias"], hidden)
        made.load_state_dict(state)
        return made

    def forward(self, latent: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, h p, w p) in [-1, 1]."""
        return self.unclamped(latent).clamp(-1, 1)

    def unclamped(self, latent: Tensor) -> Tensor:
        """As `forward`, with values of any size."""
        kernel = self.weight.shape[-1]
        patch = int((self.weight.shape[0] // 3) ** 0.5)
        latent = latent.to(self.weight)
        out = F.conv2d(F.pad(latent, (kernel // 2,) * 4, mode="replicate"), self.weight, self.bias)
        if self.network is not None:
            out = out + self.network(latent)
        return F.pixel_shuffle(out, patch)


def _convolutions(widths: list[int]) -> nn.Sequential:
    """3 x 3 convolutions between so many channels, with SiLU between them; the last one gives 0 at first."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1, padding_mode="replicate"), nn.SiLU()]
    nn.init.zeros_(layers[-2].weight)
    nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers[:-1])


def fit_preview(latents: Tensor, pixels: Tensor, kernel: int = 3, patch: int = 8) -> PreviewMap:
    """The least-squares map from latents (B, C, h, w) to pictures (B, 3, H, W) in [-1, 1], seen at h * patch pixels."""
    size = (latents.shape[-2] * patch, latents.shape[-1] * patch)
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="area")
    channels = latents.shape[1]
    padded = F.pad(latents, (kernel // 2,) * 4, mode="replicate")
    inputs = F.unfold(padded, kernel).transpose(1, 2).flatten(0, 1).double()
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    wanted = F.pixel_unshuffle(pixels, patch).flatten(2).transpose(1, 2).flatten(0, 1).double()
    ridge = 1e-3 * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64, device=inputs.device)
    solved = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ wanted).T.float()
    return PreviewMap(solved[:, :-1].reshape(-1, channels, kernel, kernel).contiguous(), solved[:, -1].contiguous())


def fitted_preview(vae: Vae, pictures: int = 16, side: int = 256) -> PreviewMap:
    """A preview map for a VAE that came without one: fitted to drawn pictures, the same at every start."""
    pixels = drawn(pictures, side, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        latents = torch.cat([vae.encode(one).cpu() for one in pixels.split(4)])
    return fit_preview(latents.clone(), pixels, patch=vae.factor)


def drawn(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, side, side) in [-1, 1]: smooth colours parted by straight edges, with fine grain."""
    coarse = torch.rand(2, count, 3, 4, 4, generator=generator).flatten(0, 1) * 2.4 - 1.2
    fields = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True).unflatten(0, (2, count))
    across = torch.linspace(-1, 1, side)
    angle = torch.rand(count, 1, 1, generator=generator) * math.pi
    where = torch.rand(count, 1, 1, generator=generator) - 0.5
    beyond = (across[None, None] * angle.cos() + across[None, :, None] * angle.sin() > where)[:, None]
    grain = 0.03 * torch.randn(count, 3, side, side, generator=generator)
    return (torch.where(beyond, fields[0], fields[1]) + grain).clamp(-1, 1)
