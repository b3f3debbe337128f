"""Which attention kernels work here: those of torch that give the log-sum-exp, and the fastest backend of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import attention_backend
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from huggingface_hub.constants import HF_HUB_CACHE
from torch import Tensor, nn

from .failures import trouble

# q (B, H, S, D), k and v (B, H, L, D) to the mixed values (B, H, S, D) and the log-sum-exp of the logits (B, H, S)
Kernel = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    parts = (x.contiguous() for x in (q, k, v))  # it reads strided tensors wrongly
    out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(*parts, None, True)[:2]
    return out, lse.reshape(q.shape[:3])


def _flash(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]


def _efficient(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
    return out, lse[..., : q.shape[2]]  # padded to whole blocks of queries


def _on_cpu(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)


def _plain(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    logits = (q.float() @ k.float().transpose(-1, -2)) * q.shape[-1] ** -0.5
    return logits.softmax(-1) @ v.float(), logits.logsumexp(-1)


@lru_cache
def lse_kernel(device: torch.device, dtype: torch.dtype, width: int) -> Kernel:
    """The fastest that works here for heads of `width`; each is tried on a few numbers and held against the plain
    formula, since which of them a card, a driver and a dtype can do is written nowhere."""
    if device.type == "cpu":
        return _on_cpu
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    sample = torch.randn(3, 1, 2, 128, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    q, k, v = sample[0], sample[1, :, :, :72], sample[2, :, :, :72]
    expected = _plain(q, k, v)
    for kernel in (_cudnn, _flash, _efficient) if hopper else (_flash, _efficient):
        try:
            found = kernel(q, k, v)
            near = [(a.float() - b).abs().max().item() < 0.05 for a, b in zip(found, expected, strict=True)]
        except (RuntimeError, NotImplementedError) as error:
            if trouble(error) == "memory":  # which is of this moment; the choice is for as long as the server runs
                raise
            continue
        if all(near):
            return kernel
    return _plain


def pick_backend(model: nn.Module, device: torch.device) -> str:
    """Sets the fastest attention backend of diffusers that works on `device`, and gives its name.

    On Hopper FlashAttention-3, if its package is on this machine, or one of its kernels from the hub, which may then be
    fetched in the version that fits; cuDNN on Hopper and later; else
    torch's own choice ("native"). Each is tried on heads of the model's width, and taken if it mixes as torch's does.
    """
    sample = torch.randn(3, 1, 128, 2, model.config.attention_head_dim, generator=torch.Generator().manual_seed(0))
    q, k, v = sample.to(device, model.dtype)
    expected = dispatch_attention_fn(q, k, v)
    for name in _candidates(device):
        try:
            with attention_backend(name):
                apart = (dispatch_attention_fn(q, k, v) - expected).abs().max().item()
        except Exception as error:  # packages, kernels and drivers fail in ways of their own; native always works
            if trouble(error) == "memory":
                raise
            continue
        if not apart < 0.05:
            continue
        for processor in model.attn_processors.values():
            processor._attention_backend = AttentionBackendName(name)
        return name
    return "native"


def _candidates(device: torch.device) -> list[str]:
    if device.type != "cuda":
        return []
    capability = torch.cuda.get_device_capability(device)
    names = []
    if capability[0] == 9:
        names.append("_flash_3")
        if any(Path(HF_HUB_CACHE).glob("*--kernels-community--flash-attn3")):
            names.append("_flash_3_hub")
    return [*names, "_native_cudnn"] if capability[0] >= 9 else names
