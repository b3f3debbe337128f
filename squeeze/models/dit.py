"""The diffusion transformer: one call that gives the velocity, and decides which token groups are passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..balance import Weights
from .attention import group_bias, padding_bias


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
    """A FluxTransformer2DModel with its position ids. `guidance` is FLUX's embedded guidance, ignored by models without
    it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def channels(self) -> int:
        """4 C, the width of a packed latent token."""
        return self.model.config.in_channels

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

        Groups of weight 0 are not passed; weights between 0 and 1 become a bias. `bias` (1, 1, 1, L) replaces the
        computed one.
        """
        device, dtype = self.model.device, self.model.dtype
        txt, vec, groups = passed(conditioning, weights, late_text)
        seen, ids = [img], [img_ids]
        if weights.vae > 0:
            seen.append(identity.ref.expand(len(img), -1, -1))
            ids.append(identity.ref_ids)
        groups += [(img.shape[1], 1.0)] + [(part.shape[1], weights.vae) for part in seen[1:]]
        if bias is None:
            bias = group_bias(groups)
        if conditioning.valid is not None and txt.shape[1]:
            kept = (
                conditioning.valid
                if txt.shape[1] == len(conditioning.image)
                else conditioning.valid[:, ~conditioning.image]
            )
            padding = padding_bias(kept, sum(count for count, _ in groups))
            bias = padding if bias is None else padding + bias
        options = {} if bias is None else {"joint_attention_kwargs": {"attention_mask": bias.to(device, dtype)}}
        if self.model.config.guidance_embeds:
            options["guidance"] = torch.full((len(img),), guidance, device=device, dtype=torch.float32)
        time = torch.as_tensor(t, dtype=torch.float32, device=device).expand(len(img))
        out = self.model(
            hidden_states=torch.cat([part.to(device, dtype) for part in seen], 1),
            encoder_hidden_states=txt.to(device, dtype),
            pooled_projections=vec.to(device, dtype),
            timestep=time,
            img_ids=torch.cat([part.to(device) for part in ids]),
            txt_ids=torch.zeros(txt.shape[1], 3, device=device),
            return_dict=False,
            **options,
        )[0]
        return out[:, : img.shape[1]]
