"""The real classes at tiny size with random weights, and the folder layout that `load` reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, LongCatImageTransformer2DModel, ModelMixin
from peft import LoraConfig, PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLImageProcessorPil,
)

from squeeze.models.aggregation import Aggregation
from squeeze.models.dit import Conditioning, Identity
from squeeze.models.framing import Framing
from squeeze.models.profiles import PROFILES, Profile
from squeeze.pipeline import default_request
from squeeze.request import Limits, Request
from squeeze.sampling import grid_ids

SPECIAL = ["[PAD]", "[UNK]", "<img>", "</img>", "<IMG_CONTEXT>"]
WORDS = ["a", "toy", "it", "on", "in", "at", "the", "beach", "snow", "with", "red", "blue", "hat", "left", ",", "."]
QWEN_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip
LAYERS, WIDTH, TEXT_WIDTH, POOLED, CHANNELS, PICTURE_TOKENS = 4, 32, 48, 24, 4, 4


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """The module in evaluation mode with every weight drawn anew, also those that start at zero, one or a mean: a path
    that a fresh module leaves silent is heard."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(noise / weight[0].numel() ** 0.5)
            else:
                weight.copy_(0.1 * noise + (0 if name.endswith("bias") else 1))
    return module.eval()


def random_picture(seed: int, width: int = 48, height: int = 32) -> Image.Image:
    """An RGB picture: smooth colours with some grain, so that it survives being resized."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height), 3)
    return Image.fromarray((np.asarray(coarse) * 0.9 + rng.integers(0, 25, (height, width, 3))).astype(np.uint8))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Word level, lower case; what is not in WORDS is unknown."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", additional_special_tokens=SPECIAL[2:]
    )


def make_internvl(vocabulary: int) -> InternVLForConditionalGeneration:
    """Two vision and three text layers; a 32 px picture becomes PICTURE_TOKENS tokens."""
    vision = InternVLVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8,
        norm_type="layer_norm", use_qk_norm=True,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=LAYERS - 1, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=SPECIAL.index("<IMG_CONTEXT>"),
        image_seq_length=PICTURE_TOKENS, tie_word_embeddings=True,
    )  # fmt: skip
    return randomised(InternVLForConditionalGeneration(config), 1)


def make_bytes_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with Qwen's special ones: no two texts are read alike."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=QWEN_SPECIAL[0], additional_special_tokens=QWEN_SPECIAL[1:]
    )


def make_qwen(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Two vision and three text layers, with positions in three dimensions."""
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": WIDTH,
            "window_size": 56, "fullatt_block_indexes": [1],
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "num_hidden_layers": LAYERS - 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
            "max_position_embeddings": 4096, "pad_token_id": ids(QWEN_SPECIAL[0]), "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 100.0},
        },
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    return randomised(Qwen2_5_VLForConditionalGeneration(config), 1)


def make_framing() -> Framing:
    """Squares all over a picture, larger and smaller than it."""
    return randomised(Framing(size=32, fold=2, widths=(4, 8)), 5)


def make_aggregation(mode: str = "dla", refiner: bool = True) -> Aggregation:
    """All weights random; a fresh one passes nothing through its blocks."""
    fresh = Aggregation(
        layers=LAYERS, width=WIDTH, text_width=TEXT_WIDTH, pooled_width=POOLED, heads=4, refiner_heads=4, mlp_ratio=1.5,
        mode=mode, refiner=refiner,
    )  # fmt: skip
    return randomised(fresh, 2)


def make_transformer(guidance_embeds: bool = False) -> FluxTransformer2DModel:
    """One double and two single blocks."""
    fresh = FluxTransformer2DModel(
        in_channels=4 * CHANNELS, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH, pooled_projection_dim=POOLED, guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return randomised(fresh, 3)


def make_longcat(channels: int = CHANNELS, text_width: int = TEXT_WIDTH) -> LongCatImageTransformer2DModel:
    """LongCat's transformer at the size of `make_transformer`; `channels` are the latent's."""
    fresh = LongCatImageTransformer2DModel(
        in_channels=4 * channels, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=text_width, pooled_projection_dim=POOLED, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return randomised(fresh, 3)


def make_vae(channels: int = CHANNELS) -> AutoencoderKL:
    """Factor 8 as FLUX's, with a shift and a scale that nobody could overlook."""
    fresh = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=channels, norm_num_groups=4,
        sample_size=32, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.3, scaling_factor=0.6,
    )  # fmt: skip
    return randomised(fresh, 4)


def write_internvl(folder: Path) -> None:
    """A repository as InternVL's: model, tokenizer and image processor in one folder."""
    tokenizer = make_tokenizer()
    make_internvl(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3, crop_to_patches=False
    ).save_pretrained(folder)


def write_models(folder: Path) -> None:
    """A folder of the shipped layout: mllm, framing, aggregation, transformer, vae, training.json."""
    write_internvl(folder / "mllm")
    make_framing().save_pretrained(folder / "framing")
    make_aggregation().save_pretrained(folder / "aggregation")
    make_transformer().save_pretrained(folder / "transformer")
    make_vae().save_pretrained(folder / "vae")
    generator = torch.Generator().manual_seed(5)
    preview = {
        "weight": torch.randn(3 * 64, CHANNELS, 3, 3, generator=generator) / 6,
        "bias": torch.randn(3 * 64, generator=generator) / 6,
    }
    save_file(preview, folder / "vae" / "preview.safetensors")
    (folder / "training.json").write_text(json.dumps({"runs": []}))


def copy_with_other_weights(folder: Path, copy: Path) -> Path:
    """A copy of a folder of the shipped layout whose pictures are others: one weight of the aggregation is."""
    shutil.copytree(folder, copy)
    (path,) = (copy / "aggregation").glob("*.safetensors")
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, path)
    return copy


def tiny_profile(folder: Path) -> Profile:
    """FLUX's shift, references of any shape up to 48 px and three at a time, pictures of 32 to 128 px."""
    limits = Limits(references=3, least_size=32, most_size=128, reference=48)
    return replace(PROFILES["plush"], folder=folder, device="cpu", size=64, square=False, shift=None, limits=limits)


def write_paper(folder: Path) -> None:
    """The parts of the paper's size that come from the hub: mllm, transformer with embedded guidance, vae."""
    write_internvl(folder / "mllm")
    make_transformer(guidance_embeds=True).save_pretrained(folder / "transformer")
    make_vae().save_pretrained(folder / "vae")


def write_adapter(folder: Path, rank: int = 3) -> None:
    """An adapter for `write_paper`: aggregation, a random LoRA on all attention, adapter.json."""
    make_aggregation().save_pretrained(folder / "aggregation")
    names = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    tuned = PeftModel(make_transformer(guidance_embeds=True), LoraConfig(r=rank, target_modules=names))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
    tuned.save_pretrained(folder / "lora")
    sources = PROFILES["paper"].sources
    base = {name: {"repo": sources[name].repo, "revision": sources[name].revision} for name in ("mllm", "transformer")}
    said = {
        "format": 1, "base": base, "layers": LAYERS, "width": WIDTH, "text_width": TEXT_WIDTH, "pooled_width": POOLED,
        "rank": rank, "tau1": 0.9, "tau2": 0.4, "licence": "CC0", "revision": "tiny-adapter",
    }  # fmt: skip
    (folder / "adapter.json").write_text(json.dumps(said))


def write_longcat(folder: Path) -> None:
    """A repository as LongCat-Image-Edit's: text_encoder, tokenizer, text_processor, transformer, vae."""
    tokenizer = make_bytes_tokenizer()
    make_qwen(tokenizer).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 16).save_pretrained(folder / "text_processor")
    make_longcat(16, WIDTH).save_pretrained(folder / "transformer")  # diffusers' pipeline knows no other number
    make_vae(16).save_pretrained(folder / "vae")


def on_cpu(name: str, folder: Path | None = None) -> Profile:
    """A row of the paper's size as the tests can run it: float32 on the CPU, pictures of 32 to 128 px."""
    limits = replace(PROFILES[name].limits, least_size=32, most_size=128, reference=48)
    options = {"device": "cpu", "dtype": "float32", "mllm_8bit": False, "size": 64, "steps": 3, "limits": limits}
    return replace(PROFILES[name], folder=folder, **options)


def make_request(profile: Profile, **asked: object) -> Request:
    """Two steps in each stage, 2 x 4 tokens; `asked` are fields of Request."""
    usual = {
        "prompt": "a toy on the beach", "references": (random_picture(0),), "steps": 6, "stage_steps": (2, 2, 2),
        "height": 32, "width": 64, "seed": 7,
    }  # fmt: skip
    return default_request(profile, **(usual | asked))


def make_conditioning(seed: int, text: int = 5, pictures: int = PICTURE_TOKENS, batch: int = 1) -> Conditioning:
    """Random tokens, pictures first; the pooled and the null vector differ."""
    generator = torch.Generator().manual_seed(seed)
    return Conditioning(
        txt=torch.randn(batch, pictures + text, TEXT_WIDTH, generator=generator),
        image=torch.arange(pictures + text) < pictures,
        vec=torch.randn(batch, POOLED, generator=generator),
        null_vec=torch.randn(1, POOLED, generator=generator),
    )


def make_identity(seed: int, sizes: tuple[tuple[int, int], ...] = ((2, 3),), batch: int = 1) -> Identity:
    """Random reference tokens with Kontext's positions; `sizes` are rows and columns in tokens."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(rows * columns for rows, columns in sizes)
    return Identity(
        ref=torch.randn(batch, count, 4 * CHANNELS, generator=generator),
        ref_ids=torch.cat([grid_ids(rows, columns, index) for index, (rows, columns) in enumerate(sizes, 1)]),
    )


def furthest(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape; infinite where shapes differ or anything is NaN."""
    if a.shape != b.shape or not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        return float("inf")
    return (a - b).abs().max().item() if a.numel() else 0.0


def compile_by(patch, backend="eager"):
    """Has blocks compiled by the backend that needs no compiler, or another: which graphs there are does not depend on
    it."""
    real = ModelMixin.compile_repeated_blocks
    patch.setattr(ModelMixin, "compile_repeated_blocks", lambda self, **how: real(self, backend=backend, **how))
