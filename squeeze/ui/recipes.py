"""The recipe on the page: its forms to copy, and how one sets every control again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..images import content_hash, open_picture
from ..models.profiles import Profile
from ..pipeline import default_request, plan
from ..recipe import RecipeError, asked, from_text
from ..recipe_forms import to_client, to_command, to_query
from ..request import Request, RequestError, is_whole
from . import texts
from .visits import Visits

REMEMBERED = 24  # recipes of a visitor's history
MOST_READ = 2 * REMEMBERED  # entries of what a browser claims to be one
FORMS = ("link", "command", "client", "json")
PLACEHOLDER = "reference.png"


def forms(recipe: dict[str, Any], page: str, parts: Mapping[str, gr.Textbox]) -> dict[Any, Any]:
    """The recipe in each form as changes of the page; `page` is the page's address."""
    shown = {
        "link": f"{page}?{to_query(recipe)}",
        "command": to_command(recipe, PLACEHOLDER),
        "client": to_client(recipe, page, PLACEHOLDER),
        "json": json.dumps(recipe, ensure_ascii=False, indent=1),
    }
    return {parts[name]: shown[name] for name in FORMS}


def from_paste(text: Any) -> dict[str, Any]:
    """The recipe in a pasted text; raises RecipeError."""
    if not isinstance(text, str) or not text.strip():
        raise RecipeError(texts.NO_RECIPE)
    return from_text(text.strip())


def from_past(past: Any, index: Any) -> dict[str, Any]:
    """An entry of a browser's history; raises RecipeError."""
    kept = remembered(past)
    if not is_whole(index) or not 0 <= index < len(kept):
        raise RecipeError(texts.NO_RECIPE)
    return kept[index]


def remembered(past: Any) -> list[dict[str, Any]]:
    """The newest REMEMBERED recipes of a browser's history, without what is no recipe: anything may stand there."""
    kept = []
    for recipe in past[:MOST_READ] if isinstance(past, list) else []:
        with suppress(RecipeError, RecursionError):
            kept.append(from_text(json.dumps(recipe)))
    return kept[:REMEMBERED]


def requested(recipe: dict[str, Any], profile: Profile, reference: Image.Image) -> Request:
    """The request of a recipe, checked; raises RequestError or RecipeError where it does not fit this page."""
    if recipe["profile"] != profile.name:
        raise RecipeError(texts.OTHER_PROFILE.format(theirs=recipe["profile"], ours=profile.name))
    return default_request(profile, references=(reference,), **asked(recipe)).checked(profile.limits)


def find_reference(
    recipe: dict[str, Any], current: str | None, examples: list[Path], visits: Visits, session: str
) -> tuple[Image.Image, str | None] | None:
    """The recipe's reference and, where it is an example, its path: the picture in the box, an example, or one this
    visitor has used. None where it is none of these."""
    if len(recipe["references"]) != 1:
        return None
    wanted = recipe["references"][0]
    for path in ([current] if current else []) + [str(example) for example in examples]:
        try:
            picture = open_picture(path)
        except RequestError:
            continue
        if content_hash(picture) == wanted:
            return picture, path
    kept = visits.reference(session, wanted)
    return (kept, None) if kept else None


def automatic(profile: Profile, steps: int) -> tuple[int, int, int]:
    """The whole steps of each stage where nobody moved the borders."""
    return plan(profile, default_request(profile, prompt="", references=(), steps=steps))[1]
