"""Loads a profile's models; the only place that knows devices and what can be wrong with files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, BitsAndBytesConfig, GotOcr2ImageProcessorPil, InternVLForConditionalGeneration

from .aggregation import Aggregation
from .dit import Dit
from .mllm import Mllm
from .profiles import Profile
from .vae import PreviewMap, Vae

T = TypeVar("T")


class LoadError(RuntimeError):
    """Weights that are missing, damaged or do not fit together; the message says which and what to do."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """Everything a generation needs, placed and in evaluation mode. `revision` identifies the weights in recipes and
    caches."""

    profile: Profile
    mllm: Mllm
    aggregation: Aggregation
    dit: Dit
    vae: Vae
    preview: PreviewMap
    device: torch.device
    revision: str


def load(profile: Profile, folder: Path | None = None, device: str | None = None) -> Models:
    """Loads a profile from its folder (or another of the same layout) onto `device` (or the profile's own choice)."""
    profile = replace(profile, folder=folder or profile.folder)
    place = _device(device or profile.device)
    dtype = getattr(torch, profile.dtype)
    root = profile.folder
    if not root.is_dir():
        raise LoadError(
            f"The weights of profile {profile.name!r} are missing: there is no folder {root}. Clone the project whole, "
            f"or train them with: python -m squeeze train plush --part vae"
        )
    mllm = _read(root / "mllm", lambda path: _mllm(path, profile, place))
    tokenizer = _read(root / "mllm", AutoTokenizer.from_pretrained)
    processor = _read(root / "mllm", lambda path: _image_processor(path, mllm.config.vision_config.image_size))
    aggregation = _read(root / "aggregation", lambda path: _diffusers(Aggregation, path, dtype))
    transformer = _read(root / "transformer", lambda path: _diffusers(FluxTransformer2DModel, path, dtype))
    vae = _read(root / "vae", lambda path: _diffusers(AutoencoderKL, path, dtype))
    preview = _read(root / "vae", lambda path: PreviewMap(**load_file(path / "preview.safetensors")))
    models = Models(
        profile=profile,
        mllm=Mllm(mllm.eval(), tokenizer, processor, profile.template),
        aggregation=aggregation.to(place).eval(),
        dit=Dit(transformer.to(place).eval()),
        vae=Vae(vae.to(place).eval()),
        preview=preview.to(place),
        device=place,
        revision=_revision(root),
    )
    _fits(models)
    return models


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise LoadError(
            f"This asks for {wanted}, but torch sees no CUDA device. Install a CUDA build of torch or use --device cpu."
        )
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:  # a name torch does not know, a device that is not there
        raise LoadError(f"There is no device {wanted!r} here. Use --device cpu or --device cuda.") from error


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    """Runs a reader on a folder; whatever goes wrong inside becomes a sentence that names the folder."""
    if not path.is_dir():
        raise LoadError(f"Weights are missing: there is no folder {path}. Restore it from the project's repository.")
    try:
        return reader(path)
    except Exception as error:  # readers of four libraries raise a dozen types for a damaged file
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise LoadError(
            f"The weights in {path} are damaged or incomplete ({reason}). Restore them from the repository."
        ) from error


def _mllm(path: Path, profile: Profile, device: torch.device) -> nn.Module:
    config = json.loads((path / "config.json").read_text())
    if not {"text_config", "vision_config"} <= config.keys():  # transformers would fill in a model of 8 B parameters
        raise ValueError("config.json does not describe the model")
    options: dict[str, Any] = {"dtype": getattr(torch, profile.dtype)}
    if profile.mllm_8bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=True,
            llm_int8_threshold=6.0,
            llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
        )
        options["device_map"] = {"": device}
    model, found = InternVLForConditionalGeneration.from_pretrained(path, output_loading_info=True, **options)
    _complete(found)
    return model if profile.mllm_8bit else model.to(device)


def _image_processor(path: Path, wanted: list[int]) -> GotOcr2ImageProcessorPil:
    processor = GotOcr2ImageProcessorPil.from_pretrained(path)
    if [processor.size.height, processor.size.width] != list(wanted):
        raise ValueError(
            f"preprocessor_config.json makes pictures of {processor.size}, the vision tower wants {wanted}"
        )
    return processor


def _diffusers(kind: Any, path: Path, dtype: torch.dtype) -> Any:
    model, found = kind.from_pretrained(path, torch_dtype=dtype, output_loading_info=True, local_files_only=True)
    _complete(found)
    return model


def _complete(found: dict[str, Any]) -> None:
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = [str(name) for name in found.get(key) or ()]
        if names:
            raise ValueError(f"{key.replace('_', ' ')}: {', '.join(names[:3])}" + (" ..." if len(names) > 3 else ""))


def _fits(models: Models) -> None:
    """Raises LoadError where two parts do not fit together."""
    config, dit = models.aggregation.config, models.dit.model.config
    pairs = (
        ("the MLLM's layers", models.mllm.layers, "the aggregation's", config["layers"]),
        ("the MLLM's width", models.mllm.width, "the aggregation's", config["width"]),
        ("the aggregation's text width", config["text_width"], "the transformer's", dit.joint_attention_dim),
        ("the aggregation's pooled width", config["pooled_width"], "the transformer's", dit.pooled_projection_dim),
        ("four times the VAE's channels", 4 * models.vae.channels, "the transformer's", dit.in_channels),
        ("the VAE's channels", models.vae.channels, "the preview map's", models.preview.weight.shape[1]),
    )
    for left, a, right, b in pairs:
        if a != b:
            raise LoadError(
                f"The parts in {models.profile.folder} do not belong together: {left} are {a}, {right} {b}."
            )


def _revision(root: Path) -> str:
    path = root / "training.json"
    try:
        return str(json.loads(path.read_text())["revision"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path} is missing or damaged. Restore it from the project's repository.") from error
