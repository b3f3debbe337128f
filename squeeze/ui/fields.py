"""Input components that hand on what the visitor gave, so that our own checks speak and not a generic "Error"."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.data_classes import ImageData


class Upload(gr.Image):
    """A gr.Image whose upload is not opened before we do it: gradio's own preprocess lets PIL raise on text files and bombs.

    The handler gets the file's path, or None where there is none.
    """

    is_template = True  # drawn by gr.Image's front end

    def preprocess(self, payload: ImageData | None) -> str | None:
        """The path of the uploaded file, which gradio has already checked to lie in its upload folder."""
        return payload.path if payload else None


class AnyNumber(gr.Number):
    """A number of the API that arrives as it was sent; request.py says what is wrong with it."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        """The value as it was sent."""
        return payload
