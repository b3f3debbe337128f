"""Modulation hoisting: what depends on time, pooled vector and guidance alone is computed once for a whole schedule.

Every AdaLN output of these transformers is a linear map of one embedded vector (t, vec, guidance), yet its weights are
a quarter of FLUX. `hoist` takes them out: they wait in host memory, pass over the device once when `prepare` computes
the rows of a schedule, and the forward looks its rows up. The embedder itself stays on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from torch import Tensor, nn


class Hoisted(nn.Module):
    """A modulation whose linear layer has become a table (rows, chunks * width), of which `found` (B, chunks * width)
    are the rows of the forward that is under way: of a table torch.compile would note the length."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.norm = original.norm
        for name in ("table", "found"):
            self.register_buffer(name, torch.empty(0), persistent=False)


class HoistedZero(Hoisted):
    """In the place of AdaLayerNormZero."""

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, ...]:
        shift, scale, *others = self.found.chunk(6, 1)
        gate, shift_mlp, scale_mlp, gate_mlp = others
        return self.norm(x) * (1 + scale[:, None]) + shift[:, None], gate, shift_mlp, scale_mlp, gate_mlp


class HoistedSingle(Hoisted):
    """In the place of AdaLayerNormZeroSingle."""

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, gate = self.found.chunk(3, 1)
        return self.norm(x) * (1 + scale[:, None]) + shift[:, None], gate


class HoistedContinuous(Hoisted):
    """In the place of AdaLayerNormContinuous."""

    def forward(self, x: Tensor, conditioning_embedding: Tensor) -> Tensor:
        scale, shift = self.found.chunk(2, 1)
        return self.norm(x) * (1 + scale[:, None]) + shift[:, None]


KINDS = {
    AdaLayerNormZero: HoistedZero,
    AdaLayerNormZeroSingle: HoistedSingle,
    AdaLayerNormContinuous: HoistedContinuous,
}


@dataclass(frozen=True, kw_only=True)
class HoistedBytes:
    """Bytes of the `weights` that left the device and of the `table` of the present schedule that stands for them."""

    weights: int
    table: int


class Hoisting:
    """The hoisted modulations of one transformer, made by `hoist`."""

    def __init__(self, model: Any) -> None:
        self.model, self._keys = model, torch.empty(0, 0)
        self._linears: list[tuple[Hoisted, Tensor, Tensor]] = []
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) in KINDS:
                    hoisted = KINDS[type(child)](child)
                    weights = [part.detach().cpu() for part in (child.linear.weight, child.linear.bias)]
                    self._linears.append((hoisted, *weights))
                    setattr(parent, name, hoisted)
        self._embedder = model.time_text_embed if hasattr(model, "time_text_embed") else model.time_embed
        self._embedder.register_forward_pre_hook(self._find)

    def bytes(self) -> HoistedBytes:
        """What was saved and what it costs."""
        return HoistedBytes(
            weights=sum(part.nbytes for _, *parts in self._linears for part in parts),
            table=sum(hoisted.table.nbytes for hoisted, *_ in self._linears),
        )

    @torch.no_grad()
    def prepare(self, times: Sequence[float], vecs: Sequence[Tensor] = (), guidance: float = 1.0) -> None:
        """Computes the rows of every time with every pooled vector (1, P), none for a model that takes none.

        All weights pass over the device once, one layer at a time; nothing is done where these rows are there already.
        """
        device = next(self._embedder.parameters()).device
        inputs = self._inputs(times, vecs, guidance, device)
        keys = _key(inputs)
        if keys.shape == self._keys.shape and torch.equal(keys, self._keys.to(device)):
            return
        self._keys = torch.empty(0, 0)  # in case of an error below there must be no row rather than a wrong one
        embedded = F.silu(self._embedder.forward(*inputs))
        for hoisted, weight, bias in self._linears:
            hoisted.table = F.linear(embedded, weight.to(device), bias.to(device))
        self._keys = keys

    def _inputs(
        self, times: Sequence[float], vecs: Sequence[Tensor], guidance: float, device: torch.device
    ) -> list[Any]:
        """The embedder's arguments for all pairs of times and vectors, cast as the model's forward casts them."""
        dtype, pooled = self.model.dtype, self._embedder is getattr(self.model, "time_text_embed", None)
        repeats = len(vecs) if pooled else 1
        time = torch.tensor(times, dtype=torch.float32, device=device).to(dtype).repeat_interleave(repeats) * 1000
        if not pooled:
            return [time, dtype]
        vec = torch.cat([vec.to(device, dtype) for vec in vecs]).repeat(len(times), 1)
        if not self.model.config.guidance_embeds:
            return [time, vec]
        embedded = torch.full((len(time),), guidance, dtype=torch.float32, device=device).to(dtype) * 1000
        return [time, embedded, vec]

    def _find(self, _embedder: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Finds the rows of a forward by the content of what its embedder is given."""
        wanted = _key(inputs)
        keys = self._keys.to(wanted.device)
        if keys.shape[1:] != wanted.shape[1:]:
            keys = wanted[:0]
        equal = (wanted[:, None] == keys).all(-1)
        if not bool(equal.any(1).all()):
            times = ", ".join(f"{time:g}" for time in (wanted[:, 0] / 1000).tolist())
            raise LookupError(
                f"no modulation row for t = {times} with this pooled vector and guidance among the {len(keys)} rows "
                f"there are; call prepare with the times and vectors of the schedule first"
            )
        rows = equal.int().argmax(1)
        for hoisted, *_ in self._linears:
            hoisted.found = hoisted.table.index_select(0, rows)


def hoist(model: Any) -> Hoisting:
    """Replaces the modulations of a FLUX or LongCat transformer in host memory; only what remains in it then has to go
    to a device. Adapters are merged before; a hoisted transformer cannot be saved."""
    return Hoisting(model)


def is_modulation(name: str) -> bool:
    """Whether a weight of a transformer's checkpoint belongs to a layer that `hoist` takes out."""
    *_, module, layer, _ = ("", "", *name.split("."))
    return layer == "linear" and module in ("norm", "norm1", "norm1_context", "norm_out")


def _key(inputs: Sequence[Any]) -> Tensor:
    """The embedder's tensors side by side, one row per sample (B, K)."""
    return torch.cat([part.float().reshape(len(part), -1) for part in inputs if isinstance(part, Tensor)], 1)
