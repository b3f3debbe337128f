"""FLOPs of a forward: the formula, what it leaves out, and torch's own count.

Per block and token a FLUX block multiplies with 12 width^2 weights: a double block's attention (4) and MLP (8) of the
token's own stream, a single block's query, key and value (3), MLP (4) and common output (5). Attention itself is two
products of (L, width) each way. So FLOP(L) = 2 P L + 4 L^2 width blocks with P = 12 width^2 blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..balance import Weights
from ..models.dit import Conditioning, Dit, Identity

TIME = 256  # sines and cosines of the time that FLUX embeds


def blocks(model: Any) -> int:
    """Double and single blocks together."""
    return model.config.num_layers + model.config.num_single_layers


def formula(model: Any, tokens: int) -> int:
    """FLOP(L) of one forward with L = `tokens`, those of image, text, MLLM and references together."""
    width = model.inner_dim
    return 2 * 12 * width**2 * blocks(model) * tokens + 4 * tokens**2 * width * blocks(model)


def left_out(model: Any, text: int, pictures: int) -> int:
    """What the formula leaves out of the matrix products: the embedders of `text` and `pictures` tokens (the drawn
    one's and the references'), the output's projection, and what is done once a forward: time, guidance, pooled vector
    and the modulations. Neither counts norms, rotations, softmax or activations, which are no matrix products."""
    config, width = model.config, model.inner_dim
    embedded = text * config.joint_attention_dim + pictures * (config.in_channels + model.out_channels)
    embedders = (1 + config.guidance_embeds) * (TIME + width) + config.pooled_projection_dim + width
    modulations = width * (12 * config.num_layers + 3 * config.num_single_layers + 2)
    return 2 * width * (embedded + embedders + modulations)


def counted(
    dit: Dit, img: torch.Tensor, img_ids: torch.Tensor, conditioning: Conditioning, identity: Identity, weights: Weights
) -> int:
    """torch's count of one forward's matrix products, with attention as plain products, which every version counts."""
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        dit.velocity(img, img_ids, 0.5, conditioning=conditioning, identity=identity, weights=weights)
    return counter.get_total_flops()
