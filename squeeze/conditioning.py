"""References and prompt to conditioning tokens: the MLLM reads, the aggregation squeezes its layers."""

from __future__ import annotations

from PIL import Image

from .images import squared
from .models.dit import Conditioning
from .models.loading import Models


def condition(models: Models, references: tuple[Image.Image, ...], prompt: str) -> Conditioning:
    """Conditioning of one request: txt (1, T, width), picture tokens first."""
    views = [squared(picture) if models.profile.square else picture for picture in references]
    read = models.mllm.encode(views, prompt)
    out = models.aggregation(read.hidden, read.image[0], read.vision)
    return Conditioning(txt=out.txt, image=out.image, vec=out.vec, null_vec=models.aggregation.null_vec)
