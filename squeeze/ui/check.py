"""What the models get of the reference, and what there is to say of it, as HTML (check.css)."""

from __future__ import annotations

from html import escape

from PIL import Image

from ..checks import Inspection
from . import views

SIDE = 320  # pixels sent of a view at most: twice what it is shown at
COARSE = 160  # pixels; a view no larger than this is enlarged on the page, and its own pixels stay visible

EYES = (("mllm", "the language model sees"), ("vae", "the autoencoder sees"))


def check(inspection: Inspection) -> str:
    """The two views side by side with their sizes in pixels, below them the notices."""
    seen = "".join(_view(getattr(inspection.views, name), words) for name, words in EYES)
    said = "".join(f"<li>{escape(str(notice), quote=False)}</li>" for notice in inspection.notices)
    notices = f'<ul class="notices">{said}</ul>' if said else ""
    return f'<section class="check" aria-label="What the models get"><div class="seen">{seen}</div>{notices}</section>'


def _view(picture: Image.Image, words: str) -> str:
    width, height = picture.size
    coarse = " class=coarse" if max(picture.size) <= COARSE else ""
    return (
        f'<figure><img{coarse} src="{views.jpeg_uri(picture, SIDE)}" alt="The subject as {words} it" decoding="sync">'
        f"<figcaption><b>{words}</b> <span>{width} × {height} px</span></figcaption></figure>"
    )
