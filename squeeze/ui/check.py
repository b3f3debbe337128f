"""What the models get of a reference, what there is to say of it, and the dialog that crops it, as HTML (check.css,
crop.js, crop.css)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from ..checks import LEAST_CROP, Inspection
from ..images import content_hash
from . import texts, views

LISTENERS = Path(__file__).with_name("crop.js")
WHOLE = (0.0, 0.0, 1.0, 1.0)  # the crop that leaves a picture as it is: left, top, right, bottom as shares
SIDE = 320  # pixels sent of a view at most: twice what it is shown at
CROP_SIDE = 1024  # pixels sent of the picture that is cropped, at most
COARSE = 96  # pixels; a view no larger than this is enlarged on the page, and its own pixels stay visible

EYES = (("mllm", "the language model sees"), ("vae", "the autoencoder sees"))
ICON = (
    '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M4.5 1v10.5H15M1 4.5h10.5V15" fill="none" '
    'stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round"/></svg>'
)


def check(inspection: Inspection, box: Sequence[float] = WHOLE) -> str:
    """The two views side by side with their sizes in pixels, beside them the way to crop, below them the notices;
    `box` is the crop that the inspected picture is."""
    seen = "".join(_view(getattr(inspection.views, name), words) for name, words in EYES)
    said = "".join(f"<li>{escape(str(notice), quote=False)}</li>" for notice in inspection.notices)
    notices = f'<ul class="notices">{said}</ul>' if said else ""
    cropped = " data-cropped" if tuple(box) != WHOLE else ""
    button = (
        f'<button type="button" class="crop" aria-haspopup="dialog"{cropped} title="{texts.CROPPING}">'
        f"{ICON}{texts.CROP}</button>"
    )
    return (
        f'<section class="check" aria-label="What the models get"><div class="seen">{seen}{button}</div>{notices}'
        f"{_dialog(inspection.whole, box)}</section>"
    )


def _view(picture: Image.Image, words: str) -> str:
    width, height = picture.size
    coarse = " class=coarse" if max(picture.size) <= COARSE else ""
    return (
        f'<figure><img{coarse} src="{views.jpeg_uri(picture, SIDE)}" alt="The subject as {words} it" decoding="sync">'
        f"<figcaption><b>{words}</b> <span>{width} × {height} px</span></figcaption></figure>"
    )


def _dialog(whole: Image.Image, box: Sequence[float]) -> str:
    """The picture to crop with a frame over it; the content hash says which picture the frame belongs to."""
    width, height = whole.size
    coarse = " class=coarse" if max(whole.size) <= COARSE else ""
    edges = "".join(
        f'<span class="edge" role="slider" tabindex="0" aria-label="{name}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-orientation="{"vertical" if index % 2 else "horizontal"}"></span>'
        for index, name in enumerate(texts.EDGES)
    )
    corners = "".join(f'<span class="corner" data-corner="{corner}"></span>' for corner in ("01", "21", "03", "23"))
    buttons = "".join(
        f'<button type="button" class="{name}">{words}</button>' for name, words in texts.CROP_BUTTONS.items()
    )
    return (
        f'<dialog class="cropping" aria-label="{texts.CROPPING}" data-whole="{content_hash(whole)}" '
        f'data-box="{json.dumps(list(box))}" data-least="{LEAST_CROP}" data-width="{width}" data-height="{height}">'
        f'<div class="sheet" style="--ratio: {width / height:.6f}">'
        f'<img{coarse} src="{views.jpeg_uri(whole, CROP_SIDE)}" alt="The whole picture" draggable="false">'
        f'<div class="frame-of-crop">{edges}{corners}</div></div>'
        f'<p class="said"><span class="size" role="status"></span> <span>{texts.CROP_HINT}</span></p>'
        f'<div class="choices">{buttons}</div></dialog>'
    )
