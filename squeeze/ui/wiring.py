"""Which handler answers which press: balances that agree, runs that start and stop, recipes that come back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from ..balance import PRESETS
from ..checks import inspect
from ..pipeline import default_request, plan
from ..recipe import RecipeError
from ..request import RequestError, check_whole
from . import recipes, texts, views
from .check import check
from .film import history
from .handlers import Handlers, from_json, path_of
from .show import Parts, Shown, Visitor
from .timeline import read_balance, rest, state

DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

TO_TIMELINE = "(now, ...balance) => ({...now, balance, earlier: []})"
FROM_TIMELINE = "(now) => now.balance"
PRESET_TO_SLIDERS = f"(name, ...now) => ({json.dumps(PRESETS)})[name] ?? now"
PRESET_TO_TIMELINE = f"""(name, now) => {{
    const balance = ({json.dumps(PRESETS)})[name];
    return balance ? {{...now, balance, earlier: []}} : now;
}}"""
SLIDERS_TO_PRESET = f"""(...now) => Object.entries({json.dumps(PRESETS)})
    .find(([_, preset]) => preset.every((b, stage) => b === now[stage]))?.[0] ?? {json.dumps(texts.CUSTOM)}"""
TIMELINE_TO_PRESET = f"(now) => ({SLIDERS_TO_PRESET})(...now.balance)"


def balance(handlers: Handlers, form: dict[str, Any], preset: gr.Radio, sliders: list[gr.Slider]) -> None:
    """Presets, sliders and timeline show the same balances; the timeline's borders follow the number of steps."""
    control, steps, profile = form["timeline"], form["steps"], handlers.models.profile

    def automatic(value: Any, steps: Any) -> Any:
        try:
            asked = default_request(profile, prompt="-", references=(), steps=from_json("steps", steps))
            check_whole("steps", asked.steps, 1, profile.limits.steps)
            return state(plan(profile, asked)[1], read_balance(value))
        except RequestError:
            return gr.skip()  # said when it is run

    def recount(value: Any, steps: Any) -> Any:
        touched = not isinstance(value, dict) or value.get("touched")
        again = gr.skip() if touched else automatic(value, steps)
        return gr.skip() if isinstance(again, dict) and again.get("counts") == value.get("counts") else again

    preset.input(fn=None, js=PRESET_TO_SLIDERS, inputs=[preset, *sliders], outputs=sliders)
    preset.input(fn=None, js=PRESET_TO_TIMELINE, inputs=[preset, control], outputs=control)
    for slider in sliders:
        slider.input(fn=None, js=SLIDERS_TO_PRESET, inputs=sliders, outputs=preset)
        slider.input(fn=None, js=TO_TIMELINE, inputs=[control, *sliders], outputs=control)
    control.input(fn=None, js=FROM_TIMELINE, inputs=control, outputs=sliders)
    control.input(fn=None, js=TIMELINE_TO_PRESET, inputs=control, outputs=preset)
    latest: dict[str, Any] = {"trigger_mode": "always_last", "preprocess": False, **LIGHT}
    control.input(recount, inputs=[control, steps], outputs=control, **latest)
    steps.input(automatic, inputs=[control, steps], outputs=control, **latest)


def visitor(request: gr.Request, past: Any) -> Visitor:
    """Who asks. The page's address is what the browser says it is on, without the query."""
    page = str(request.headers.get("referer", "")).partition("?")[0]
    if not page.startswith(("http://", "https://")):
        page = f"http://{request.headers.get('host', 'localhost')}/"
    return Visitor(session=str(request.session_hash), page=page, past=recipes.remembered(past))


def runs(
    handlers: Handlers, form: dict[str, Any], parts: Parts, source: dict[str, Any], start: gr.Button, stop: gr.Button
) -> None:
    """Generate, Enter, Branch, Verify and Stop. The buttons change over at once, since the run itself may have to
    queue."""

    def running() -> Shown:
        return {
            start: gr.Button(interactive=False), stop: gr.Button(interactive=True),
            parts.branch: gr.Button(interactive=False), source["verify"]: gr.Button(interactive=False),
            parts.status: views.status(texts.QUEUED, "busy"),
        }  # fmt: skip

    def idle() -> Shown:
        return {
            start: gr.Button(interactive=True), stop: gr.Button(interactive=False),
            source["verify"]: gr.Button(interactive=True), parts.timeline: rest(),
        }  # fmt: skip

    def stopped(request: gr.Request) -> Shown:
        return idle() | handlers.stopped(parts, str(request.session_hash))

    def run(request: gr.Request, **given: Any) -> Iterator[Shown]:
        who = visitor(request, given.pop("past"))
        with closing(handlers.run(parts, given, who)) as changes:
            yield from changes

    def branch(request: gr.Request, past: Any, chosen: Any, value: Any) -> Iterator[Shown]:
        with closing(handlers.branch(parts, chosen, value, visitor(request, past))) as changes:
            yield from changes

    def verify(request: gr.Request, past: Any, recipe: Any, reference: Any) -> Iterator[Shown]:
        with closing(handlers.verify(parts, recipe, reference, visitor(request, past))) as changes:
            yield from changes

    def pick(event: gr.EventData, request: gr.Request) -> Shown:
        return handlers.choose(parts, event.run, event.step, str(request.session_hash))

    past, buttons = parts.past, [start, stop, parts.branch, source["verify"], parts.status]
    starts = (
        ([start.click, form["prompt"].submit], run, {"inputs_kwargs": form | {"past": past}}),
        ([parts.branch.click], branch, {"inputs": [past, parts.chosen, parts.timeline]}),
        ([source["verify"].click], verify, {"inputs": [past, parts.recipe, form["reference"]]}),
    )
    going = []
    for pressed, handler, inputs in starts:
        begun = gr.on(pressed, running, outputs=buttons, **LIGHT)
        run_of_it = begun.then(
            handler, **inputs, outputs=parts.all(), api_visibility="private", show_progress="full",
            show_progress_on=parts.status, preprocess=False, **DEVICE,
        )  # fmt: skip
        for ended in (run_of_it.success, run_of_it.failure):  # .then alone does not follow an error
            ended(idle, outputs=[start, stop, source["verify"], parts.timeline], **LIGHT)
        going.append(run_of_it)
    stop.click(fn=None, cancels=going).then(
        stopped, outputs=[start, stop, source["verify"], parts.timeline, parts.status, parts.film], **LIGHT
    )
    parts.film.pick(pick, outputs=[parts.chosen, parts.branch, parts.status], **LIGHT)


def memory(
    handlers: Handlers, form: dict[str, Any], parts: Parts, source: dict[str, Any], preset: gr.Radio,
    sliders: list[gr.Slider], looked: gr.HTML,
) -> None:  # fmt: skip
    """Uploads are looked at; a recipe from a file, a text, the history or the page's link sets every control again."""
    reference, profile = form["reference"], handlers.models.profile
    controls = [
        *form.values(), preset, *sliders, looked, parts.status, parts.recipe, *parts.forms.values(),
    ]  # fmt: skip

    def restored(recipe: dict[str, Any], current: Any, who: Visitor) -> Shown:
        found = recipes.find_reference(recipe, path_of(current), handlers.examples, handlers.visits, who.session)
        stand_in = found[0] if found else Image.new("RGB", (profile.size, profile.size))
        request = recipes.requested(recipe, profile, stand_in)
        values = {name: getattr(request, name) for name in form if hasattr(request, name)}
        named = next((name for name, balances in PRESETS.items() if balances == request.balance), texts.CUSTOM)
        shown: Shown = {form[name]: value for name, value in values.items()} | {
            form["timeline"]: recipes.timeline_state(request, profile), form["random"]: False, preset: named,
            parts.recipe: recipe, **dict(zip(sliders, request.balance, strict=True)),
            **recipes.forms(recipe, who.page, parts.forms),
        }  # fmt: skip
        if found is None:
            digest = ", ".join(recipe["references"]) or "none"
            missing = views.status(texts.NO_REFERENCE.format(digest=digest), "failed")
            return shown | {reference: None, looked: "", parts.status: missing}
        return shown | {
            reference: found[1] or found[0], looked: check(inspect(handlers.models, found[0])),
            parts.status: views.status(texts.RESTORED, "idle"),
        }  # fmt: skip

    def restore(request: gr.Request, past: Any, current: Any, file: Any, text: Any, query: Any = None) -> Shown:
        try:
            recipe = recipes.loaded(path_of(file), text, query)
            return restored(recipe, current, visitor(request, past)) if recipe else {parts.status: gr.skip()}
        except (RequestError, RecipeError) as error:
            gr.Warning(escape(str(error), quote=False))
            return {parts.status: views.status(str(error), "failed")}

    def from_file(request: gr.Request, past: Any, current: Any, file: Any) -> Shown:
        return restore(request, past, current, file, None) if path_of(file) else {parts.status: gr.skip()}

    def from_text(request: gr.Request, past: Any, current: Any, text: Any) -> Shown:
        return restore(request, past, current, None, text)

    def from_past(event: gr.EventData, request: gr.Request, past: Any, current: Any) -> Shown:
        kept = recipes.remembered(past)
        if not isinstance(event.index, int) or not 0 <= event.index < len(kept):
            raise gr.Error(texts.NO_RECIPE, print_exception=False)
        return restored(kept[event.index], current, visitor(request, past))

    def opened(request: gr.Request, past: Any) -> Shown:
        greeted = handlers.greet(parts, past, str(request.session_hash))
        return greeted | restore(request, past, None, None, None, dict(request.query_params))

    queued: dict[str, Any] = {  # or gr.Warning is lost
        "api_visibility": "private", "show_progress": "hidden", "preprocess": False, "concurrency_limit": None,
    }  # fmt: skip
    reference.upload(handlers.look, inputs=reference, outputs=[reference, parts.status, looked], **queued)
    reference.clear(lambda: "", outputs=looked, **LIGHT)
    source["file"].upload(from_file, inputs=[parts.past, reference, source["file"]], outputs=controls, **queued)
    source["use"].click(from_text, inputs=[parts.past, reference, source["text"]], outputs=controls, **queued)
    parts.history.pick(from_past, inputs=[parts.past, reference], outputs=controls, **queued)
    source["clear"].click(lambda: ([], history([], {})), outputs=[parts.past, parts.history], **LIGHT)
    gr.on(None, opened, inputs=parts.past, outputs=[*controls, parts.history], **queued)
