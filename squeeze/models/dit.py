"""The diffusion transformer: one call that gives the velocity, and decides which token groups are passed.

What differs between transformers, their positions and the arguments of their forward, lives here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..balance import Weights
from .attention import Weighing, group_bias, install, padding_bias


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What the MLLM says, ready for the DiT. `txt` (B, T, width); `image` (T,) bool marks the tokens of pictures, which
    come first; `vec` (B, P) pooled from the text tokens, `null_vec` (1, P) for steps without any; `valid` (B, T) bool,
    false on padding, None where there is none."""

    txt: Tensor
    image: Tensor
    vec: Tensor
    null_vec: Tensor
    valid: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the VAE says of the references. `ref` (B, R, 4 C) tokens, `ref_ids` (R, 3) their positions."""

    ref: Tensor
    ref_ids: Tensor


def passed(
    conditioning: Conditioning, weights: Weights, late_text: str
) -> tuple[Tensor, Tensor, list[tuple[int, float]]]:
    """The text-stream tokens (B, T', width), pooled vector and key groups at these weights.

    With w_mllm = 0 all MLLM tokens are left out, or with `late_text="keep"` the text tokens stay at weight 1.
    """
    txt, vec = conditioning.txt, conditioning.vec
    if weights.mllm > 0:
        return txt, vec, [(txt.shape[1], weights.mllm)]
    if late_text == "keep":
        txt = txt[:, ~conditioning.image]
        return txt, vec, [(txt.shape[1], 1.0)]
    return txt[:, :0], conditioning.null_vec.expand(len(vec), -1), [(0, 1.0)]


class Dit:
    """A FluxTransformer2DModel with its position ids; what another transformer does otherwise is in a class of its own.

    `weighing` is how token weights reach the model's attention (attention.py).
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        held = next(iter(model.attn_processors.values()))
        self.weighing: Weighing = getattr(held, "weighing", None) or install(model)  # once for each model

    @property
    def channels(self) -> int:
        """4 C, the width of a packed latent token."""
        return self.model.config.in_channels

    @property
    def text_width(self) -> int:
        """The width of a conditioning token."""
        return self.model.config.joint_attention_dim

    @property
    def pooled_width(self) -> int:
        """The width of the pooled vector, 0 where the model takes none."""
        return self.model.config.pooled_projection_dim

    @property
    def embeds_guidance(self) -> bool:
        """Whether the model was distilled to take a guidance."""
        return bool(self.model.config.guidance_embeds)

    def velocity(
        self,
        img: Tensor,
        img_ids: Tensor,
        t: float | Tensor,
        *,
        conditioning: Conditioning,
        identity: Identity,
        weights: Weights,
        guidance: float = 1.0,
        late_text: str = "drop",
        bias: Tensor | None = None,
    ) -> Tensor:
        """The velocity noise - x_0 (B, N, 4 C) at time `t`, a number or (B,).

        `guidance` is FLUX's embedded guidance, ignored by models without it. Groups of weight 0 are not passed; weights
        between 0 and 1 work inside attention. `bias` (1, 1, 1, L) over the keys replaces them.
        """
        device, dtype = self.model.device, self.model.dtype
        txt, vec, groups = passed(conditioning, weights, late_text)
        seen, ids = [img], [img_ids]
        if weights.vae > 0:
            seen.append(identity.ref.expand(len(img), -1, -1))
            ids.append(identity.ref_ids)
        groups += [(img.shape[1], 1.0)] + [(part.shape[1], weights.vae) for part in seen[1:]]
        if conditioning.valid is not None and txt.shape[1]:
            padding = padding_bias(conditioning.valid[:, -txt.shape[1] :], sum(count for count, _ in groups))
            bias = padding + (group_bias(groups, padding.device) if bias is None else bias)
        with self.weighing(groups, None if bias is None else bias.to(device, dtype)):
            out = self._forward(
                hidden_states=torch.cat([part.to(device, dtype) for part in seen], 1),
                txt=txt.to(device, dtype),
                vec=vec.to(device, dtype),
                time=torch.as_tensor(t, dtype=torch.float32, device=device).expand(len(img)),
                img_ids=torch.cat([part.to(device) for part in ids]),
                total=conditioning.txt.shape[1],
                guidance=guidance,
            )
        return out[:, : img.shape[1]]

    def _forward(
        self, *, hidden_states: Tensor, txt: Tensor, vec: Tensor, time: Tensor, img_ids: Tensor, total: int,
        guidance: float,
    ) -> Tensor:  # fmt: skip
        """The model's own call; `total` is the number of text tokens before any was left out."""
        options = {}
        if self.embeds_guidance:
            options["guidance"] = torch.full_like(time, guidance)
        return self.model(
            hidden_states=hidden_states,
            encoder_hidden_states=txt,
            pooled_projections=vec,
            timestep=time,
            img_ids=img_ids,
            txt_ids=torch.zeros(txt.shape[1], 3, device=img_ids.device),
            return_dict=False,
            **options,
        )[0]


class LongCat(Dit):
    """A LongCatImageTransformer2DModel: no pooled vector and no guidance.

    Text token i stands at (0, i, i). Behind the T of them the target begins at (1, T, T) and the reference at
    (2, T, T), and they stay there where text tokens are left out, so nothing jumps between stages.
    """

    pooled_width = 0
    embeds_guidance = False

    def _forward(
        self, *, hidden_states: Tensor, txt: Tensor, vec: Tensor, time: Tensor, img_ids: Tensor, total: int,
        guidance: float,
    ) -> Tensor:  # fmt: skip
        places = torch.arange(total - txt.shape[1], total, device=img_ids.device)  # what is left out comes first
        return self.model(
            hidden_states=hidden_states,
            encoder_hidden_states=txt,
            timestep=time,
            img_ids=img_ids + torch.tensor([1, total, total], device=img_ids.device),
            txt_ids=torch.stack([torch.zeros_like(places), places, places], 1).to(img_ids),
            return_dict=False,
        )[0]
