"""The recipe on the page: its forms to copy, and how one sets every control again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..images import content_hash, open_picture
from ..models.profiles import Profile
from ..pipeline import default_request, plan
from ..recipe import RecipeError, asked, checked, from_text, read_file
from ..recipe_forms import from_query, to_client, to_command, to_query
from ..request import Request, RequestError
from . import texts
from .timeline import state
from .visits import Visits

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


def loaded(path: str | None, text: Any, query: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """The recipe in a file, a text or a link's parameters, whichever is given; None where a link holds none. Raises
    RecipeError."""
    if query is not None:
        return from_query(query)
    if path is not None:
        return read_file(Path(path))
    if not isinstance(text, str) or not text.strip():
        raise RecipeError(texts.NO_RECIPE)
    return from_text(text.strip())


def remembered(past: Any) -> list[dict[str, Any]]:
    """A browser's history without what is no recipe."""
    kept = []
    for recipe in past if isinstance(past, list) else []:
        try:
            kept.append(checked(recipe, "recipe") if isinstance(recipe, dict) else None)
        except RecipeError:
            continue
    return [recipe for recipe in kept if recipe is not None]


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


def timeline_state(request: Request, profile: Profile) -> dict[str, Any]:
    """The timeline's value for a request: its borders count as set by hand where the thresholds give others."""
    counts = plan(profile, request)[1]
    automatic = plan(profile, default_request(profile, prompt="", references=(), steps=request.steps))[1]
    return state(counts, request.balance, touched=counts != automatic, earlier=request.earlier)
