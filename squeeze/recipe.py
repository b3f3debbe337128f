"""The recipe: one JSON of everything that made a picture. Version 1. In PNGs under the text key `squeeze`."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

VERSION = 1
PNG_KEY = "squeeze"
MAX_TEXT = 100_000  # characters of a recipe; more is not one of ours

FIELDS: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "profile": str,
    "revision": str,
    "prompt": str,
    "references": list,
    "balance": list,
    "stage_steps": list,
    "steps": int,
    "cfg": (int, float),
    "guidance": (int, float),
    "seed": int,
    "height": int,
    "width": int,
    "uncond": str,
    "late_text": str,
    "software": dict,
}


class RecipeError(ValueError):
    """A picture or text that carries no recipe we can read; the message is a sentence for the user."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A picture and where it was written."""

    path: Path
    recipe: dict[str, Any]


def write_png(picture: Image.Image, recipe: dict[str, Any], path: Path) -> Made:
    """Writes a PNG that carries its recipe."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(PNG_KEY, to_text(recipe))
    picture.save(path, format="PNG", pnginfo=info)
    return Made(path=path, recipe=recipe)


def to_text(recipe: dict[str, Any]) -> str:
    """The recipe as JSON on one line, keys in the order of FIELDS."""
    return json.dumps({key: recipe[key] for key in FIELDS}, ensure_ascii=False)


def read_png(path: Path) -> dict[str, Any]:
    """The recipe inside a PNG; raises RecipeError."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            text = picture.info.get(PNG_KEY)  # write_png puts it before the pixels, so none are decoded
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise RecipeError("This file could not be read as a PNG. Choose a picture that this program wrote.") from error
    if text is None:
        raise RecipeError("This picture carries no recipe. Choose a PNG that this program wrote and nothing re-saved.")
    return from_text(text)


def from_text(text: str) -> dict[str, Any]:
    """Parses and checks a recipe; raises RecipeError."""
    if len(text) > MAX_TEXT:
        raise RecipeError(f"This recipe has {len(text):,} characters; a real one has less than {MAX_TEXT:,}.")
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError("This recipe is damaged: it is not valid JSON.") from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("version"), int):
        raise RecipeError("This is JSON, but not a recipe: it has no version.")
    if recipe["version"] < 1:
        raise RecipeError(f"This recipe is damaged: version is {recipe['version']}.")
    if recipe["version"] > VERSION:
        raise RecipeError(
            f"This recipe is of version {recipe['version']}; this program reads up to {VERSION}. Update it."
        )
    for key, kind in FIELDS.items():
        if key not in recipe:
            raise RecipeError(f"This recipe is incomplete: {key} is missing.")
        if not isinstance(recipe[key], kind) or isinstance(recipe[key], bool):
            raise RecipeError(f"This recipe is damaged: {key} is {str(recipe[key])[:60]!r}.")
    extra = recipe.keys() - FIELDS.keys()
    if extra:
        raise RecipeError(f"This recipe has a field this program does not know: {sorted(map(str, extra))[0][:60]!r}.")
    return recipe
