"""Reads the parts of a profile from their folders: which classes, how, and whether all of it is there."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, LongCatImageTransformer2DModel
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    GotOcr2ImageProcessorPil,
    InternVLForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from .adapter import Adapter, merge
from .aggregation import Aggregation, Native
from .dit import Dit, LongCat
from .framing import Framing
from .mllm import Mllm
from .profiles import Profile
from .qwen import Qwen
from .sources import PREVIEW, Located, read_part
from .vae import PreviewMap, Vae, fitted_preview


@dataclass(frozen=True, kw_only=True)
class MllmKind:
    """The classes of an MLLM. `plain` are the full paths of modules that stay out of 8-bit; `sizes` are what image
    processor and vision tower must agree on, the one's and the other's."""

    model: Any
    processor: Any
    reader: type[Mllm]
    plain: tuple[str, ...]
    sizes: Callable[[Any, Any], tuple[list[int], list[int]]]


MLLMS = {
    "internvl": MllmKind(
        model=InternVLForConditionalGeneration,
        processor=GotOcr2ImageProcessorPil,
        reader=Mllm,
        plain=("model.vision_tower", "model.multi_modal_projector", "lm_head"),
        sizes=lambda has, wants: ([has.size.height, has.size.width], list(wants.image_size)),
    ),
    "qwen2_5_vl": MllmKind(
        model=Qwen2_5_VLForConditionalGeneration,
        processor=Qwen2VLImageProcessorPil,
        reader=Qwen,
        plain=("model.visual", "lm_head"),
        sizes=lambda has, wants: ([has.patch_size, has.merge_size], [wants.patch_size, wants.spatial_merge_size]),
    ),
}
DITS: dict[str, tuple[Any, type[Dit]]] = {
    "flux": (FluxTransformer2DModel, Dit),
    "longcat": (LongCatImageTransformer2DModel, LongCat),
}


def read_mllm(parts: Mapping[str, Located], profile: Profile, device: torch.device) -> Mllm:
    """The MLLM of a profile on `device`, with tokenizer, image processor and, on the CPU, what frames pictures."""
    kind = MLLMS[profile.mllm]

    def model(path: Path) -> nn.Module:
        config = json.loads((path / "config.json").read_text())
        if "vision_config" not in config:  # transformers would fill in a model of 8 B parameters
            raise ValueError("config.json does not describe the model")
        options: dict[str, Any] = {"dtype": getattr(torch, profile.dtype)}
        if profile.mllm_8bit:
            # it would log a line for every product that is not in float16
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_8bit=True, llm_int8_threshold=6.0, llm_int8_skip_modules=list(kind.plain)
            )
            options["device_map"] = {"": device}
        whole, found = kind.model.from_pretrained(path, output_loading_info=True, **options)
        _complete(found)
        inner = whole.model  # its head, 1 GiB in the paper's size, is let go
        return inner if profile.mllm_8bit else inner.to(device)

    inner = read_part(parts["mllm"], model).eval()
    tokenizer = read_part(parts["tokenizer"], _tokenizer)
    processor = read_part(parts["processor"], lambda path: _image_processor(path, kind, inner.config.vision_config))
    framing = None
    if profile.framing:  # where it is, the MLLM sees the same whatever the device
        framing = read_part(parts["framing"], lambda path: read_model(Framing, path, "float32")).eval()
    return kind.reader(inner, tokenizer, processor, profile.template, framing)


def _tokenizer(path: Path) -> Any:
    if "tokenizer_class" not in json.loads((path / "tokenizer_config.json").read_text()):  # transformers would guess
        raise ValueError("tokenizer_config.json does not describe the tokenizer")
    return AutoTokenizer.from_pretrained(path)


def _image_processor(path: Path, kind: MllmKind, vision: Any) -> Any:
    processor = kind.processor.from_pretrained(path)
    found, wanted = kind.sizes(processor, vision)
    if found != wanted:
        raise ValueError(f"preprocessor_config.json has sizes {found}, the vision tower wants {wanted}")
    return processor


def read_aggregation(parts: Mapping[str, Located], profile: Profile) -> Aggregation | Native:
    """The aggregation, or Native for a profile that goes without, on the CPU."""
    if profile.native:
        return Native()
    return read_part(parts["aggregation"], lambda path: read_model(Aggregation, path, profile.dtype))


def read_dit(part: Located, profile: Profile, adapter: Adapter | None) -> Dit:
    """The transformer, with the adapter's LoRA merged, on the CPU."""
    model, drawer = DITS[profile.dit]
    transformer = read_part(part, lambda path: read_model(model, path, profile.dtype))
    if adapter:
        transformer = merge(transformer, adapter)
    return drawer(transformer.eval())


def read_vae(part: Located, profile: Profile, device: torch.device) -> Vae:
    """The autoencoder on `device`; on a CPU its weights lie channels last, which takes a third off decoding."""
    model = read_part(part, lambda path: read_model(AutoencoderKL, path, profile.dtype)).to(device).eval()
    return Vae(model.to(memory_format=torch.channels_last) if device.type == "cpu" else model)


def read_preview(part: Located, vae: Vae) -> PreviewMap:
    """The map that was made for this VAE, else one fitted now."""
    if not (part.path / PREVIEW).is_file():
        return fitted_preview(vae)
    return read_part(part, read_map)


def read_map(vae: Path) -> PreviewMap:
    """The preview map in a VAE's folder, its weights channels last, which takes a fifth off its time on a CPU."""
    return PreviewMap.of(load_file(vae / PREVIEW)).requires_grad_(False).to(memory_format=torch.channels_last)


def read_model(kind: Any, path: Path, dtype: str) -> Any:
    """A model of a class of diffusers' or transformers' from its folder; raises ValueError where weights are missing or
    left over."""
    model, found = kind.from_pretrained(
        path, dtype=getattr(torch, dtype), output_loading_info=True, local_files_only=True
    )
    _complete(found)
    return model


def _complete(found: dict[str, Any]) -> None:
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = [str(name) for name in found.get(key) or ()]
        if names:
            raise ValueError(f"{key.replace('_', ' ')}: {', '.join(names[:3])}" + (" ..." if len(names) > 3 else ""))
