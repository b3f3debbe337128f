"""References and prompt to conditioning tokens: the MLLM reads, the aggregation squeezes its layers."""

from __future__ import annotations

from PIL import Image

from .images import squared
from .models.dit import Conditioning
from .models.loading import Models


def condition(models: Models, references: tuple[Image.Image, ...], prompt: str) -> Conditioning:
    """Conditioning of one request: txt (1, T, width), picture tokens first."""
    read = models.mllm.encode([mllm_view(models, picture) for picture in references], prompt)
    out = models.aggregation(read.hidden, read.image[0], read.vision)
    return Conditioning(txt=out.txt, image=out.image, vec=out.vec, null_vec=models.aggregation.null_vec)


def mllm_view(models: Models, picture: Image.Image) -> Image.Image:
    """The very picture that the vision tower gets of a clean reference: a square where the profile wants one, then
    brought to the tower's size as its image processor would, sides not kept in proportion. The processor finds nothing
    left to resize."""
    processor = models.mllm.image_processor
    view = squared(picture) if models.profile.square else picture
    return view.resize((processor.size.width, processor.size.height), processor.resample)
