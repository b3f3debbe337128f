"""The pictures of the subject: their boxes, what is said of each, and the crop. One box for each reference that the
profile takes; those after the first appear one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gradio as gr

from ..checks import Inspection, cropped, inspect
from ..images import content_hash, open_picture
from ..request import RequestError, is_whole
from . import recipes, texts, views
from .check import LISTENERS, WHOLE, check
from .handlers import Handlers, sentence
from .sent import Sent, from_json, kept, path_of

WEB_FORMATS = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".avif"}  # what a browser shows without our help
SOURCES = ["upload", "webcam", "clipboard"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One box: the picture that goes into the request, what the models get of it, and the path of the file it was
    cropped from with the crop's box, None where there is none."""

    picture: gr.Image
    looked: gr.HTML
    uncropped: gr.State

    def shows(self, picture: Any, looked: str) -> dict[Any, Any]:
        """The changes that put a picture, a path or nothing into the box. As an update, here and below, since gradio
        makes the next yield of a run out of this one, in place: a bare file would lose its path in the browser. And
        what it writes of a bare one may be on no list, so that bounds.py would never delete it."""
        return {self.picture: gr.update(value=picture), self.looked: looked}


def field(number: int) -> str:
    """The name of a box in the page's form."""
    return "reference" if number == 1 else f"reference_{number}"


def box(number: int) -> gr.Image:
    """The box of the subject's picture, `number` from 1."""
    first = number == 1
    picture = gr.Image(
        label="Subject" if first else texts.ANOTHER.format(number=number), type="filepath", image_mode=None,
        format="png", sources=SOURCES, placeholder=texts.UPLOAD if first else texts.UPLOAD_ANOTHER, buttons=[],
        elem_id="reference" if first else f"reference-{number}", elem_classes="reference",
        alt_text="The subject you gave",
    )  # fmt: skip
    picture.data_model = Sent
    return picture


def subject(picture: gr.Image, number: int) -> Subject:
    """The box with its views, which stand where this is called."""
    name = "looked" if number == 1 else f"looked-{number}"
    looked = gr.HTML(
        "", js_on_load=LISTENERS.read_text(), elem_id=name, elem_classes="looked", padding=False,
        apply_default_css=False,
    )  # fmt: skip
    return Subject(picture=picture, looked=looked, uncropped=gr.State())


def look(handlers: Handlers, sent: Any, size: Sequence[Any], wanted: str | None = None) -> tuple[Any, str, str]:
    """A fresh picture: what the models get of it, what is wrong with it, and formats a browser cannot show. `wanted` is
    the content hash of the picture that a recipe on the page was made with; None where it asks for none. Here and
    below `size` is width and height of the picture to draw as the browser sends them, or nothing."""
    if (path := path_of(sent)) is None:
        return gr.skip(), views.status(texts.READY, "idle"), ""
    try:
        looked = _inspected(handlers, path, size)
    except RequestError as error:
        gr.Warning(escape(str(error), quote=False))
        return None, views.status(str(error), "failed"), ""
    shown = gr.skip() if Path(path).suffix.lower() in WEB_FORMATS else gr.update(value=looked.picture)
    return shown, said(looked, wanted), check(looked)


def renewed(handlers: Handlers, sent: Any, uncropped: Any, size: Sequence[Any]) -> Any:
    """What the models get of the picture in a box once the size of the picture to draw has changed."""
    if (path := path_of(sent)) is None or not Path(path).is_file():
        return gr.skip()
    try:
        if uncropped and Path(uncropped[0]).is_file():
            whole, box = uncropped
            if content_hash(cropped(open_picture(whole), box)) == content_hash(open_picture(path)):
                return check(_inspected(handlers, whole, size, box), box)
        return check(_inspected(handlers, path, size))
    except RequestError:
        return gr.skip()  # it was said when the picture came


def said(looked: Inspection, wanted: str | None) -> str:
    """The status line of a new picture, see `look`."""
    if wanted is None:
        return views.status(texts.READY, "idle")
    same = content_hash(looked.picture) == wanted
    return views.status(texts.SAME_PICTURE if same else texts.OTHER_PICTURE, "idle")


def _inspected(handlers: Handlers, source: Any, size: Sequence[Any], box: Any = None) -> Inspection:
    limits, sides = handlers.models.profile.limits, [from_json("width", side) for side in size]
    asked = (sides[0], sides[1]) if len(sides) == 2 and all(map(limits.takes, sides)) else None
    return inspect(handlers.models, source, box=box, size=asked)


def back(
    handlers: Handlers,
    asked: Sequence[Subject],
    found: Sequence[recipes.Found | None],
    given: Sequence[Any],
    size: Sequence[Any],
) -> dict[Any, Any]:
    """The changes that put a request's pictures into the boxes, which hold `given`. A box whose picture is right stays
    as it is, its crop too; one whose picture was not found, or that has none, is emptied."""
    shown: dict[Any, Any] = {}
    for subject, one, sent in zip_longest(asked, found, given):
        if one is None:
            shown |= subject.shows(None, "")
        elif one.path is None or one.path != path_of(sent):
            shown |= subject.shows(one.path or one.picture, check(_inspected(handlers, one.picture, size)))
    return shown


def pick(handlers: Handlers, event: gr.EventData, size: Sequence[Any], wanted: str | None) -> tuple[Any, str, str]:
    """The example that was clicked, the status line, and what the models get of it; `wanted` as in `look`."""
    index = getattr(event, "index", None)
    if not is_whole(index) or not 0 <= index < len(handlers.examples) or not handlers.examples[index].is_file():
        raise gr.Error(texts.GONE, print_exception=False)
    path = handlers.examples[index]
    looked = _inspected(handlers, path, size)
    return gr.update(value=str(path)), said(looked, wanted), check(looked)


def crop(
    handlers: Handlers, event: gr.EventData, sent: Any, uncropped: Any, size: Sequence[Any], wanted: str | None
) -> tuple[Any, str, str, tuple[str, Any] | None]:
    """The part of a picture that was chosen, the status line, what the models get of it, and for Subject.uncropped
    where it came from; `wanted` as in `look`. The part is chosen on the picture in the box or on what that was cropped
    from; its content hash says on which. Anything may be sent."""
    whole, chosen = getattr(event, "whole", None), getattr(event, "box", None)
    chosen = () if chosen is None else chosen  # no box at all, where a crop was asked for
    try:
        for path in filter(None, (path_of(sent), uncropped and uncropped[0])):
            if not Path(path).is_file() or content_hash(open_picture(kept(path))) != whole:
                continue
            looked = _inspected(handlers, path, size, chosen)
            if tuple(chosen) == WHOLE and Path(path).suffix.lower() in WEB_FORMATS:
                return gr.update(value=path), said(looked, wanted), check(looked), None
            return gr.update(value=looked.picture), said(looked, wanted), check(looked, chosen), (path, chosen)
    except RequestError as error:
        raise sentence(error) from error
    raise gr.Error(texts.WHOLE_GONE, print_exception=False)
