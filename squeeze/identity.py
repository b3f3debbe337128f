"""References to VAE identity tokens and their positions."""

from __future__ import annotations

import torch
from PIL import Image

from .images import content_hash, fitted, to_tensor
from .models.dit import Identity
from .models.loading import Models
from .sampling import grid_ids, pack

SCHEMES = ("kontext", "uno")


def identify(models: Models, references: tuple[Image.Image, ...], rows: int, columns: int) -> Identity:
    """Identity tokens (1, R, 4 C) of all references; `rows` and `columns` are the target's size in tokens."""
    side = 2 * models.vae.factor
    views = [vae_view(models, picture, (columns * side, rows * side)) for picture in references]
    key = ("identity", models.revision, models.profile.ids, rows, columns, *map(content_hash, views))
    return models.encodings.get(key, lambda: _encoded(models, views, rows, columns))


@torch.inference_mode()  # see conditioning._read
def _encoded(models: Models, views: list[Image.Image], rows: int, columns: int) -> Identity:
    latents = [models.vae.encode(to_tensor(view)) for view in views]
    sizes = [(latent.shape[-2] // 2, latent.shape[-1] // 2) for latent in latents]
    return Identity(
        ref=torch.cat([pack(latent) for latent in latents], 1),
        ref_ids=reference_ids(models.profile.ids, sizes, rows, columns),
    )


def vae_view(models: Models, picture: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """The very picture that the VAE encodes of a clean reference: in the profile's frame, its long side the profile's
    or the drawn picture's, both sides whole tokens. `size` is the drawn picture's width and height (the profile's own
    if left out)."""
    profile = models.profile
    view = profile.framed(picture, size)
    return view if profile.at_target else fitted(view, profile.limits.reference, 2 * models.vae.factor)


def reference_ids(scheme: str, sizes: list[tuple[int, int]], rows: int, columns: int) -> torch.Tensor:
    """Positions (R, 3) of references of `sizes` (rows, columns) in tokens, behind a target of `rows` x `columns`.

    `kontext`: axis 0 counts the references from 1 (FLUX.1 Kontext). `uno`: axis 0 stays 0, rows and columns are moved
    past the target and the references before, cumulatively (UNO, arXiv 2504.02160).
    """
    if scheme not in SCHEMES:
        raise ValueError(f"ids must be one of {SCHEMES}, got {scheme!r}")
    parts = []
    top, left = rows, columns
    for index, (height, width) in enumerate(sizes, 1):
        if scheme == "kontext":
            parts.append(grid_ids(height, width, index))
        else:
            parts.append(grid_ids(height, width, 0, top, left))
            top, left = top + height, left + width
    return torch.cat(parts)
