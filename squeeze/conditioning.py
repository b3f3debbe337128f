"""References and prompt to conditioning tokens: the MLLM reads, the aggregation squeezes its layers."""

from __future__ import annotations

import torch
from PIL import Image

from .images import content_hash
from .models.dit import Conditioning
from .models.loading import Models


def condition(
    models: Models, references: tuple[Image.Image, ...], prompt: str, size: tuple[int, int] | None = None
) -> Conditioning:
    """Conditioning of one request: txt (1, T, width), picture tokens first; `size` is the drawn picture's width and
    height, for profiles that bring references to it (their own size if left out)."""
    views = [mllm_view(models, picture, size) for picture in references]
    key = ("conditioning", models.revision, prompt, *map(content_hash, views))
    return models.encodings.get(key, lambda: _read(models, views, prompt))


@torch.inference_mode()  # whoever asks: what is kept for others must not hold a graph
def _read(models: Models, views: list[Image.Image], prompt: str) -> Conditioning:
    models.turns.take("reading")
    read = models.mllm.encode(views, prompt)
    out = models.aggregation(read.hidden, read.image[0], read.vision)
    return Conditioning(txt=out.txt, image=out.image, vec=out.vec, null_vec=models.aggregation.null_vec)


def mllm_view(models: Models, picture: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """The very picture that the MLLM gets of a clean reference: in the profile's frame, then as the MLLM wants it."""
    return models.mllm.view(models.profile.framed(picture, size))
