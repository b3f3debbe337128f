"""Dual Layer Aggregation: pools the hidden states of every MLLM layer into conditioning tokens for the DiT.

Layerwise Attention Pooling (LAP) after UniFusion (arXiv 2510.12789); two of them, one for image and one for text
tokens, make the Dual Layer Aggregation of arXiv 2605.26111.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

MODES = ("last_layer", "last_layer_blend_vit", "single_lap", "dla")


@dataclass(frozen=True, kw_only=True)
class Aggregated:
    """`txt` (B, T, text_width), picture tokens first; `image` (T,) bool marks them; `vec` (B, pooled_width)."""

    txt: Tensor
    image: Tensor
    vec: Tensor


class Native(nn.Module):
    """No aggregation: the MLLM's last state goes to the DiT as it is, for a DiT that was trained so. No weights, and no
    pooled vector."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("null_vec", torch.zeros(1, 0))

    def forward(self, hidden: Tensor, image: Tensor, vision: Tensor | None = None) -> Aggregated:
        """As Aggregation.forward; `txt` has the MLLM's width."""
        last = hidden[:, :, -1].clone()  # a view would keep all the layers, which a cache does not count
        return Aggregated(txt=last, image=image, vec=self.null_vec.expand(len(hidden), -1))


class Block(nn.Module):
    """A pre-norm transformer block with QK-norm and a gated MLP over sequences (B, S, width); `valid` (B, S) hides
    padding."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads, hidden = heads, int(width * mlp_ratio)
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.norm_q = nn.RMSNorm(width // heads, eps=1e-6)
        self.norm_k = nn.RMSNorm(width // heads, eps=1e-6)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate_up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        q, k, v = self.to_qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        norm = self.norm_q.weight.dtype
        q, k = self.norm_q(q.to(norm)).to(v.dtype), self.norm_k(k.to(norm)).to(v.dtype)
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if valid is not None:
            logits = logits.masked_fill(~valid[:, None, None], float("-inf"))
        mixed = logits.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
        x = x + self.to_out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class LayerPool(nn.Module):
    """Layerwise Attention Pooling: hidden states (B, L, M+1, D) to (B, L, D), each token by itself.

    Every layer is normalised by itself, told apart by a learned embedding, mixed by two transformer blocks over the
    layer axis, and summed by a linear map that starts at the mean.
    """

    def __init__(self, layers: int, width: int, heads: int, mlp_ratio: float, depth: int = 2) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(layers, width))
        self.layer_embedding = nn.Parameter(torch.randn(layers, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.pool = nn.Linear(layers, 1, bias=False)
        nn.init.constant_(self.pool.weight, 1 / layers)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length = hidden.shape[:2]
        x = F.rms_norm(hidden.float(), hidden.shape[-1:], eps=1e-6) * self.scale + self.layer_embedding
        x = x.to(self.pool.weight.dtype).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        return self.pool(x.transpose(1, 2))[..., 0].unflatten(0, (batch, length))


class Aggregation(ModelMixin, ConfigMixin):
    """Hidden states of every MLLM layer to DiT conditioning.

    `mode`: `dla` two LAPs that share nothing, for picture and text tokens; `single_lap` one for both; `last_layer` the
    last state; `last_layer_blend_vit` the last state, with the vision tower's features blended into the picture tokens
    by a learned share. `refiner`: two bidirectional blocks over the tokens, which undo the MLLM's causal blindness of
    picture tokens. `read`: the numbers of the hidden states that LAPs pool, 0 the embeddings; None = all.
    """

    @register_to_config
    def __init__(
        self,
        layers: int = 29,
        width: int = 3584,
        text_width: int = 4096,
        pooled_width: int = 768,
        heads: int = 28,
        refiner_heads: int = 32,
        mlp_ratio: float = 8 / 3,
        mode: str = "dla",
        refiner: bool = True,
        read: list[int] | None = None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        if read is not None and not (read and all(0 <= layer < layers for layer in read)):
            raise ValueError(f"read must name hidden states from 0 to {layers - 1}, got {read}")
        pooled = layers if read is None else len(read)
        if mode in ("single_lap", "dla"):
            self.image_lap = LayerPool(pooled, width, heads, mlp_ratio)
        if mode == "dla":
            self.text_lap = LayerPool(pooled, width, heads, mlp_ratio)
        if mode == "last_layer_blend_vit":
            self.blend = nn.Parameter(torch.zeros(1))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.project = nn.Linear(width, text_width)
        self.refine = nn.ModuleList(Block(text_width, refiner_heads, mlp_ratio) for _ in range(2 if refiner else 0))
        self.to_vec = nn.Linear(text_width, pooled_width)
        self.null_vec = nn.Parameter(torch.zeros(1, pooled_width))

    def forward(
        self, hidden: Tensor, image: Tensor, vision: Tensor | None = None, valid: Tensor | None = None
    ) -> Aggregated:
        """hidden (B, L, M+1, D); image (L,) bool, picture tokens, which come first; vision (B, L_img, D) for the blend;
        valid (B, L) bool, false on padding."""
        count = int(image.sum())
        if not bool(image[:count].all()):
            raise ValueError("picture tokens must come before text tokens")
        x = self._pool(hidden, count, vision)
        x = self.project(self.norm(x))
        for block in self.refine:
            x = block(x, valid)
        text = x[:, count:]
        if valid is None:
            mean = text.mean(1)
        else:
            share = valid[:, count:, None].to(x.dtype)
            mean = (text * share).sum(1) / share.sum(1).clamp_min(1)
        vec = self.to_vec(mean) if text.shape[1] else self.null_vec.expand(len(x), -1)
        return Aggregated(txt=x, image=image, vec=vec)

    def _pool(self, hidden: Tensor, count: int, vision: Tensor | None) -> Tensor:
        mode = self.config["mode"]
        if mode in ("single_lap", "dla") and self.config["read"] is not None:
            hidden = hidden[:, :, self.config["read"]]
        if mode == "single_lap":
            return self.image_lap(hidden)
        if mode == "dla":
            return torch.cat([self.image_lap(hidden[:, :count]), self.text_lap(hidden[:, count:])], 1)
        x = F.rms_norm(hidden[:, :, -1].float(), hidden.shape[-1:], eps=1e-6)
        if mode == "last_layer_blend_vit":
            if vision is None:
                raise ValueError("last_layer_blend_vit needs the vision features (B, L_img, D), got None")
            share = self.blend.sigmoid()
            seen = F.rms_norm(vision.float().reshape(len(x), count, -1), x.shape[-1:], eps=1e-6)
            x = torch.cat([(1 - share) * x[:, :count] + share * seen, x[:, count:]], 1)
        return x.to(self.project.weight.dtype)
