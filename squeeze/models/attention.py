"""Weights of token groups inside attention; nothing else in the project touches attention.

A weight w adds log w to the attention logits of a group's keys, so a group with softmax mass m gets
w m / (1 - m + w m). w = 1 adds nothing; w = 0 means the group's tokens are not passed at all (see dit.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def group_bias(groups: list[tuple[int, float]], device: torch.device | str = "cpu") -> Tensor | None:
    """The bias (1, 1, 1, L) over keys for groups of (token count, weight) in key order; None if every weight is 1."""
    if all(weight == 1 for count, weight in groups if count):
        return None
    return forced_bias(groups, device)


def forced_bias(groups: list[tuple[int, float]], device: torch.device | str = "cpu") -> Tensor:
    """Like `group_bias`, but a tensor in any case; zeros where every weight is 1."""
    parts = [torch.full((count,), math.log(weight)) for count, weight in groups]
    return torch.cat(parts).view(1, 1, 1, -1).to(device)


def padding_bias(valid: Tensor, keys: int) -> Tensor:
    """The bias (B, 1, 1, L) that hides padded text tokens: `valid` (B, T) bool, then `keys` - T keys always seen."""
    bias = torch.zeros(len(valid), keys, device=valid.device)
    bias[:, : valid.shape[1]].masked_fill_(~valid, float("-inf"))
    return bias[:, None, None]
