"""The flow path, its schedule, tokens and their positions, and the loop that walks from noise to picture.

Rectified flow: x_t = (1 - t) x_0 + t noise, velocity = noise - x_0, t from 1 (noise) to 0 (picture). The training
objective (training/objective.py) uses the same path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BASE_TOKENS, BASE_MU = 256, 0.5  # FLUX: mu grows linearly with the number of image tokens,
MAX_TOKENS, MAX_MU = 4096, 1.15  # from 0.5 at 256 tokens to 1.15 at 4096


def shift_for(tokens: int) -> float:
    """FLUX's shift mu for a picture of so many tokens."""
    return BASE_MU + (MAX_MU - BASE_MU) / (MAX_TOKENS - BASE_TOKENS) * (tokens - BASE_TOKENS)


def shifted(t: Tensor, mu: float) -> Tensor:
    """The exponential time shift e^mu / (e^mu + 1/t - 1); mu = 0 changes nothing."""
    return math.exp(mu) / (math.exp(mu) + 1 / t - 1)


def noisier(t: float, times: float) -> float:
    """The time at which the noise beside the signal is `times` as much as at `t`; `t` and the answer in [0, 1]."""
    return t * times / (t * times + 1 - t)


def schedule(steps: int, mu: float) -> list[float]:
    """The N + 1 times of a generation of N steps: from 1 to 1/N in equal parts, shifted, then 0."""
    return [*shifted(torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64), mu).tolist(), 0.0]


def pack(latent: Tensor) -> Tensor:
    """Latents (B, C, H, W) to tokens (B, H/2 * W/2, 4 C), each a 2 x 2 patch, as FLUX packs them."""
    b, c, h, w = latent.shape
    return latent.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h // 2 * (w // 2), 4 * c)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, N, 4 C) back to latents (B, C, H, W); `height` and `width` are the latent's."""
    b, _, c = tokens.shape
    grid = tokens.view(b, height // 2, width // 2, c // 4, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, height, width)


def grid_ids(height: int, width: int, index: int = 0, top: int = 0, left: int = 0) -> Tensor:
    """Position ids (H * W, 3) of a grid of tokens: (index, row, column), row by row."""
    ids = torch.zeros(height, width, 3)
    ids[..., 0] = index
    ids[..., 1] = (torch.arange(height) + top)[:, None]
    ids[..., 2] = (torch.arange(width) + left)[None]
    return ids.view(-1, 3)


def draw_noise(seed: int, tokens: int, channels: int) -> Iterator[Tensor]:
    """Noise (1, N, 4 C) without end, first the starting point, then that of each step's end where it is drawn anew;
    drawn on the CPU in fp32, so a seed means the same everywhere. Of a seed torch takes the lower 32 bits."""
    generator = torch.Generator("cpu").manual_seed(seed)
    while True:
        yield torch.randn(1, tokens, channels, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One step. `index` counts from 0; `t` is where the step began; `img` (B, N, C) is where it arrived;
    `x0` (B, N, C) is the picture as foreseen from there."""

    index: int
    t: float
    img: Tensor
    x0: Tensor


Velocity = Callable[[Tensor, int, float], tuple[Tensor, Tensor]]  # (img, index, t) -> twice (B, N, C), see denoise


def denoise(
    img: Tensor,
    times: list[float],
    velocity: Velocity,
    start: int = 0,
    fresh: Iterator[Tensor | None] | None = None,
    eta: float = 1.0,
) -> Iterator[Moved]:
    """Euler's method along `times`; `velocity` gives what each step follows, and what foresees the picture: the same,
    but without guidance, which would exaggerate what is not yet decided. Starts at step `start` with `img` as it was
    there.

    `fresh` gives each step noise (B, N, C) or None. With noise it goes all the way to the picture, and back with what
    it takes for the noise there, of which `eta` in [0, 1] is drawn anew: what went wrong before is lost and drawn
    again. At 1 it is the `stochastic_sampling` of diffusers' FlowMatchEulerDiscreteScheduler."""
    for index in range(start, len(times) - 1):
        t, after = times[index], times[index + 1]
        v, calm = velocity(img, index, t)
        x0 = img - t * calm.float()
        new = next(fresh) if fresh else None
        if new is None:
            img = img + (after - t) * v.float()
        else:
            picture, noise = img - t * v.float(), img + (1 - t) * v.float()
            img = (1 - after) * picture + after * (math.sqrt(1 - eta**2) * noise + eta * new.to(img.device))
        yield Moved(index=index, t=t, img=img, x0=x0)
