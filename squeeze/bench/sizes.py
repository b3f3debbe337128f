"""The sizes that are measured, with random weights: the paper's on a card, a tiny one for the CPU.

Random weights are good for time, memory and equality; never for quality, cache hit rates or previews.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from ..models.aggregation import Aggregation
from ..models.profiles import PROFILES, Profile
from ..request import Limits

SPECIAL = ["[PAD]", "[UNK]", "<img>", "</img>", "<IMG_CONTEXT>"]
WORD = "a"


@dataclass(frozen=True, kw_only=True)
class Size:
    """One row. `transformer`, `vae`, `vision`, `text` and `aggregation` are arguments of the classes' configurations;
    `profile` what is otherwise than in the row `paper`; `reference` the side of the reference in pixels, `words` the
    prompt's tokens, `pictures` the MLLM's tokens of a reference; `std` of the weights, None = by their fan-in."""

    name: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    aggregation: Mapping[str, Any]
    profile: Mapping[str, Any]
    reference: int
    words: int
    pictures: int
    std: float | None

    @property
    def side(self) -> int:
        """Of the drawn picture, in pixels."""
        return self.profile["size"]

    @property
    def dtype(self) -> torch.dtype:
        """What everything but 8-bit layers computes in."""
        return getattr(torch, self.profile["dtype"])

    @property
    def prompt(self) -> str:
        """A prompt of `words` tokens."""
        return " ".join([WORD] * self.words)

    def row(self, folder: Path | None = None, mllm_8bit: bool = True) -> Profile:
        """The profile that this size stands for; it needs no adapter."""
        return replace(PROFILES["paper"], adapter=False, folder=folder, mllm_8bit=mllm_8bit, **self.profile)

    def picture(self) -> Image.Image:
        """A reference of random pixels, always the same."""
        return Image.frombytes("RGB", (self.reference,) * 2, random.Random(0).randbytes(3 * self.reference**2))


SIZES = {
    "full": Size(
        name="full",
        transformer={"guidance_embeds": True},  # the class's own numbers are FLUX's: 19 + 38 blocks, width 3072
        vae={
            "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16,
            "norm_num_groups": 32, "sample_size": 1024, "shift_factor": 0.1159, "scaling_factor": 0.3611,
        },
        vision={
            "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
            "image_size": 448, "patch_size": 14, "norm_type": "layer_norm", "attention_bias": True,
        },
        text={
            "vocab_size": 151674, "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "intermediate_size": 18944, "max_position_embeddings": 32768,
        },
        aggregation={},  # the class's own numbers fit InternVL3-8B and FLUX
        profile={"device": "cuda", "dtype": "bfloat16", "size": 1024, "steps": 25},
        reference=512,
        words=512,
        pictures=256,
        std=0.02,
    ),
    "tiny": Size(
        name="tiny",
        transformer={
            "in_channels": 16, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": 48, "pooled_projection_dim": 24, "guidance_embeds": True,
            "axes_dims_rope": (4, 6, 6),
        },
        vae={
            "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4,
            "sample_size": 32, "shift_factor": 0.3, "scaling_factor": 0.6,
        },
        vision={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
            "image_size": 32, "patch_size": 8, "norm_type": "layer_norm", "use_qk_norm": True,
        },
        text={
            "vocab_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512,
        },
        aggregation={
            "layers": 4, "width": 32, "text_width": 48, "pooled_width": 24, "heads": 4, "refiner_heads": 4,
            "mlp_ratio": 1.5,
        },
        profile={
            "device": "cpu", "dtype": "float32", "size": 64, "steps": 12,
            "limits": Limits(least_size=32, most_size=128, reference=48),
        },
        reference=48,
        words=5,
        pictures=4,
        std=None,
    ),
}  # fmt: skip


def transformer(size: Size, device: torch.device | str) -> FluxTransformer2DModel:
    """The transformer on `device`; on "meta" it has shapes and no weights."""
    with _shapes(size.dtype):
        made = FluxTransformer2DModel(**size.transformer)
    return made.eval() if str(device) == "meta" else filled(made.to_empty(device=device), size)


def autoencoder(size: Size, device: torch.device) -> AutoencoderKL:
    """The VAE, FLUX's in its structure."""
    blocks = len(size.vae["block_out_channels"])
    options = {
        "down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "use_quant_conv": False, "use_post_quant_conv": False,
    }  # fmt: skip
    with _shapes(size.dtype):
        made = AutoencoderKL(**options, **size.vae)
    return filled(made.to_empty(device=device), size)


def write_mllm(size: Size, folder: Path) -> None:
    """An InternVL repository: model, tokenizer and image processor in one folder."""
    text = Qwen2Config(**size.text, tie_word_embeddings=False, pad_token_id=0, bos_token_id=None, eos_token_id=None)
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**size.vision), text_config=text, tie_word_embeddings=False,
        image_token_id=SPECIAL.index("<IMG_CONTEXT>"), image_seq_length=size.pictures,
    )  # fmt: skip
    with _shapes(size.dtype):
        made = InternVLForConditionalGeneration(config)
    filled(made.to_empty(device="cpu"), size).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, WORD])}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", additional_special_tokens=SPECIAL[2:]
    ).save_pretrained(folder)
    side = size.vision["image_size"]
    GotOcr2ImageProcessorPil(
        size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3, crop_to_patches=False
    ).save_pretrained(folder)


def write_drawer(size: Size, folder: Path) -> None:
    """What a profile needs beside the MLLM: aggregation, transformer and VAE, a folder each."""
    with _shapes(size.dtype):
        squeezed = Aggregation(**size.aggregation)
    filled(squeezed.to_empty(device="cpu"), size).save_pretrained(folder / "aggregation")
    transformer(size, torch.device("cpu")).save_pretrained(folder / "transformer")
    autoencoder(size, torch.device("cpu")).save_pretrained(folder / "vae")


@torch.no_grad()
def filled(module: nn.Module, size: Size) -> nn.Module:
    """The module in evaluation mode, every weight drawn anew; on the size's device, since billions take long on a
    CPU."""
    place, std = torch.device(size.profile["device"]), size.std
    generator = torch.Generator(place).manual_seed(0)
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, device=place, dtype=weight.dtype)
        if std is not None:
            weight.copy_(noise * std)
        elif weight.ndim > 1:
            weight.copy_(noise / weight[0].numel() ** 0.5)
        else:
            weight.copy_(0.1 * noise + (0 if name.endswith("bias") else 1))
    return module.eval()


@contextmanager
def _shapes(dtype: torch.dtype) -> Iterator[None]:
    """What is made inside the block has shapes of `dtype` and no weights yet."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(before)
