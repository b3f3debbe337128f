"""A run's events as changes of the page."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ..balance import PRESETS, preset_of, stage_of
from ..checks import near_copy
from ..events import Encoded, Event, Finished, StepDone
from ..images import content_hash
from ..recipe import Made, write_png
from ..request import Request
from . import recipes, texts, views
from .film import film
from .timeline import progress, state
from .visits import Run, Visits

Shown = dict[Any, Any]  # component -> its new value


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The components a run writes to. `form` are the page's inputs by name, `sliders` the stages' balances; `chosen`
    holds the frame to branch from, `recipe` what the recipe's `forms` show."""

    view: gr.HTML
    kept: gr.HTML
    timeline: gr.HTML
    status: gr.HTML
    download: gr.Button
    form: dict[str, Any]
    preset: gr.Radio
    sliders: list[gr.Slider]
    film: gr.HTML
    branch: gr.Button
    chosen: gr.State
    compare: gr.ImageSlider
    recipe: gr.State
    forms: dict[str, gr.Textbox]

    def all(self) -> list[Any]:
        """Every component, for `outputs`."""
        single = [part for name, part in vars(self).items() if name not in ("form", "forms", "sliders")]
        inputs = [part for name, part in self.form.items() if name != "timeline"]  # which a run writes to besides
        return [*single, *inputs, *self.sliders, *self.forms.values()]


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Whose run it is. `session` is that of the open page, `page` its address."""

    session: str
    page: str


def asked(run: Run, parts: Parts, branched: bool) -> Shown:
    """What changes as soon as a run is asked for; what the visitor sets while it waits stays. A branch puts every
    control to what it draws, with what held before it, so that Generate draws it again; any other run was asked for
    with the controls as they are."""
    own = controls(run.request, run.counts, parts) if branched else {}
    return own | {parts.form["seed"]: run.request.seed}


def reading(run: Run, parts: Parts) -> Shown:
    """What changes when a run's turn has come. What is on the page stays until there is something of its own."""
    return {
        parts.status: views.status(texts.READING, "busy"), parts.timeline: progress(run.counts, len(run.frames)),
    }  # fmt: skip


def begun(run: Run, parts: Parts, ends: Sequence[str | None]) -> Shown:
    """What changes with a run's first step besides what changes with each; `ends` are the stages' pictures so far."""
    return {
        parts.kept: views.kept(ends), parts.download: gr.Button(interactive=False), parts.film: film(run),
        **unchosen(parts),
    }  # fmt: skip


def controls(request: Request, counts: Sequence[int], parts: Parts, *, moved: bool | None = None) -> Shown:
    """Every control as a request has it, but for the pictures (see subjects.back); `moved` whether its borders count as
    moved by hand, None = where it names their steps. The seed stays what it is, or Generate would draw another."""
    touched = request.stage_steps is not None if moved is None else moved
    named = preset_of(request.balance) or texts.CUSTOM
    value = state(counts, request.balance, touched=touched, earlier=request.earlier)
    return {
        **{part: getattr(request, name) for name, part in parts.form.items() if hasattr(request, name)},
        **dict(zip(parts.sliders, request.balance, strict=True)),
        parts.form["random"]: False, parts.timeline: gr.update(value=value), parts.preset: named,
    }  # fmt: skip


def unchosen(parts: Parts) -> Shown:
    """No frame is chosen to branch from."""
    return {parts.chosen: None, parts.branch: gr.Button(texts.BRANCH, interactive=False)}


def show(events: Iterator[Event], run: Run, visits: Visits, visitor: Visitor, parts: Parts) -> Iterator[Shown]:
    """A run's events as changes of the page; its frames and latents are kept in `run`."""
    unknown: tuple[str, ...] = ()
    counts = run.counts
    ends: list[str | None] = [None, None, None]
    for stage in range(len(counts)):  # of a branch, those before it
        if counts[stage] and sum(counts[: stage + 1]) <= len(run.frames):
            ends[stage] = run.frames[sum(counts[: stage + 1]) - 1]
    took: list[float] = []  # seconds of each step as the visitor feels them, the way to the page included
    stepped = time.monotonic()
    for event in events:
        if isinstance(event, Encoded):
            unknown = event.unknown_words
            stepped = time.monotonic()
            yield {parts.status: views.status(texts.READING, "busy", unknown)}
        elif isinstance(event, StepDone):
            done = event.step + 1
            took.append(time.monotonic() - stepped)
            stepped = time.monotonic()
            line = views.step_line(
                done, event.steps, event.stage, event.t, (event.steps - done) * statistics.median(took)
            )
            changes = {parts.timeline: progress(counts, done), parts.status: views.status(line, "busy", unknown)}
            if event.preview is not None:
                uri = views.jpeg_uri(event.preview)
                run.latents.append(event.img)
                run.frames.append(uri)
                alt = f"The picture as foreseen at step {done}"
                changes[parts.view] = views.preview(uri, alt, done, event.stage)
                if done == sum(counts[: event.stage + 1]):
                    ends[event.stage] = uri
                    changes[parts.kept] = views.kept(ends)
            if len(took) == 1:
                changes |= begun(run, parts, ends)
            yield changes
        elif isinstance(event, Finished):
            with written(event) as made:
                uri, name = views.png_uri(made.path), made.path.name
            ends[max(stage for stage, count in enumerate(counts) if count)] = uri
            before = visits.newest_picture(visitor.session)
            again = before is not None and content_hash(before) == event.recipe["picture"]
            visits.finish(visitor.session, run, event.image, event.recipe["picture"])
            yield {
                parts.view: views.finished(uri, f"The finished picture: {run.request.prompt}", name),
                parts.kept: views.kept(ends),
                parts.status: closing(event, run, unknown),
                parts.download: gr.Button(interactive=True),
                parts.film: film(run),
                parts.compare: gr.skip() if again else gr.update(value=before and (before, event.image)),
                parts.recipe: event.recipe,
                **recipes.forms(event.recipe, visitor.page, parts.forms),
            }


def closing(event: Finished, run: Run, unknown: Sequence[str] = ()) -> str:
    """The status of a finished picture; where it is nearly the reference, it says so and offers a preset that helps."""
    said = texts.DONE.format(seconds=event.seconds, seed=run.request.seed)
    if not any(near_copy(event.image, reference) for reference in run.request.references):
        return views.status(said, "done", unknown)
    return views.status(f"{said} · {texts.COPIED}", "done", unknown, calmer(run))


def calmer(run: Run) -> str | None:
    """The preset with less identity than a run had: `paper` where some step had more than it gives, else `meaning`;
    None where no step had any."""
    held = [(stage_of(step, run.counts), run.request.balance_at(step, run.counts)) for step in range(sum(run.counts))]
    if any(balance > PRESETS["paper"][stage] for stage, balance in held):
        return "paper"
    return "meaning" if any(balance > 0 for _, balance in held) else None


@contextmanager
def written(event: Finished) -> Iterator[Made]:
    """The finished PNG, kept for one yield: of what goes to the API gradio makes a copy in its own cache, which
    bounds.py empties."""
    with tempfile.TemporaryDirectory(prefix="squeeze-") as folder:
        yield write_png(event.image, event.recipe, Path(folder) / f"squeeze-{event.recipe['seed']}.png")
