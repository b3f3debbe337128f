"""A step's picture as foreseen from there, small and cheap: never part of the computation, only a look at it."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from .images import to_picture
from .models.loading import Models
from .sampling import unpack


def preview(models: Models, x0: Tensor, height: int, width: int, *, decoded: bool = False) -> Image.Image:
    """The picture of foreseen tokens x0 (1, N, 4 C) by the preview map, or `decoded` by the autoencoder, which takes
    many times as long; `height` and `width` are the latent's."""
    seen = models.vae.decode if decoded else models.preview
    return to_picture(seen(unpack(x0.detach(), height, width)))
