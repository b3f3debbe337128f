"""Weights of token groups inside attention; nothing else in the project touches attention.

A weight w adds log w to the attention logits of a group's keys, so a group with softmax mass m gets
w m / (1 - m + w m). w = 1 adds nothing; w = 0 means the group's tokens are not passed at all (see dit.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, LongCatImageTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.models.transformers.transformer_longcat_image import LongCatImageAttnProcessor
from torch import Tensor, nn

from .kernels import lse_kernel

Groups = Sequence[tuple[int, float]]  # (token count, weight) in key order


def group_bias(groups: Groups, device: torch.device | str = "cpu") -> Tensor:
    """The bias (1, 1, 1, L) over keys for groups of (token count, weight) in key order."""
    parts = [torch.full((count,), math.log(weight)) for count, weight in groups]
    return torch.cat(parts).view(1, 1, 1, -1).to(device)


def padding_bias(valid: Tensor, keys: int) -> Tensor:
    """The bias (B, 1, 1, L) that hides padded text tokens: `valid` (B, T) bool, then `keys` - T keys always seen."""
    bias = torch.zeros(len(valid), keys, device=valid.device)
    bias[:, : valid.shape[1]].masked_fill_(~valid, float("-inf"))
    return bias[:, None, None]


def even(groups: Groups) -> bool:
    """Whether every group that has tokens weighs 1, so that attention needs nothing of ours."""
    return all(weight == 1 for count, weight in groups if count)


@dataclass(frozen=True, kw_only=True)
class Attended:
    """`out` (B, S, H, D); `mass` (B, H, S, G), each group's share of every query's softmax, the weights included, which
    sums to 1; None where it was not asked for."""

    out: Tensor
    mass: Tensor | None


def weighted_attention(
    q: Tensor, k: Tensor, v: Tensor, groups: Groups, *, merge: bool | None = None, mass: bool = False
) -> Attended:
    """Attention of q (B, S, H, D) over k, v (B, L, H, D) whose keys carry the weights of `groups`, which cover them.

    Two ways to the same result: a mask over the keys, or attention per group with its log-sum-exp, log w added, merged
    as flash attention merges its blocks. `merge` picks one; None takes the cheaper: a dense mask rules out the fast
    kernels of a GPU, several small attentions are slow on a CPU. The mass needs the groups apart and so always merges.
    """
    if sum(count for count, _ in groups) != k.shape[1]:
        raise ValueError(f"groups {list(groups)} must cover the {k.shape[1]} keys")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if not mass and not (q.is_cuda if merge is None else merge):
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=_mask(tuple(groups), q.device, q.dtype))
        return Attended(out=out.transpose(1, 2), mass=None)
    groups = list(groups) if mass else _joined(groups)
    attend = lse_kernel(q.device, q.dtype, q.shape[-1])
    outs, logits, start = [], [], 0
    for count, weight in groups:
        keys = slice(start, start + count)
        start += count
        if count:  # the kernels cannot attend to nothing
            out, lse = attend(q, k[:, :, keys], v[:, :, keys])
            outs.append(out)
            logits.append(lse + math.log(weight))
    share = torch.stack(logits, -1).softmax(-1)
    merged = sum(out * share[..., i, None] for i, out in enumerate(outs))
    return Attended(out=merged.to(q.dtype).transpose(1, 2), mass=_with_empty(share, groups) if mass else None)


@lru_cache(maxsize=16)
def _mask(groups: tuple[tuple[int, float], ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The bias of `groups`, the same for all layers and steps: to a card it is a transfer that everything waits for."""
    with torch.inference_mode(False):  # it outlives the run that asks for it first
        return group_bias(groups, device).to(dtype)


def _joined(groups: Groups) -> list[tuple[int, float]]:
    """Neighbours of equal weight as one group: fewer calls, the same result."""
    joined: list[tuple[int, float]] = []
    for count, weight in groups:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + count, weight)
        else:
            joined.append((count, weight))
    return joined


def _with_empty(share: Tensor, groups: Groups) -> Tensor:
    """Shares of the groups that have tokens, with zeros in the place of those that have none."""
    full = share.new_zeros(*share.shape[:-1], len(groups))
    full[..., [i for i, (count, _) in enumerate(groups) if count]] = share
    return full


class Weighing:
    """What the attention of one transformer's forward weighs, shared by its processors: `groups`, or a `mask` over the
    keys (B, 1, 1, L). Not thread-local: torch.compile was seen to keep the first value of such an object."""

    def __init__(self) -> None:
        self.groups: Groups | None = None
        self.uneven = False  # whether there are groups: of these torch.compile would note how many
        self.mask: Tensor | None = None
        self.merge: bool | None = None  # see weighted_attention

    @contextmanager
    def __call__(self, groups: Groups | None = None, mask: Tensor | None = None) -> Iterator[None]:
        """Weights the forwards inside the block. Groups that all weigh 1 cost nothing; a mask rules the groups."""
        if groups is not None and mask is None and not even(groups):
            self.groups = tuple((count, weight) for count, weight in groups if count)
        self.uneven, self.mask = self.groups is not None, mask
        before = UNDER_WAY.set(self)
        try:
            yield
        finally:
            UNDER_WAY.reset(before)
            self.groups, self.uneven, self.mask = None, False, None

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What q attends to by the groups (B, S, H D); q, k, v as for `weighted_attention`."""
        if torch.compiler.is_compiling():
            return _attention(q, k, v)
        return weighted_attention(q, k, v, self.groups or (), merge=self.merge).out.flatten(2)


UNDER_WAY: ContextVar[Weighing] = ContextVar("weighing")


@torch.library.custom_op("squeeze::weighted_attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One operation for torch.compile, which so leaves a block whole and notes nothing of the groups."""
    return UNDER_WAY.get().attention(q, k, v).contiguous()


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1], q.shape[2] * q.shape[3])


class _Weighed:
    """An attention processor of diffusers that asks a `Weighing`; without weights it is diffusers' own, backend and
    all."""

    def __init__(self, weighing: Weighing) -> None:
        super().__init__()
        self.weighing = weighing

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        if not self.weighing.uneven:
            mask = self.weighing.mask
            mask = attention_mask if mask is None else mask.to(hidden_states)
            return super().__call__(attn, hidden_states, encoder_hidden_states, mask, image_rotary_emb)
        q, k, v = _projected(attn, hidden_states, encoder_hidden_states)
        if image_rotary_emb is not None:
            q, k = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        out = self.weighing.attention(q, k, v).to(q.dtype)
        if encoder_hidden_states is None:
            return out
        text = encoder_hidden_states.shape[1]
        picture = attn.to_out[1](attn.to_out[0](out[:, text:].contiguous()))
        return picture, attn.to_add_out(out[:, :text].contiguous())


def _projected(attn: Any, picture: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised queries and keys, and values (B, S, H, D), of the text's tokens first where they come apart."""
    q, k, v = (to(picture).unflatten(-1, (attn.heads, -1)) for to in (attn.to_q, attn.to_k, attn.to_v))
    q, k = attn.norm_q(q), attn.norm_k(k)
    if text is None:
        return q, k, v
    added = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    text_q, text_k, text_v = (to(text).unflatten(-1, (attn.heads, -1)) for to in added)
    text_q, text_k = attn.norm_added_q(text_q), attn.norm_added_k(text_k)
    return torch.cat([text_q, q], 1), torch.cat([text_k, k], 1), torch.cat([text_v, v], 1)


class FluxWeighed(_Weighed, FluxAttnProcessor):
    """FLUX's attention with weights."""


class LongCatWeighed(_Weighed, LongCatImageAttnProcessor):
    """LongCat's attention with weights."""


PROCESSORS = {FluxTransformer2DModel: FluxWeighed, LongCatImageTransformer2DModel: LongCatWeighed}


def install(model: nn.Module) -> Weighing:
    """Gives every attention of a transformer a processor that listens to the returned `Weighing`."""
    kind = next((kind for base, kind in PROCESSORS.items() if isinstance(model, base)), None)
    if kind is None:
        raise ValueError(
            f"no attention processor for {type(model).__name__}, only for {[k.__name__ for k in PROCESSORS]}"
        )
    weighing = Weighing()
    model.set_attn_processor({name: kind(weighing) for name in model.attn_processors})
    return weighing
