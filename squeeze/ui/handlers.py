"""What happens when a visitor presses something: generator handlers that turn a run's events into the page's parts.

Handlers are generators because gradio can only end a generator early: Stop, or a closed tab, raises GeneratorExit at
the next yield and our `finally` frees the device. Gradio gives the queue's place away before that, so the device has
its own lock.

Inputs arrive as they were sent (`preprocess=False`): gradio's own look at them would let PIL raise on text files and
bombs, and answer a number out of range in its own words. Our checks in request.py and images.py speak instead.
"""

from __future__ import annotations

import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from gradio_client.utils import is_file_obj_with_meta

from ..events import Encoded, Event, Finished, StepDone
from ..images import open_picture
from ..models.loading import Models
from ..pipeline import default_request, generate
from ..recipe import Made, as_tuples, write_png
from ..request import Request, RequestError
from . import texts, views

POLL = 0.25  # seconds between two looks at the device's lock
WEB_FORMATS = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".avif"}  # what a browser shows without our help
WHOLE = ("steps", "stage_steps", "seed", "height", "width")  # fields of Request

Shown = dict[Any, Any]  # component -> its new value


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The components a run writes to."""

    view: gr.HTML
    kept: gr.HTML
    bar: gr.HTML
    status: gr.HTML
    download: gr.DownloadButton
    seed: gr.Number


class Handlers:
    """The handlers of one server: models and device lock, shared by all visitors and changed by none."""

    def __init__(self, models: Models, examples: list[Path]) -> None:
        self.models, self.examples = models, examples
        self.device = threading.Lock()  # not an RLock: gradio resumes a generator on another thread

    def run(self, parts: Parts, form: dict[str, Any]) -> Iterator[Shown]:
        """One generation as the page shows it; `form` are the page's inputs by name."""
        try:
            balance = [form.pop("meaning"), form.pop("both"), form.pop("identity")]
            if form.pop("random"):
                form["seed"] = secrets.randbelow(2**31)
            request = self.request(**form, balance=balance)
        except RequestError as error:
            yield {parts.status: views.status(str(error), "failed")}
            raise sentence(error) from error
        yield {
            parts.status: views.status(texts.READING, "busy"),
            parts.kept: views.kept((None, None, None)),
            parts.seed: request.seed,
            parts.download: gr.DownloadButton(interactive=False),
        }
        for waited in self.turn():
            yield {parts.status: views.status(texts.WAITING.format(seconds=waited), "busy")}
        try:
            with closing(generate(self.models, request)) as events:
                yield from show(events, request, parts)
        finally:
            self.device.release()

    def call(
        self, reference: Any, prompt: Any, stage_steps: Any = None, **asked: Any
    ) -> Iterator[tuple[str | None, dict[str, Any] | None]]:
        """Draw the subject of a reference picture as a prompt asks for.

        Gives the path of a PNG and the recipe that makes it again; both are null while it runs. All but `reference` and
        `prompt` may be left out or null: then they are as the profile has them. `balance` is three numbers, one per
        stage, from 0 (semantics) to 1 (identity). `steps` are whole steps; `stage_steps` how many of them fall into
        each stage, three whole numbers that add up to `steps`, or null for the profile's borders. `cfg` is true
        classifier-free guidance, 1 is off; `guidance` FLUX's embedded guidance, where the model has it. `seed` is a
        whole number from 0 to 9007199254740991. `height` and `width` are pixels. `uncond` is what CFG sees without the
        prompt, `lean` (nothing) or `full` (the reference's details); `late_text` whether the prompt's words stay where
        the balance is 1, `drop` or `keep`. `earlier` belongs to branched runs: rows of the number of steps up to a
        branch and the three balances that held there. A wrong value is answered with a sentence that names it.
        """
        # the API page shows these words; gradio lets only a named argument's None be a default, so one stands apart
        given = {name: value for name, value in asked.items() if value is not None}
        try:
            request = self.request(reference, prompt, stage_steps=stage_steps, **given)
        except RequestError as error:
            raise sentence(error) from error
        for _ in self.turn():
            yield None, None
        try:
            with closing(generate(self.models, request)) as events:
                for event in events:
                    if isinstance(event, Finished):
                        with written(event) as made:
                            yield str(made.path), made.recipe
                    else:
                        yield None, None
        finally:
            self.device.release()

    def turn(self) -> Iterator[float]:
        """Takes the device's lock; while another run has it, yields the seconds waited, so that waiting can end."""
        began = time.monotonic()
        while not self.device.acquire(timeout=POLL):
            yield time.monotonic() - began

    def request(self, reference: Any, prompt: Any, **asked: Any) -> Request:
        """The checked request of a form or an API call, `asked` fields of Request as JSON brings them; raises
        RequestError. No file is opened before this."""
        if (path := path_of(reference)) is None:
            raise RequestError("no_reference")
        profile = self.models.profile
        fields = {name: from_json(name, value) for name, value in asked.items()}
        fields["prompt"] = prompt if isinstance(prompt, str) else ""
        return default_request(profile, references=(open_picture(path),), **fields).checked(profile.limits)

    def look(self, reference: Any) -> tuple[Any, str]:
        """A fresh upload: says at once what is wrong with it, and shows formats a browser cannot."""
        if (path := path_of(reference)) is None:
            return gr.skip(), views.status(texts.READY, "idle")
        try:
            picture = open_picture(path)
        except RequestError as error:
            gr.Warning(escape(str(error), quote=False))
            return None, views.status(str(error), "failed")
        shown = gr.skip() if Path(path).suffix.lower() in WEB_FORMATS else picture
        return shown, views.status(texts.READY, "idle")

    def pick(self, event: gr.EventData) -> str:
        """The example that was clicked."""
        index = event.index
        if not isinstance(index, int) or not 0 <= index < len(self.examples) or not self.examples[index].is_file():
            raise gr.Error(texts.GONE, print_exception=False)
        return str(self.examples[index])


def show(events: Iterator[Event], request: Request, parts: Parts) -> Iterator[Shown]:
    """A run's events as changes of the page."""
    unknown: tuple[str, ...] = ()
    counts = (0, 0, 0)
    ends: list[str | None] = [None, None, None]
    took: list[float] = []  # seconds of each step as the visitor feels them, the way to the page included
    stepped = time.monotonic()
    for event in events:
        if isinstance(event, Encoded):
            unknown, counts = event.unknown_words, event.stage_steps
            stepped = time.monotonic()
            yield {parts.bar: views.bar(counts, 0), parts.status: views.status(texts.READING, "busy", unknown)}
        elif isinstance(event, StepDone):
            done = event.step + 1
            took.append(time.monotonic() - stepped)
            stepped = time.monotonic()
            line = views.step_line(
                done, event.steps, event.stage, event.t, (event.steps - done) * statistics.median(took)
            )
            changes = {parts.bar: views.bar(counts, done), parts.status: views.status(line, "busy", unknown)}
            if event.preview is not None:
                uri = views.jpeg_uri(event.preview)
                changes[parts.view] = views.picture(uri, f"The picture as foreseen at step {done}", "running")
                if done == sum(counts[: event.stage + 1]):
                    ends[event.stage] = uri
                    changes[parts.kept] = views.kept(ends)
            yield changes
        elif isinstance(event, Finished):
            with written(event) as made:
                uri = views.png_uri(made.path)
                last = max(stage for stage, count in enumerate(counts) if count)
                ends[last] = uri
                yield {
                    parts.view: views.picture(uri, f"The finished picture: {request.prompt}", "done"),
                    parts.kept: views.kept(ends),
                    parts.status: views.status(
                        texts.DONE.format(seconds=event.seconds, seed=request.seed), "done", unknown
                    ),
                    parts.download: gr.DownloadButton(value=str(made.path), interactive=True),
                }


@contextmanager
def written(event: Finished) -> Iterator[Made]:
    """The finished PNG, kept for one yield: gradio copies it to its own cache, which `delete_cache` empties."""
    with tempfile.TemporaryDirectory(prefix="squeeze-") as folder:
        yield write_png(event.image, event.recipe, Path(folder) / f"squeeze-{event.recipe['seed']}.png")


class Sent(ImageData):
    """What a browser or an API client sends as a picture. Gradio makes sure that a file lies in its upload folder only
    where the file is marked as one; anything unmarked, a path to some file of this machine, counts as none."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Sent:
        """Gradio calls this on what arrived, before any handler; an error here would reach nobody as a sentence."""
        return super().model_validate(obj if is_file_obj_with_meta(obj) else {}, **options)


def path_of(sent: Any) -> str | None:
    """The path of an uploaded file as gradio gives it after Sent."""
    path = sent.get("path") if isinstance(sent, dict) else None
    return path if isinstance(path, str) and path else None


def from_json(name: str, value: Any) -> Any:
    """A field of Request from JSON: lists as tuples; in a field of whole numbers 25.0 as 25, since not all that send
    JSON tell them apart; anything else as it is."""
    if name in WHOLE and isinstance(value, list):
        return tuple(from_json(name, one) for one in value)
    if name in WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    return as_tuples(value)


def sentence(error: RequestError) -> gr.Error:
    """A visitor's mistake as the page and the API show it, without a traceback in the log."""
    return gr.Error(escape(str(error), quote=False), print_exception=False)
