"""Rectified flow with condition dropout: the loss whose path and conventions the sampler shares.

x_t = (1 - t) x_0 + t noise; the target is noise - x_0; t is logit-normal, shifted as in sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..sampling import shifted


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Which conditions one training step keeps: the MLLM tokens, the text among them, the VAE tokens."""

    mllm: bool
    text: bool
    vae: bool


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """How often conditions are dropped: the MLLM's or the VAE's tokens by themselves with `each`, both with `both`, the
    prompt alone with `prompt`."""

    each: tuple[float, float] = (0.15, 0.15)
    both: float = 0.1
    prompt: float = 0.1


def draw_kept(phase: int, generator: torch.Generator, dropout: Dropout) -> Kept:
    """Phase 1 knows MLLM tokens only; phase 2 both. A dropped condition drops its whole group."""
    mllm, vae, both, prompt = torch.rand(4, generator=generator).tolist()
    keep_any = both >= dropout.both
    if phase == 1:
        return Kept(mllm=keep_any, text=prompt >= dropout.prompt, vae=False)
    return Kept(
        mllm=keep_any and mllm >= dropout.each[0],
        text=prompt >= dropout.prompt,
        vae=keep_any and vae >= dropout.each[1],
    )


def draw_times(count: int, mu: float, generator: torch.Generator) -> Tensor:
    """t (B,) in (0, 1): the sigmoid of a standard normal, then the sampler's shift."""
    return shifted(torch.sigmoid(torch.randn(count, generator=generator, device=generator.device)), mu)


def interpolate(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point of the straight path from picture (t = 0) to noise (t = 1); x0 and noise (B, N, C), t (B,)."""
    t = t[:, None, None]
    return (1 - t) * x0 + t * noise


def flow_loss(velocity: Tensor, x0: Tensor, noise: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Mean squared error against noise - x0, each number counted `weight` times (a Tensor (B, N, C)); a scalar."""
    weight = torch.as_tensor(weight, device=x0.device)
    return (weight * (velocity.float() - (noise - x0)) ** 2).mean() / weight.mean()
