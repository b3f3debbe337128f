"""A recipe as a link, as a command and as a call of the HTTP API; each makes the same picture with the same recipe."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from .recipe import FIELDS, MAX_TEXT, OPTIONS, RecipeError, checked


def to_query(recipe: dict[str, Any]) -> str:
    """The recipe as a link's query string, without the question mark."""
    return urlencode({key: kind.write(recipe[key]) for key, kind in FIELDS.items()}, safe=",:;")


def from_query(params: Mapping[str, str]) -> dict[str, Any] | None:
    """The recipe of a link's decoded parameters, None where none of them is a recipe's. Others beside it are left
    alone: browsers, page and mailing lists add their own. Raises RecipeError."""
    given = {key: params[key] for key in FIELDS if key in params}
    if not given:
        return None
    length = sum(len(value) for value in given.values())
    if length > MAX_TEXT:
        raise RecipeError(f"This link's recipe has {length:,} characters; a real one has less than {MAX_TEXT:,}.")
    return checked({key: FIELDS[key].read(value) for key, value in given.items()}, "link")


def to_command(recipe: dict[str, Any], *references: str, adapter: str | None = None) -> str:
    """The command that draws the picture again, quoted for a POSIX shell; `references` are the paths of its own, and
    `adapter` that of the folder which its profile needs."""
    words = [("profile", recipe["profile"]), *(("reference", path) for path in references)]
    words += [("adapter", adapter)] if adapter else []
    words += [(key, FIELDS[key].write(recipe[key])) for key in OPTIONS]
    words.append(("out", f"squeeze-{recipe['seed']}.png"))
    flags = []
    for name, word in words:
        between = "=" if word.startswith("-") else " "  # a prompt may begin as a flag does
        flags.append(f"--{name.replace('_', '-')}{between}{shlex.quote(word)}")
    return " ".join(["python -m squeeze generate", *flags])


def to_client(recipe: dict[str, Any], address: str, reference: str, *more: str) -> str:
    """Python that asks the page at `address` for the picture again; the references are paths or addresses."""
    arguments = "\n".join(f"    {key}={recipe[key]!r}," for key in OPTIONS)
    if more:
        arguments = f"    more=[{', '.join(f'handle_file({path!r})' for path in more)}],\n{arguments}"
    return f"""from gradio_client import Client, handle_file

picture, recipe = Client({address!r}).predict(
    reference=handle_file({reference!r}),
{arguments}
    api_name="/generate",
)
print(picture)
"""
