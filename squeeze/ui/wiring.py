"""Which handler answers which press: balances that agree, runs that start and stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..balance import PRESETS
from ..images import content_hash
from ..request import RequestError, is_whole
from . import recipes, subjects, texts, views
from .film import history
from .handlers import Going, Handlers
from .sent import from_json
from .show import Parts, Shown, Visitor, unchosen
from .subjects import Subject
from .timeline import read_balance, rest, state

LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
QUEUED: dict[str, Any] = {  # without the queue a gr.Warning is lost, and a gr.Error is an HTTP error in the console
    "api_visibility": "private", "show_progress": "hidden", "preprocess": False, "concurrency_limit": None,
}  # fmt: skip

# A slider's box may hold anything while it is typed into, null where it is empty. Gradio brings it within its bounds
# once it is left, and tells nobody: what follows from it takes the same at once.
WITHIN = "(typed, least, most) => Math.min(Math.max(typed, least), most)"
TO_TIMELINE = f"(now, ...typed) => ({{...now, balance: typed.map((b) => ({WITHIN})(b, 0, 1)), earlier: []}})"
FROM_TIMELINE = "(now) => now.balance"
PRESET_TO_SLIDERS = f"(name, ...now) => ({json.dumps(PRESETS)})[name] ?? now"
PRESET_TO_TIMELINE = f"""(name, now) => {{
    const balance = ({json.dumps(PRESETS)})[name];
    return balance ? {{...now, balance, earlier: []}} : now;
}}"""
SLIDERS_TO_PRESET = f"""(...typed) => {{
    const now = typed.map((b) => ({WITHIN})(b, 0, 1));
    const found = Object.entries({json.dumps(PRESETS)}).find(([_, preset]) => preset.every((b, i) => b === now[i]));
    return found?.[0] ?? {json.dumps(texts.CUSTOM)};
}}"""
TIMELINE_TO_PRESET = f"(now) => ({SLIDERS_TO_PRESET})(...now.balance)"
STOPPING = f"""(status) => [
    {{__type__: "update", interactive: false}},
    status.includes('data-state="busy"') ? {json.dumps(views.status(texts.STOPPING, "busy"))} : status,
]"""
STEPS_TO_TIMELINE = f"""(typed, now) => {{
    const steps = ({WITHIN})(typed, 1, MOST);
    const counts = (TABLE)[steps], total = now.counts.reduce((sum, count) => sum + count);
    return counts && total !== steps ? {{...now, counts, touched: false, earlier: []}} : now;
}}"""


def pictures(handlers: Handlers, asked: Sequence[Subject], gallery: gr.HTML, parts: Parts, going: gr.State) -> None:
    """Uploads are looked at, examples go into the first box, and every picture can be cropped. What the models get of a
    picture may depend on the size of the one to draw. While a run is `going` the status line is its own."""
    size = sized(parts)

    def wanted(request: gr.Request, recipe: Any, place: int) -> str | None:
        """A recipe that came back asks for its own pictures; one of a picture made here asks for none."""
        if not recipe or recipe["picture"] in handlers.visits.thumbnails(str(request.session_hash)):
            return None
        return dict(enumerate(recipe["references"])).get(place, "")

    def quiet(now: Going | None, picture: Any, said: Any, *rest: Any) -> tuple[Any, ...]:
        return picture, said if resting(now) else gr.skip(), *rest

    def pick(event: gr.EventData, request: gr.Request, now: Going | None, recipe: Any, *size: Any) -> tuple[Any, ...]:
        return quiet(now, *subjects.pick(handlers, event, size, wanted(request, recipe, 0)))

    def listen(place: int, one: Subject) -> None:
        def look(request: gr.Request, now: Going | None, sent: Any, recipe: Any, *size: Any) -> tuple[Any, ...]:
            return quiet(now, *subjects.look(handlers, sent, size, wanted(request, recipe, place)))

        def crop(
            event: gr.EventData, request: gr.Request, now: Going | None, sent: Any, uncropped: Any, recipe: Any,
            *size: Any,
        ) -> tuple[Any, ...]:  # fmt: skip
            return quiet(now, *subjects.crop(handlers, event, sent, uncropped, size, wanted(request, recipe, place)))

        def renew(sent: Any, uncropped: Any, *size: Any) -> Any:
            return subjects.renewed(handlers, sent, uncropped, size)

        shown, given = [one.picture, parts.status, one.looked], [one.picture, one.uncropped]
        sent = [going, one.picture, parts.recipe, *size]
        one.picture.upload(look, inputs=sent, outputs=shown, trigger_mode="always_last", **QUEUED)
        one.picture.clear(lambda: "", outputs=one.looked, **LIGHT)
        one.looked.pick(crop, inputs=[going, *given, parts.recipe, *size], outputs=[*shown, one.uncropped], **QUEUED)
        if size and handlers.models.profile.at_target:
            changes = [side.change for side in size]
            gr.on(changes, renew, inputs=[*given, *size], outputs=one.looked, **QUEUED)

    shown = [asked[0].picture, parts.status, asked[0].looked]
    gallery.pick(pick, inputs=[going, parts.recipe, *size], outputs=shown, **LIGHT)
    for place, one in enumerate(asked):
        listen(place, one)


def balance(handlers: Handlers, parts: Parts) -> None:
    """Presets, sliders and timeline show the same balances; the timeline's borders follow the number of steps. What
    the browser can work out is worked out there: an answer on its way would undo what a quick hand did meanwhile."""
    control, steps, preset, sliders = parts.timeline, parts.form["steps"], parts.preset, parts.sliders
    profile, size = handlers.models.profile, sized(parts)
    table = {number: recipes.automatic(profile, steps=number) for number in range(1, profile.limits.steps + 1)}

    def recount(value: Any, steps: Any, *sides: Any) -> Any:
        """The borders were given back, or steps or size have changed: the thresholds' again."""
        number, *sides = (from_json("steps", asked) for asked in (steps, *sides))
        if not is_whole(number) or number not in table or not all(map(profile.limits.takes, sides)):
            return gr.skip()  # said when it is run
        counts = recipes.automatic(profile, steps=number, **dict(zip(("width", "height"), sides, strict=False)))
        before = value.get("counts") if isinstance(value, dict) else None
        if not isinstance(before, list) or before == list(counts):
            return gr.skip()
        if value.get("touched") and all(map(is_whole, before)) and sum(before) == number:
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
    by_steps = STEPS_TO_TIMELINE.replace("TABLE", json.dumps(table)).replace("MOST", str(profile.limits.steps))
    steps.input(fn=None, js=by_steps, inputs=[steps, control], outputs=control)
    again = [control.input, *(side.change for side in size), *([steps.input] if size else [])]
    gr.on(
        again, recount, inputs=[control, steps, *size], outputs=control, trigger_mode="always_last", preprocess=False,
        **LIGHT,
    )  # fmt: skip


def sized(parts: Parts) -> list[gr.Slider]:
    """The sliders of the picture's width and height, where the profile leaves a choice."""
    return [parts.form[name] for name in ("width", "height") if name in parts.form]


def visitor(request: gr.Request) -> Visitor:
    """Who asks. The page's address is what the browser says it is on, without the query."""
    page = str(request.headers.get("referer", "")).partition("?")[0]
    if not page.startswith(("http://", "https://")):
        page = f"http://{request.headers.get('host', 'localhost')}/"
    return Visitor(session=str(request.session_hash), page=page)


@dataclass(frozen=True, kw_only=True)
class Buttons:
    """What starts and stops runs beside the timeline and Enter."""

    start: gr.Button
    stop: gr.Button
    branch: gr.Button
    verify: gr.Button

    def busy(self) -> Shown:
        """As soon as a run is asked for: it may have to wait in line."""
        off = [self.start, self.branch, self.verify]
        return {**{button: gr.Button(interactive=False) for button in off}, self.stop: gr.Button(interactive=True)}

    def idle(self, chosen: Any) -> Shown:
        """Once a run has ended; `chosen` is the frame to branch from."""
        return {
            self.start: gr.Button(interactive=True), self.verify: gr.Button(interactive=True),
            self.stop: gr.Button(interactive=False), self.branch: gr.Button(interactive=chosen is not None),
        }  # fmt: skip


def runs(
    handlers: Handlers, parts: Parts, source: dict[str, Any], asked: Sequence[Subject], going: gr.State,
    start: gr.Button, stop: gr.Button,
) -> None:  # fmt: skip
    """Generate, Enter, Branch, Verify and Stop. A press marks the run as `going`, the run draws and says how it ended,
    and only then the page is at rest: each in the order in which the browser hears of it, so no two can cross."""
    buttons = Buttons(start=start, stop=stop, branch=parts.branch, verify=source["verify"])
    pictures = [one.picture for one in asked]

    def running(before: Any) -> Shown:
        if before is not None:  # Enter, or a second click on its way
            raise gr.Error(texts.QUEUED, visible=False, print_exception=False)
        return buttons.busy() | {parts.status: views.status(texts.QUEUED, "busy"), going: Going()}

    def run(request: gr.Request, now: Going, **given: Any) -> Iterator[Shown]:
        yield from handlers.run(parts, given, visitor(request), now)

    def branch(request: gr.Request, now: Going, chosen: Any, value: Any, *given: Any) -> Iterator[Shown]:
        who = visitor(request)
        with closing(handlers.branch(parts, chosen, value, who, now)) as changes:
            for shown in changes:
                drawn = handlers.visits.newest(who.session) if parts.form["prompt"] in shown else None
                if drawn:  # it begins: the pictures go back with the other controls
                    digests = [content_hash(picture) for picture in drawn.request.references]
                    found = handlers.find({"references": digests}, given, who)
                    shown |= subjects.back(handlers, asked, found, given, (drawn.request.width, drawn.request.height))
                yield shown

    def verify(request: gr.Request, now: Going, recipe: Any, *given: Any) -> Iterator[Shown]:
        yield from handlers.verify(parts, recipe, given, visitor(request), now)

    def ended(now: Going | None, chosen: Any) -> Shown:
        return buttons.idle(chosen) | {parts.timeline: rest(), going: None}

    def made(request: gr.Request, now: Going | None, chosen: Any, before: Any, recipe: Any) -> Shown:
        """A new picture: the history is read when the run has ended, so that what was cleared meanwhile stays so."""
        shown = ended(now, chosen)
        if now is None or not now.finished:
            return shown
        kept = recipes.remembered([recipe, *recipes.remembered(before)])
        return shown | {source["past"]: kept, source["history"]: listed(handlers, request, kept)}

    def stopped(now: Going | None) -> None:
        if now is not None:
            now.stopped = True
            handlers.line.wake()

    def pick(event: gr.EventData, request: gr.Request, before: Any) -> Shown:
        if not resting(before):  # while a run goes there is nothing to branch
            return unchosen(parts)
        run, step = (getattr(event, name, None) for name in ("run", "step"))
        return handlers.choose(parts, run, step, str(request.session_hash))

    rested = [*vars(buttons).values(), parts.timeline, going]
    past = [source["past"], source["history"]]
    new = (made, [going, parts.chosen, source["past"], parts.recipe], [*rested, *past])
    again = (ended, [going, parts.chosen], rested)  # a picture drawn again is no new one
    generate = [start.click, parts.form["prompt"].submit]
    starts = (
        (generate, run, {"inputs_kwargs": parts.form | {"now": going}}, new),
        ([parts.branch.click], branch, {"inputs": [going, parts.chosen, parts.timeline, *pictures]}, new),
        ([source["verify"].click], verify, {"inputs": [going, parts.recipe, *pictures]}, again),
    )
    writes = [*parts.all(), *(one.looked for one in asked)]
    for pressed, handler, inputs, (after, needs, sets) in starts:
        begun = gr.on(pressed, running, inputs=going, outputs=[*vars(buttons).values(), parts.status, going], **QUEUED)
        drawn = begun.success(handler, **inputs, outputs=writes, **QUEUED)
        for end in (drawn.success, drawn.failure):  # gradio's `then` does not hear of a run that failed
            end(after, inputs=needs, outputs=sets, **LIGHT)
    stop.click(fn=None, js=STOPPING, inputs=parts.status, outputs=[stop, parts.status])
    stop.click(stopped, inputs=going, **LIGHT)
    parts.film.pick(pick, inputs=going, outputs=[parts.chosen, parts.branch, parts.status], **LIGHT)


def resting(now: Going | None) -> bool:
    """Whether the status line is free for another word than a run's."""
    return now is None or now.over


def listed(handlers: Handlers, request: gr.Request, past: Any) -> str:
    """The history with what this visit has of its pictures."""
    return history(recipes.remembered(past), handlers.visits.thumbnails(str(request.session_hash)))
