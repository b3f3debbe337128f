"""The recipe: one JSON of everything that made a picture. Version 2. In PNGs under the text key `squeeze`.

Recipes come from strangers: what is read is data of the kinds in FIELDS and nothing else. Whether its values make sense
together is judged by Request. Its other forms, a link, a command and a call, are in recipe_forms.py.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from .request import is_number, is_whole

VERSION = 2
PNG_KEY = "squeeze"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NONE = "none"  # an empty list in plain text; readers of links drop what is empty
MAX_TEXT = 100_000  # characters of a recipe; more is not one of ours


class RecipeError(ValueError):
    """A picture, text or link that carries no recipe we can read; the message is a sentence for the user."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a field may hold, and its plain text in links and on the command line: one word, there and back."""

    fits: Callable[[Any], bool]
    write: Callable[[Any], str]
    read: Callable[[str], Any]


def number(text: str) -> int | float | str:
    """A number as whole as it was written; what is none stays as it is, for a check that says so."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def plain(value: float) -> int | float:
    """A number as browsers write it, to whom 1.0 is 1 and -0.0 is 0, so that no recipe changes on its way through."""
    return int(value) if value == int(value) else value


def _is_text(value: Any) -> bool:
    """Without control characters, which pasted into a terminal would be keys pressed, and halves of surrogate pairs."""
    return isinstance(value, str) and not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)


def _is_finite(value: Any) -> bool:
    return is_number(value) and -math.inf < value < math.inf


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None


def _is_versions(value: Any) -> bool:
    words = [*value.keys(), *value.values()] if isinstance(value, dict) else [None]
    return all(isinstance(word, str) and re.fullmatch("[A-Za-z0-9._+!-]+", word) for word in words)


def _several(kind: Kind, between: str = ",") -> Kind:
    return Kind(
        fits=lambda values: isinstance(values, list) and all(map(kind.fits, values)),
        write=lambda values: between.join(map(kind.write, values)) or NONE,
        read=lambda text: [kind.read(part) for part in text.split(between)] if text not in ("", NONE) else [],
    )


TEXT = Kind(fits=_is_text, write=str, read=str)
HASH = Kind(fits=_is_hash, write=str, read=str)  # images.content_hash
WHOLE = Kind(fits=is_whole, write=repr, read=number)
NUMBER = Kind(fits=_is_finite, write=repr, read=number)  # repr gives the very same float back
VERSIONS = Kind(
    fits=_is_versions,
    write=lambda versions: ",".join(f"{name}:{version}" for name, version in versions.items()),
    read=lambda text: dict(pair.partition(":")[::2] for pair in text.split(",")) if text else {},
)

FIELDS: dict[str, Kind] = {
    "version": WHOLE,
    "profile": TEXT,
    "revision": TEXT,
    "prompt": TEXT,
    "references": _several(HASH),
    "balance": _several(NUMBER),
    "stage_steps": _several(WHOLE),
    "steps": WHOLE,
    "cfg": NUMBER,
    "guidance": NUMBER,
    "seed": WHOLE,
    "height": WHOLE,
    "width": WHOLE,
    "eta": NUMBER,
    "uncond": TEXT,
    "late_text": TEXT,
    "earlier": _several(_several(NUMBER), ";"),
    "software": VERSIONS,
    "picture": HASH,
}
OPTIONS = (  # the fields of a Request: flags of the command line, arguments of the HTTP API
    "prompt", "balance", "stage_steps", "steps", "cfg", "guidance", "seed", "height", "width", "eta", "uncond",
    "late_text", "earlier",
)  # fmt: skip
NAMES = {  # where a field's own name does not say what it is
    "revision": "revision of the weights", "references": "reference", "stage_steps": "steps of the stages",
    "cfg": "CFG", "late_text": "late text", "earlier": "earlier balances", "picture": "picture, by its content hash",
}  # fmt: skip


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


def is_png(path: Path) -> bool:
    """Whether a file begins as a PNG does; raises RecipeError where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(len(PNG_SIGNATURE)) == PNG_SIGNATURE
    except OSError as error:
        raise RecipeError(
            f"There is no file {path.name} to read. Name a PNG that this program wrote, or JSON."
        ) from error


def read_file(path: Path) -> dict[str, Any]:
    """The recipe in a PNG or a JSON file; raises RecipeError."""
    if is_png(path):
        return read_png(path)
    with path.open("rb") as file:
        start = file.read(4 * MAX_TEXT + 1)  # UTF-8 takes up to four bytes a character
    try:
        return from_text(start.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path.name} is neither a PNG nor JSON. Name a PNG that this program wrote, or JSON."
        ) from error


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
    recipe = checked(recipe, "recipe")
    extra = recipe.keys() - FIELDS.keys()
    if extra:
        raise RecipeError(f"This recipe has a field this program does not know: {sorted(map(str, extra))[0][:60]!r}.")
    return recipe


def checked(recipe: dict[str, Any], what: str) -> dict[str, Any]:
    """The recipe, an older one as this version has it, if every field is there and of its kind; `what` it is called in
    sentences."""
    version = recipe.get("version")
    if is_whole(version) and version == 1:  # which drew no noise but the first
        recipe = {"eta": 0} | recipe | {"version": VERSION}
    if is_whole(version) and version > VERSION:  # before anything else: a later version may have other fields
        shown = reprlib.repr(version)
        raise RecipeError(f"This {what} is of version {shown}; this program reads up to {VERSION}. Update it.")
    missing = [key for key in FIELDS if key not in recipe]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise RecipeError(f"This {what} is incomplete: {', '.join(missing)} {verb} missing. Copy it whole.")
    for key, kind in FIELDS.items():
        if not kind.fits(recipe[key]) or (key == "version" and version < 1):
            raise RecipeError(f"This {what} is damaged: {key} is {reprlib.repr(recipe[key])[:60]}. Copy it again.")
    return recipe


def asked(recipe: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe are fields of a Request; its references are hashes and have to be found."""
    return {key: as_tuples(recipe[key]) for key in OPTIONS}


def as_tuples(value: Any) -> Any:
    """Lists from JSON as the tuples that Request holds, lists inside lists too; anything else as it is."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def differences(recipe: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """A sentence for everything in which a recipe drawn now, `other`, is not the recipe that was asked for."""
    found = [
        f"Not the same {NAMES.get(key, key)}: {_short(key, recipe)} in the recipe, {_short(key, other)} here."
        for key in FIELDS
        if key != "software" and recipe[key] != other[key]
    ]
    was, now = recipe["software"], other["software"]
    for name in dict.fromkeys([*was, *now]):
        if was.get(name) != now.get(name):
            there, here = was.get(name, "none"), now.get(name, "none")
            found.append(f"Not the same version of {name}: {there} in the recipe, {here} here.")
    return found


def _short(key: str, recipe: dict[str, Any]) -> str:
    text = FIELDS[key].write(recipe[key])
    return text if len(text) <= 60 else f"{text[:59]}…"
