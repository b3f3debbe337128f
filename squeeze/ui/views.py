"""What a run looks like: the picture, the stages' pictures, the bar of steps and the status line, as HTML.

Pictures travel as data URIs, so previews leave nothing on the disk. Boxes have fixed proportions (style.css): nothing
moves while previews stream.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from . import texts

NAMED, LONGEST = 5, 20  # unknown words, and letters of each, that the status line names
PREVIEW_SIDE = 512  # pixels; larger previews are shrunk on their way to the page, smaller ones the browser enlarges

BEAR = """<svg viewBox="0 0 120 132" aria-hidden="true"><g class="felt"><circle cx="33" cy="25" r="14"/>
<circle cx="87" cy="25" r="14"/><ellipse cx="26" cy="88" rx="10" ry="16" transform="rotate(28 26 88)"/>
<ellipse cx="94" cy="88" rx="10" ry="16" transform="rotate(-28 94 88)"/><ellipse cx="60" cy="96" rx="29" ry="28"/>
<ellipse cx="41" cy="122" rx="13" ry="9"/><ellipse cx="79" cy="122" rx="13" ry="9"/>
<ellipse cx="60" cy="45" rx="34" ry="30"/></g>
<g class="patch"><circle cx="33" cy="25" r="7"/><circle cx="87" cy="25" r="7"/>
<ellipse cx="60" cy="55" rx="15" ry="11"/><ellipse cx="60" cy="99" rx="17" ry="17"/></g>
<g class="thread"><path d="M60 16v22M60 56v8M60 84v30"/></g>
<g class="bead"><circle cx="47" cy="42" r="3.2"/><circle cx="73" cy="42" r="3.2"/>
<ellipse cx="60" cy="51" rx="4.6" ry="3.2"/></g></svg>"""


def jpeg_uri(picture: Image.Image, side: int = PREVIEW_SIDE) -> str:
    """A small JPEG of a picture as a data URI; under a millisecond for 64 pixels."""
    if max(picture.size) > side:
        picture = picture.copy()
        picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def png_uri(path: Path) -> str:
    """A PNG file byte for byte as a data URI, so that a picture saved from the page carries its recipe too."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def empty() -> str:
    """The picture's box before the first run."""
    return f'<figure class="view" data-state="empty">{BEAR}<figcaption>{texts.EMPTY}</figcaption></figure>'


def preview(uri: str, alt: str, step: int, stage: int) -> str:
    """The picture's box while it is drawn; `step` (from 1) and `stage` let the filmstrip grow by it, see film.js."""
    return _box(uri, alt, "running", f'data-step="{step}" data-stage="{stage + 1}"')


def finished(uri: str, alt: str, name: str) -> str:
    """The picture's box with the finished picture; `name` is that of its file, see saving.py."""
    return _box(uri, alt, "done", f'data-name="{name}"')


def _box(uri: str, alt: str, state: str, data: str) -> str:
    """Decoded in step with the page, so frames do not flash."""
    image = f'<img src="{uri}" alt="{escape(alt)}" decoding="sync" {data}>'
    return f'<figure class="view" data-state="{state}">{image}</figure>'


def kept(uris: Sequence[str | None]) -> str:
    """The picture at the end of each stage, an empty place where a stage is still to come."""
    slots = []
    for stage, ((name, _), uri) in enumerate(zip(texts.STAGES, uris, strict=True), 1):
        alt = f"The picture at the end of stage {stage}, {name}"
        inside = f'<img src="{uri}" alt="{alt}" decoding="sync">' if uri else '<span class="hole"></span>'
        slots.append(f'<figure class="slot stage-{stage}">{inside}<figcaption>{name}</figcaption></figure>')
    return f'<div class="kept">{"".join(slots)}</div>'


def status(line: str, state: str, unknown: Sequence[str] = (), offer: str | None = None) -> str:
    """The status line, after it a button that sets the preset `offer`, under it the prompt's unknown words. `state` is
    idle, busy, done, stopped or failed."""
    role = ' role="alert"' if state == "failed" else ' aria-live="off"' if state == "busy" else ' role="status"'
    words = _named(unknown) if unknown else ""
    said = texts.OFFER.format(preset=offer)
    button = f' <button type="button" class="offer" data-preset="{offer}">{said}</button>' if offer else ""
    return (
        f'<div class="status" data-state="{state}"><p class="line"{role}>{escape(line, quote=False)}{button}</p>'
        f'<p class="unknown">{escape(words, quote=False)}</p></div>'
    )


def _named(unknown: Sequence[str]) -> str:
    """Some unknown words and how many more there are, in no more room than the page has for them."""
    few = [word if len(word) <= LONGEST else f"{word[:LONGEST]}…" for word in unknown[:NAMED]]
    more = [texts.MORE.format(number=len(unknown) - NAMED)] if len(unknown) > NAMED else []
    return texts.UNKNOWN.format(words=", ".join([*few, *more]))


def examples(paths: Sequence[Path]) -> str:
    """A button per example picture; the page's listener gets its index."""
    buttons = []
    for index, path in enumerate(paths):
        name = escape(path.stem.replace("-", " ").replace("_", " "))
        with Image.open(path) as opened:
            uri = jpeg_uri(opened.convert("RGB"), side=160)
        image = f'<img src="{uri}" alt="Example: {name}">'
        buttons.append(f'<button type="button" data-index="{index}" title="{name}">{image}</button>')
    return f'<div class="examples" role="group" aria-label="Example toys">{"".join(buttons)}</div>'


def header(model: str) -> str:
    """Name, what it is, and which model is loaded."""
    mark = '<span class="mark" aria-hidden="true"><i></i><i></i><i></i></span>'
    return (
        f'<header class="top"><h1>{mark}{texts.TITLE}</h1><p>{texts.TAGLINE}</p>'
        f'<span class="model">{escape(model)}</span></header>'
    )


def step_line(step: int, steps: int, stage: int, t: float, left: float) -> str:
    """The status line while steps are done: `step` from 1, `left` in seconds."""
    remaining = f"{left:.0f} s left" if left >= 1 else "under 1 s left"
    return texts.STEP.format(step=step, steps=steps, stage=texts.STAGES[stage][0], t=t, left=remaining)
