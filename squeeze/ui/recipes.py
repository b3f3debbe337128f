"""The recipe on the page: its forms to copy, and how one sets every control again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..images import content_hash, open_picture
from ..models.profiles import PROFILES, Profile
from ..pipeline import default_request, plan
from ..recipe import RecipeError, asked, from_text
from ..recipe_forms import to_client, to_command, to_query
from ..request import Request, RequestError, is_whole
from . import texts
from .visits import REMEMBERED, Visits

MOST_READ = 2 * REMEMBERED  # entries of what a browser claims to be one
FORMS = ("link", "command", "client", "json")


def forms(recipe: dict[str, Any], page: str, parts: Mapping[str, gr.Textbox]) -> dict[Any, Any]:
    """The recipe in each form as changes of the page; `page` is the page's address."""
    several = len(recipe["references"]) > 1
    paths = [f"reference-{n}.png" if several else "reference.png" for n, _ in enumerate(recipe["references"], 1)]
    profile = PROFILES.get(recipe["profile"])
    adapter = "adapter" if profile and profile.adapter else None
    shown = {
        "link": f"{page}?{to_query(recipe)}",
        "command": to_command(recipe, *paths, adapter=adapter),
        "client": to_client(recipe, page, *(paths or ["reference.png"])),
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


def requested(recipe: dict[str, Any], profile: Profile, references: tuple[Image.Image, ...]) -> Request:
    """The request of a recipe, checked; raises RequestError or RecipeError where it does not fit this page."""
    if recipe["profile"] != profile.name:
        raise RecipeError(texts.OTHER_PROFILE.format(theirs=recipe["profile"], ours=profile.name))
    return default_request(profile, references=references, **asked(recipe)).checked(profile.limits)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A reference of a recipe; `path` where it is a file, None where only this visitor's memory has it."""

    picture: Image.Image
    path: str | None


def find_references(
    recipe: dict[str, Any], current: Sequence[str | None], examples: Mapping[str, Path], visits: Visits, session: str
) -> list[Found | None]:
    """The recipe's references in their order: a picture in one of the boxes, an example (by content hash) or one that
    this visitor has used; None for one that is none of these."""
    here: dict[str, Found] = {}
    for path in filter(None, current):
        with suppress(RequestError):
            picture = open_picture(path)
            here[content_hash(picture)] = Found(picture=picture, path=path)
    return [here.get(digest) or _example(digest, examples) or _used(digest, visits, session)
            for digest in recipe["references"]]  # fmt: skip


def _example(digest: str, examples: Mapping[str, Path]) -> Found | None:
    path = examples.get(digest)
    if path is None or not path.is_file():
        return None
    return Found(picture=open_picture(path), path=str(path))


def _used(digest: str, visits: Visits, session: str) -> Found | None:
    picture = visits.reference(session, digest)
    return Found(picture=picture, path=None) if picture else None


def missing(recipe: dict[str, Any], found: Sequence[Found | None], what: str) -> str:
    """Says `what` and asks for the references that were not found."""
    digests = [digest for digest, one in zip(recipe["references"], found, strict=True) if one is None]
    asks = texts.NO_REFERENCE.format(digest=", ".join(digests)) if digests else texts.NO_SUBJECT
    return f"{what} {asks}"


def merged(theirs: Any, ours: Any) -> list[dict[str, Any]]:
    """The history of two tabs of one browser: what only the other one has comes first, as the newer."""
    kept = remembered(ours)
    return [*(recipe for recipe in remembered(theirs) if recipe not in kept), *kept][:REMEMBERED]


def automatic(profile: Profile, **asked: int) -> tuple[int, int, int]:
    """The whole steps of each stage where nobody moved the borders; `asked` may be steps, width and height."""
    return plan(profile, default_request(profile, prompt="", references=(), **asked))[1]
