"""Which handler answers which press: balances that agree, runs that start and stop, recipes that come back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..balance import PRESETS
from ..checks import inspect
from ..recipe import RecipeError, read_file
from ..recipe_forms import from_query
from ..request import RequestError
from . import recipes, texts, views
from .check import check
from .film import history
from .handlers import Handlers, from_json, path_of
from .show import Parts, Shown, Visitor, controls
from .timeline import read_balance, rest, state

DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
QUEUED: dict[str, Any] = {  # without the queue a gr.Warning is lost, and a gr.Error is an HTTP error in the console
    "api_visibility": "private", "show_progress": "hidden", "preprocess": False, "concurrency_limit": None,
}  # fmt: skip

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
STEPS_TO_TIMELINE = """(steps, now) => {
    const counts = (TABLE)[steps], total = now.counts.reduce((sum, count) => sum + count);
    return counts && total !== steps ? {...now, counts, touched: false, earlier: []} : now;
}"""


def balance(handlers: Handlers, form: dict[str, Any], parts: Parts) -> None:
    """Presets, sliders and timeline show the same balances; the timeline's borders follow the number of steps. What
    the browser can work out is worked out there: an answer on its way would undo what a quick hand did meanwhile."""
    control, steps, preset, sliders = parts.timeline, form["steps"], parts.preset, parts.sliders
    profile = handlers.models.profile
    table = {number: recipes.automatic(profile, number) for number in range(1, profile.limits.steps + 1)}

    def recount(value: Any, steps: Any) -> Any:
        """The borders were given back: the thresholds' again."""
        number = from_json("steps", steps)
        counts = table.get(number) if isinstance(number, int) else None
        if counts is None or not isinstance(value, dict) or value.get("touched") or value.get("counts") == list(counts):
            return gr.skip()
        try:
            return state(counts, read_balance(value))
        except RequestError:
            return gr.skip()  # said when it is run

    preset.input(fn=None, js=PRESET_TO_SLIDERS, inputs=[preset, *sliders], outputs=sliders)
    preset.input(fn=None, js=PRESET_TO_TIMELINE, inputs=[preset, control], outputs=control)
    for slider in sliders:
        slider.input(fn=None, js=SLIDERS_TO_PRESET, inputs=sliders, outputs=preset)
        slider.input(fn=None, js=TO_TIMELINE, inputs=[control, *sliders], outputs=control)
    control.input(fn=None, js=FROM_TIMELINE, inputs=control, outputs=sliders)
    control.input(fn=None, js=TIMELINE_TO_PRESET, inputs=control, outputs=preset)
    by_steps = STEPS_TO_TIMELINE.replace("TABLE", json.dumps(table))
    steps.input(fn=None, js=by_steps, inputs=[steps, control], outputs=control)
    control.input(
        recount, inputs=[control, steps], outputs=control, trigger_mode="always_last", preprocess=False, **LIGHT
    )


def visitor(request: gr.Request) -> Visitor:
    """Who asks. The page's address is what the browser says it is on, without the query."""
    page = str(request.headers.get("referer", "")).partition("?")[0]
    if not page.startswith(("http://", "https://")):
        page = f"http://{request.headers.get('host', 'localhost')}/"
    return Visitor(session=str(request.session_hash), page=page)


@dataclass
class Going:
    """A run from the press on: `before` is the id of the visitor's run before it. Stop may come before gradio knows of
    the run to cancel, so it is noted here too; gr.State hands the very same object to every handler."""

    before: str
    begun: bool = False
    refused: bool = False  # as far as can be told: the word that an earlier run was stopped may come just as late
    stopped: bool = False
    failed: bool = False
    finished: bool = False


def until_stopped(going: Going | None, changes: Iterator[Shown], begun: Shown) -> Iterator[Shown]:
    """The changes of a run, with the first of them `begun`; none where Stop came before it began (`going` is None)."""
    with closing(changes):
        if going is None:
            return
        going.begun = True
        try:
            for change in changes:
                yield begun | change
                begun = {}
                if going.stopped:
                    return
        except Exception:
            going.failed = True
            raise
        going.finished = True


def runs(
    handlers: Handlers, form: dict[str, Any], parts: Parts, source: dict[str, Any], start: gr.Button, stop: gr.Button
) -> None:
    """Generate, Enter, Branch, Verify and Stop. The buttons change over at once, since the run itself may have to
    queue."""
    going = gr.State()  # the run that is queued or drawn, None while there is none
    past = source["past"]
    rested = [start, stop, source["verify"], parts.branch, parts.timeline, going]

    def busy() -> Shown:
        return {start: gr.Button(interactive=False), stop: gr.Button(interactive=True)}

    def running(request: gr.Request, before: Any) -> Shown:
        # Enter, or a second click on its way: gradio would queue another run behind this one
        if before is not None and not before.refused:
            raise gr.Error(texts.QUEUED, visible=False, print_exception=False)
        return busy() | {
            parts.branch: gr.Button(interactive=False), source["verify"]: gr.Button(interactive=False),
            parts.status: views.status(texts.QUEUED, "busy"), going: Going(handlers.newest(str(request.session_hash))),
        }  # fmt: skip

    def idle(chosen: Any) -> Shown:
        return {
            start: gr.Button(interactive=True), stop: gr.Button(interactive=False),
            source["verify"]: gr.Button(interactive=True), parts.branch: gr.Button(interactive=chosen is not None),
            parts.timeline: rest(), going: None,
        }  # fmt: skip

    def stopped(request: gr.Request, chosen: Any, now: Going | None) -> Shown:
        if now is None or now.finished:  # too late: the page has the picture
            return idle(chosen)
        now.stopped = True
        return idle(chosen) | handlers.stopped(parts, now.before, str(request.session_hash))

    def run(request: gr.Request, now: Going | None, **given: Any) -> Iterator[Shown]:
        changes = handlers.run(parts, given, visitor(request))
        with closing(until_stopped(now, changes, busy())) as seen:
            yield from seen

    def branch(request: gr.Request, now: Going | None, chosen: Any, value: Any) -> Iterator[Shown]:
        changes = handlers.branch(parts, chosen, value, visitor(request))
        with closing(until_stopped(now, changes, busy())) as seen:
            yield from seen

    def verify(request: gr.Request, now: Going | None, recipe: Any, reference: Any) -> Iterator[Shown]:
        changes = handlers.verify(parts, recipe, reference, visitor(request))
        with closing(until_stopped(now, changes, busy())) as seen:
            yield from seen

    def failed(now: Going | None, chosen: Any) -> Shown:
        """A run that failed, or that the full queue did not take. One that was stopped counts as failed too, and says
        so late: the page may be on to the next, which must not be forgotten."""
        if now is not None and now.failed:
            return idle(chosen)
        if now is None or now.begun:
            return {parts.status: gr.skip()}
        now.refused = True
        return idle(chosen) | {going: now}

    def pick(event: gr.EventData, request: gr.Request, before: Any) -> Shown:
        step = getattr(event, "step", None) if before is None else None  # while a run goes there is nothing to branch
        return handlers.choose(parts, getattr(event, "run", None), step, str(request.session_hash))

    def done(now: Going | None, chosen: Any) -> Shown:
        """After Stop the page is at rest already, and may be on to the next run."""
        return idle(chosen) if now is not None and now.finished else {parts.status: gr.skip()}

    def made(request: gr.Request, now: Going | None, chosen: Any, before: Any, recipe: Any) -> Shown:
        """A new picture: the history is read when the run has ended, so that what was cleared meanwhile stays so."""
        if now is None or not now.finished:
            return done(now, chosen)
        kept = recipes.remembered([recipe, *recipes.remembered(before)])
        listed = history(kept, handlers.visits.thumbnails(str(request.session_hash)))
        return done(now, chosen) | {past: kept, source["history"]: listed}

    buttons = [start, stop, parts.branch, source["verify"], parts.status, going]
    starts = (
        ([start.click, form["prompt"].submit], run, {"inputs_kwargs": form | {"now": going}}),
        ([parts.branch.click], branch, {"inputs": [going, parts.chosen, parts.timeline]}),
        ([source["verify"].click], verify, {"inputs": [going, parts.recipe, form["reference"]]}),
    )
    cancelled = []
    for pressed, handler, inputs in starts:
        begun = gr.on(pressed, running, inputs=going, outputs=buttons, **QUEUED)
        run_of_it = begun.success(
            handler, **inputs, outputs=[*parts.all(), start, stop], api_visibility="private", show_progress="full",
            show_progress_on=parts.status, preprocess=False, **DEVICE,
        )  # fmt: skip
        run_of_it.failure(failed, inputs=[going, parts.chosen], outputs=[*rested, parts.status], **LIGHT)
        if handler is verify:
            run_of_it.success(done, inputs=[going, parts.chosen], outputs=[*rested, parts.status], **LIGHT)
        else:
            outputs = [*rested, parts.status, past, source["history"]]
            run_of_it.success(made, inputs=[going, parts.chosen, past, parts.recipe], outputs=outputs, **LIGHT)
        cancelled.append(run_of_it)
    stop.click(fn=None, cancels=cancelled).then(
        stopped, inputs=[parts.chosen, going], outputs=[*rested, parts.status, parts.film], **LIGHT
    )
    parts.film.pick(pick, inputs=going, outputs=[parts.chosen, parts.branch, parts.status], **LIGHT)


def memory(
    page: gr.Blocks, handlers: Handlers, form: dict[str, Any], parts: Parts, source: dict[str, Any], looked: gr.HTML
) -> None:
    """Uploads are looked at; a recipe from a file, a text, the history or the page's link sets every control again."""
    reference, past, profile = form["reference"], source["past"], handlers.models.profile
    restores = [
        *form.values(), parts.preset, *parts.sliders, looked, parts.status, parts.recipe, *parts.forms.values(),
    ]  # fmt: skip

    def restored(recipe: dict[str, Any], current: Any, who: Visitor) -> Shown:
        found = recipes.find_reference(recipe, path_of(current), handlers.examples, handlers.visits, who.session)
        stand_in = found[0] if found else Image.new("RGB", (profile.size, profile.size))
        request = recipes.requested(recipe, profile, stand_in)
        counts, automatic = request.stage_steps, recipes.automatic(profile, request.steps)
        shown: Shown = {part: getattr(request, name) for name, part in form.items() if hasattr(request, name)}
        shown |= controls(request, counts or automatic, parts, moved=counts not in (None, automatic))
        shown |= {form["random"]: False, parts.recipe: recipe, **recipes.forms(recipe, who.page, parts.forms)}
        if found is None:
            digest = ", ".join(recipe["references"]) or "none"
            missing = views.status(texts.NO_REFERENCE.format(digest=digest), "failed")
            return shown | {reference: None, looked: "", parts.status: missing}
        return shown | {
            reference: found[1] or found[0], looked: check(inspect(handlers.models, found[0])),
            parts.status: views.status(texts.RESTORED, "idle"),
        }  # fmt: skip

    def restore(request: gr.Request, current: Any, read: Callable[[], dict[str, Any] | None]) -> Shown:
        """Sets all or, where the recipe is none of ours, nothing but the status line."""
        try:
            recipe = read()
            return restored(recipe, current, visitor(request)) if recipe else {}
        except (RequestError, RecipeError) as error:
            gr.Warning(escape(str(error), quote=False))
            return {parts.status: views.status(str(error), "failed")}

    def from_file(request: gr.Request, current: Any, file: Any) -> Shown:
        path = path_of(file)
        shown = restore(request, current, lambda: read_file(Path(path))) if path else {}
        return shown | {source["file"]: None}  # the box is free for the next

    def from_text(request: gr.Request, current: Any, text: Any) -> Shown:
        return restore(request, current, lambda: recipes.from_paste(text))

    def from_past(event: gr.EventData, request: gr.Request, past: Any, current: Any) -> Shown:
        return restore(request, current, lambda: recipes.from_past(past, getattr(event, "index", None)))

    def opened(request: gr.Request, past: Any) -> Shown:
        """The history that the browser has kept, and the recipe of the link."""
        shown = {source["history"]: history(recipes.remembered(past), {})}
        return shown | restore(request, None, lambda: from_query(dict(request.query_params)))

    reference.upload(handlers.look, inputs=reference, outputs=[reference, parts.status, looked], **QUEUED)
    reference.clear(lambda: "", outputs=looked, **LIGHT)
    file, text = source["file"], source["text"]
    file.upload(from_file, inputs=[reference, file], outputs=[*restores, file], **QUEUED)
    source["use"].click(from_text, inputs=[reference, text], outputs=restores, **QUEUED)
    source["history"].pick(from_past, inputs=[past, reference], outputs=restores, **QUEUED)
    source["clear"].click(lambda: ([], history([], {})), outputs=[past, source["history"]], **LIGHT)
    page.load(opened, inputs=past, outputs=[*restores, source["history"]], **QUEUED)
