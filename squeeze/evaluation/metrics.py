"""DINO-I, CLIP-I and CLIP-T: cosine similarities of embeddings by two public models, through transformers.

The protocol is DreamBooth's (Ruiz et al., arXiv 2208.12242, section 4.1): DINO-I is the mean cosine similarity between
the ViT-S/16 DINO embeddings of a generated picture and of *all* real photos of its subject, CLIP-I the same with
CLIP's image embedding, CLIP-T that of CLIP's embeddings of prompt and picture. DINO's embedding is the class token of
the last layer after the final norm, as the model of its own repository returns it; CLIP's are the projected ones. Each
checkpoint's own processor prepares the pictures: DINO's squeezes the whole picture into its square, CLIP's cuts the
square out of the middle. Systems that see one reference are sometimes compared with that photo alone: the `_reference`
figures, which reward a copy more.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, ViTImageProcessorPil, ViTModel

from ..models.failures import trouble
from ..models.loading import LoadError

T = TypeVar("T")
CHECKPOINTS = {"dino": "facebook/dino-vits16", "clip": "openai/clip-vit-base-patch32"}
COMMITS = {
    "dino": "abe3b354cb6a9b6f146096b14a4a9d7eecbcb4bd", "clip": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
}  # fmt: skip
SCORES = ("dino_i", "clip_i", "clip_t", "dino_i_reference", "clip_i_reference")


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the two models see in P pictures: `dino` (P, 384) and `clip` (P, 512) of length 1, fp64 on the CPU."""

    dino: Tensor
    clip: Tensor


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The two models in evaluation mode, in fp64: so a score is the same to the last digit written, however cases are
    split over processes. `source` says where each came from; `weights` is the start of a hash of the model and of what
    prepares its inputs."""

    dino: ViTModel
    dino_processor: ViTImageProcessorPil
    clip: CLIPModel
    clip_processor: CLIPImageProcessorPil
    tokenizer: CLIPTokenizer
    source: dict[str, str]
    weights: dict[str, str]

    @torch.inference_mode()
    def look(self, pictures: list[Image.Image]) -> Look:
        """Embeddings of RGB pictures, one forward each, so that they do not depend on what else is looked at."""
        dino, clip = [], []
        for picture in pictures:
            pixels = self.dino_processor(images=picture, return_tensors="pt")["pixel_values"]
            dino.append(self.dino(pixel_values=pixels.to(self.dino.device, torch.float64)).last_hidden_state[:, 0])
            pixels = self.clip_processor(images=picture, return_tensors="pt")["pixel_values"]
            clip.append(
                self.clip.get_image_features(pixel_values=pixels.to(self.clip.device, torch.float64)).pooler_output
            )
        return Look(dino=_unit(dino), clip=_unit(clip))

    @torch.inference_mode()
    def read(self, prompt: str) -> Tensor:
        """CLIP's embedding of a prompt (1, 512), of length 1; what is beyond its 77 tokens is cut off."""
        most = self.clip.config.text_config.max_position_embeddings
        tokens = self.tokenizer(prompt, truncation=True, max_length=most, return_tensors="pt").to(self.clip.device)
        out = self.clip.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return _unit([out.pooler_output])


def score(picture: Look, photos: Look, prompt: Tensor) -> dict[str, float]:
    """The SCORES of one picture: `photos` are all of its subject, the reference first, `prompt` is (1, 512)."""
    dino = (picture.dino @ photos.dino.T)[0]
    clip = (picture.clip @ photos.clip.T)[0]
    values = (dino.mean(), clip.mean(), (picture.clip @ prompt.T)[0, 0], dino[0], clip[0])
    return {name: round(float(value), 6) for name, value in zip(SCORES, values, strict=True)}


def load_metrics(folder: Path | None, device: torch.device) -> Metrics:
    """The published checkpoints at their COMMITS from the Hugging Face hub or its cache, or `folder`/dino and
    `folder`/clip in their layout; raises LoadError where they cannot be had."""
    at = {name: str(folder / name) if folder else hub for name, hub in CHECKPOINTS.items()}
    if folder:
        for name, path in at.items():
            if not os.path.isdir(path):
                raise LoadError(
                    f"There is no folder {path}. Put {CHECKPOINTS[name]} there, as its files lie on the hub."
                )
    dino_at, clip_at = ({"revision": COMMITS[name]} for name in ("dino", "clip"))  # of no account for a folder
    dino = _loaded(at["dino"], lambda path: _model(ViTModel, path, add_pooling_layer=False, **dino_at))
    clip = _loaded(at["clip"], lambda path: _model(CLIPModel, path, **clip_at))
    dino_processor = _loaded(at["dino"], lambda path: ViTImageProcessorPil.from_pretrained(path, **dino_at))
    clip_processor = _loaded(at["clip"], lambda path: CLIPImageProcessorPil.from_pretrained(path, **clip_at))
    tokenizer = _loaded(at["clip"], lambda path: _tokenizer(path, clip.config.text_config.vocab_size, **clip_at))
    words = tokenizer.backend_tokenizer.to_str()
    weights = {"dino": _hash(dino, dino_processor), "clip": _hash(clip, clip_processor, words)}
    metrics = Metrics(
        dino=_loaded(at["dino"], lambda _: dino.to(device)), dino_processor=dino_processor,
        clip=_loaded(at["clip"], lambda _: clip.to(device)), clip_processor=clip_processor,
        tokenizer=tokenizer, source=at, weights=weights,
    )  # fmt: skip
    _loaded(" and ".join(at.values()), lambda _: metrics.look([Image.new("RGB", (8, 8))]))  # sizes fit together
    return metrics


def _loaded(path: str, reader: Callable[[str], T]) -> T:
    try:
        return reader(path)
    except Exception as error:  # hub, tokenizer and model readers raise a dozen types for what is absent or damaged
        if trouble(error):
            raise LoadError(
                f"The device has no place for the metric model {path}, or failed. Use --device cpu."
            ) from error
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise LoadError(
            f"The metric model {path} could not be loaded ({reason}). Run once with a network, or name a folder with "
            f"--metrics that holds {CHECKPOINTS['dino']} as dino/ and {CHECKPOINTS['clip']} as clip/."
        ) from error


def _model(kind: Any, path: str, **options: Any) -> Any:
    model, found = kind.from_pretrained(path, dtype=torch.float64, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"])
    if missing:  # transformers would fill them in at random
        raise ValueError(f"missing weights: {', '.join(missing[:3])}")
    return model.eval()


def _tokenizer(path: str, words: int, **options: Any) -> CLIPTokenizer:
    tokenizer = CLIPTokenizer.from_pretrained(path, **options)
    if len(tokenizer) != words:  # without its files transformers makes an empty one
        raise ValueError(f"the tokenizer has {len(tokenizer)} entries, the model wants {words}")
    return tokenizer


def _hash(model: nn.Module, processor: Any, words: str = "") -> str:
    digest = hashlib.sha256((json.dumps(processor.to_dict(), sort_keys=True, default=str) + words).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _unit(rows: list[Tensor]) -> Tensor:
    return nn.functional.normalize(torch.cat(rows).cpu(), dim=-1)
