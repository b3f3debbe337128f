"""Recipes that come back and the history that is kept: what was made once sets every control again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..recipe import RecipeError, read_file
from ..recipe_forms import from_query
from ..request import RequestError
from . import recipes, texts, views
from .film import history
from .handlers import Going, Handlers
from .reloads import reloads
from .sent import path_of
from .show import Parts, Shown, Visitor, controls
from .subjects import Subject, back
from .wiring import LIGHT, QUEUED, listed, resting, visitor

TELL = "(past) => window.squeezeTold?.(past)"  # to the other tabs of this browser


def memory(
    page: gr.Blocks, handlers: Handlers, parts: Parts, source: dict[str, Any], subjects: Sequence[Subject],
    going: gr.State,
) -> None:  # fmt: skip
    """A recipe from a file, a text, the history or the page's link sets every control again; the history is kept.
    While a run is `going` the status line is its own, and what went wrong is said beside it."""
    past, profile = source["past"], handlers.models.profile
    pictures = [one.picture for one in subjects]
    restores = [
        *parts.form.values(), *(one.looked for one in subjects), parts.preset, *parts.sliders, parts.status,
        parts.recipe, *parts.forms.values(),
    ]  # fmt: skip

    def restored(recipe: dict[str, Any], now: Going | None, given: Sequence[Any], who: Visitor) -> Shown:
        found = handlers.find(recipe, given, who)
        stand_in = Image.new("RGB", (profile.size, profile.size))
        references = tuple(one.picture if one else stand_in for one in found or [None])
        request = recipes.requested(recipe, profile, references)
        size = {"width": request.width, "height": request.height}
        counts, automatic = request.stage_steps, recipes.automatic(profile, steps=request.steps, **size)
        shown = controls(request, counts or automatic, parts, moved=counts not in (None, automatic))
        shown |= {parts.recipe: recipe, **recipes.forms(recipe, who.page, parts.forms)}
        shown |= back(handlers, subjects, found, given, tuple(size.values()))
        if not found or None in found:
            sentence = recipes.missing(recipe, found, texts.WITHOUT_SUBJECT)
            if not resting(now):
                gr.Warning(sentence)
            return shown | {parts.status: views.status(sentence, "failed")}
        return shown | {parts.status: views.status(texts.RESTORED, "idle")}

    def restore(
        request: gr.Request, now: Going | None, given: Sequence[Any], read: Callable[[], dict[str, Any] | None]
    ) -> Shown:
        """Sets all or, where the recipe is none of ours, nothing but the status line."""
        try:
            recipe = read()
            shown = restored(recipe, now, given, visitor(request)) if recipe else {}
        except (RequestError, RecipeError) as error:
            gr.Warning(escape(str(error), quote=False))
            shown = {parts.status: views.status(str(error), "failed")}
        return shown if resting(now) else shown | {parts.status: gr.skip()}

    def from_file(request: gr.Request, now: Going | None, file: Any, *given: Any) -> Shown:
        path = path_of(file)
        shown = restore(request, now, given, lambda: read_file(Path(path))) if path else {}
        return shown | {source["file"]: None}  # the box is free for the next

    def from_text(request: gr.Request, now: Going | None, text: Any, *given: Any) -> Shown:
        return restore(request, now, given, lambda: recipes.from_paste(text))

    def from_past(event: gr.EventData, request: gr.Request, now: Going | None, past: Any, *given: Any) -> Shown:
        return restore(request, now, given, lambda: recipes.from_past(past, getattr(event, "index", None)))

    def opened(request: gr.Request, past: Any) -> Shown:
        """The history that the browser has kept, and the recipe of the link."""
        shown = {source["history"]: history(recipes.remembered(past), {})}
        return shown | restore(request, None, (), lambda: from_query(dict(request.query_params)))

    def told(event: gr.EventData, request: gr.Request, ours: Any) -> Shown:
        """Another tab of this browser has a new history; an empty one was cleared there."""
        theirs = getattr(event, "past", None)
        kept = recipes.merged(theirs, ours) if theirs else []
        if kept == recipes.remembered(ours):
            return {past: gr.skip()}
        return {past: kept, source["history"]: listed(handlers, request, kept)}

    file, text = source["file"], source["text"]
    file.upload(from_file, inputs=[going, file, *pictures], outputs=[*restores, file], **QUEUED)
    source["use"].click(from_text, inputs=[going, text, *pictures], outputs=restores, **QUEUED)
    source["history"].pick(from_past, inputs=[going, past, *pictures], outputs=restores, **QUEUED)
    source["history"].told(told, inputs=past, outputs=[past, source["history"]], **LIGHT)
    past.change(fn=None, js=TELL, inputs=past)
    source["clear"].click(lambda: ([], history([], {})), outputs=[past, source["history"]], **LIGHT)
    event = {"fn": opened, "inputs": past, "outputs": [*restores, source["history"]]} | QUEUED
    reloads(page, event, handlers, parts, subjects)
