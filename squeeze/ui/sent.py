"""What browsers and API clients send, as it comes: pictures as files, numbers and lists as JSON.

Inputs arrive as they were sent (`preprocess=False`): gradio's own look at them would let PIL raise on text files and
bombs, and answer a number out of range in its own words. Our checks in request.py and images.py speak instead.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradio.data_classes import ImageData, ListFiles
from gradio_client.utils import is_file_obj_with_meta
from PIL import Image

from ..images import open_picture
from ..request import RequestError

WHOLE = ("steps", "stage_steps", "seed", "height", "width")  # fields of Request


class Sent(ImageData):
    """What a browser or an API client sends as a picture. Gradio makes sure that a file lies in its upload folder only
    where the file is marked as one; anything unmarked, a path to some file of this machine, counts as none."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Sent:
        """Gradio calls this on what arrived, before any handler; an error here would reach nobody as a sentence."""
        return super().model_validate(obj if is_file_obj_with_meta(obj) else {}, **options)


class SentSeveral(ListFiles):
    """Pictures from an API client, each as Sent takes it."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> SentSeveral:
        """A picture that is none keeps its place, so that a sentence can be said of it."""
        none = {"path": "", "meta": {"_type": "gradio.FileData"}}
        files = [one if is_file_obj_with_meta(one) else none for one in (obj if isinstance(obj, list) else [])]
        return super().model_validate(files, **options)


def path_of(sent: Any) -> str | None:
    """The path of an uploaded file as gradio gives it after Sent."""
    path = sent.get("path") if isinstance(sent, dict) else None
    return path if isinstance(path, str) and path else None


def kept(path: str) -> str:
    """The path of an upload that is used, marked as new: gradio deletes uploads by the age of their last change, and
    one that still shows in its box would be gone in the middle of a visit."""
    with suppress(OSError, ValueError):  # gone, somebody else's file or no path: whoever opens it has a sentence
        os.utime(path)
    return path


def picture_of(path: str) -> Image.Image:
    """An upload as a clean picture, see open_picture. Raises RequestError, of its own kind where gradio has deleted
    it."""
    if not os.path.exists(kept(path)):
        raise RequestError("gone", value=Path(path).name)
    return open_picture(path)


def from_json(name: str, value: Any) -> Any:
    """A field of Request from JSON: a list as a tuple, rows in it too; in a field of whole numbers 25.0 as 25, since
    not all that send JSON tell them apart; anything else, lists nested deeper among it, as it is."""
    if isinstance(value, list):
        return tuple(tuple(one) if isinstance(one, list) else from_json(name, one) for one in value)
    if name in WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
