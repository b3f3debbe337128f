"""What happens when a visitor presses something: generator handlers that turn a run's events into the page's parts.

Handlers are generators because gradio can only end a generator early: Stop, or a closed tab, raises GeneratorExit at
the next yield and our `finally` frees the device. Gradio gives the queue's place away before that, so the device has
its own lock.

Inputs arrive as they were sent (`preprocess=False`): gradio's own look at them would let PIL raise on text files and
bombs, and answer a number out of range in its own words. Our checks in request.py and images.py speak instead.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from gradio_client.utils import is_file_obj_with_meta

from ..checks import inspect
from ..events import Encoded, Event, Finished, StageStarted, StepDone
from ..images import open_picture
from ..models.loading import Models
from ..pipeline import Resume, branched, default_request, generate, plan
from ..recipe import RecipeError, differences, read_file
from ..request import Request, RequestError, is_whole
from . import recipes, texts, timeline, views
from .check import check
from .film import film
from .show import Parts, Shown, Visitor, begin, show, unchosen, written
from .visits import Run, Visits

POLL = 0.25  # seconds between two looks at the device's lock
WEB_FORMATS = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".avif"}  # what a browser shows without our help
WHOLE = ("steps", "stage_steps", "seed", "height", "width")  # fields of Request


class Handlers:
    """The handlers of one server: models and device lock, shared by all visitors and changed by none; `visits` keeps
    what is each visitor's own."""

    def __init__(self, models: Models, examples: list[Path]) -> None:
        self.models, self.examples = models, examples
        self.device = threading.Lock()  # not an RLock: gradio resumes a generator on another thread
        self.visits = Visits()

    def run(self, parts: Parts, form: dict[str, Any], visitor: Visitor) -> Iterator[Shown]:
        """One generation as the page shows it; `form` are the page's inputs by name."""
        try:
            form |= timeline.read(form.pop("timeline"), from_json("steps", form["steps"]))
            if form.pop("random"):
                form["seed"] = secrets.randbelow(2**31)
            request = self.request(**form)
        except RequestError as error:
            yield {parts.status: views.status(str(error), "failed")}
            raise sentence(error) from error
        yield from self.draw(request, parts, visitor)

    def branch(self, parts: Parts, chosen: Any, value: Any, visitor: Visitor) -> Iterator[Shown]:
        """Goes on from a chosen frame of a kept run with the balances of the timeline; `chosen` comes from `choose`."""
        try:
            trunk = self.visits.run(visitor.session, chosen["run"]) if chosen else None
            if trunk is None or chosen["step"] > len(trunk.latents):
                raise RequestError("no_run")
            request = branched(trunk.request, chosen["step"], timeline.read_balance(value))
            request = request.checked(self.models.profile.limits)
        except RequestError as error:
            yield {parts.status: views.status(str(error), "failed")} | unchosen(parts)
            raise sentence(error) from error
        yield from self.draw(request, parts, visitor, trunk, chosen["step"])

    def verify(self, parts: Parts, recipe: Any, reference: Any, visitor: Visitor) -> Iterator[Shown]:
        """Draws the picture of the recipe on the page once more and says whether it is the same."""
        try:
            if recipe is None:
                raise RecipeError(texts.NO_RECIPE)
            found = self.find(recipe, reference, visitor)
            request = recipes.requested(recipe, self.models.profile, found[0])
            theirs = {parts.recipe, *parts.forms.values()}
        except (RequestError, RecipeError) as error:
            yield {parts.status: views.status(str(error), "failed")}
            raise sentence(error) from error
        for changes in self.draw(request, parts, visitor):
            made = changes.get(parts.recipe)
            if made is not None:  # the recipe on the page stays the one that was asked for
                changes = {part: new for part, new in changes.items() if part not in theirs}
                apart = differences(recipe, made)
                same = made["picture"] == recipe["picture"]
                line = " ".join([texts.IDENTICAL if same else texts.NOT_IDENTICAL, *apart])
                changes[parts.status] = views.status(line, "done" if same else "failed")
            yield changes

    def draw(
        self, request: Request, parts: Parts, visitor: Visitor, trunk: Run | None = None, step: int = 0
    ) -> Iterator[Shown]:
        """A run of its own, or a branch after `step` steps of `trunk`, once the device is free."""
        run = self.visits.begin(visitor.session, request, plan(self.models.profile, request)[1], trunk, step)
        resume = Resume(step=step, img=run.latents[step - 1]) if trunk else None
        yield begin(run, parts, trunk is not None)
        for waited in self.turn():
            yield {parts.status: views.status(texts.WAITING.format(seconds=waited), "busy")}
        try:
            with closing(generate(self.models, request, resume)) as events:
                yield from show(events, run, self.visits, visitor, parts)
        finally:
            self.device.release()

    def generate(
        self, reference: Any, prompt: Any, stage_steps: Any = None, **asked: Any
    ) -> Iterator[tuple[str | None, dict[str, Any] | None]]:
        """Draw the subject of a reference picture as a prompt asks for.

        Gives the path of a PNG and the recipe that makes it again. While it runs the path is null, and in the recipe's
        place stands what happens: `event` is waiting, encoded, stage or step. All but `reference` and `prompt` may be
        left out or null: then they are as the profile has them. `balance` is three numbers, one per
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
        for waited in self.turn():
            yield None, {"event": "waiting", "seconds": round(waited, 2)}
        try:
            with closing(generate(self.models, request)) as events:
                for event in events:
                    if isinstance(event, Finished):
                        with written(event) as made:
                            yield str(made.path), made.recipe
                    else:
                        yield None, told(event)
        finally:
            self.device.release()

    def recipe(self, file: Any) -> dict[str, Any]:
        """Read the recipe in a PNG that this program wrote, or in a JSON file: everything that makes the picture again.

        Its fields are arguments of /generate; `references` are the content hashes of the pictures it was made with. A
        file without a recipe is answered with a sentence that says what is wrong with it.
        """
        try:
            if (path := path_of(file)) is None:
                raise RecipeError(texts.NO_RECIPE)
            return read_file(Path(path))
        except RecipeError as error:
            raise sentence(error) from error

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

    def look(self, reference: Any) -> tuple[Any, str, str]:
        """A fresh reference: what the models get of it, what is wrong with it, and formats a browser cannot show."""
        if (path := path_of(reference)) is None:
            return gr.skip(), views.status(texts.READY, "idle"), ""
        try:
            looked = inspect(self.models, path)
        except RequestError as error:
            gr.Warning(escape(str(error), quote=False))
            return None, views.status(str(error), "failed"), ""
        shown = gr.skip() if Path(path).suffix.lower() in WEB_FORMATS else looked.picture
        return shown, views.status(texts.READY, "idle"), check(looked)

    def pick(self, event: gr.EventData) -> tuple[str, str]:
        """The example that was clicked, and what the models get of it."""
        index = getattr(event, "index", None)
        if not is_whole(index) or not 0 <= index < len(self.examples) or not self.examples[index].is_file():
            raise gr.Error(texts.GONE, print_exception=False)
        path = self.examples[index]
        return str(path), check(inspect(self.models, path))

    def choose(self, parts: Parts, run: Any, step: Any, session: str) -> Shown:
        """A frame of the filmstrip was picked to branch from, or let go (`step` is null). Anything may be sent."""
        kept = self.visits.run(session, run) if isinstance(run, str) else None
        if kept is None or not is_whole(step) or not 1 <= step <= len(kept.latents):
            return unchosen(parts)
        left = kept.request.steps - step
        if left == 0:
            return unchosen(parts) | {parts.status: views.status(texts.LAST_STEP, "idle")}
        return {
            parts.chosen: {"run": run, "step": step},
            parts.branch: gr.Button(texts.BRANCH_FROM.format(step=step), interactive=True),
            parts.status: views.status(texts.CHOSEN.format(step=step, rest=left), "idle"),
        }

    def newest(self, session: str) -> str:
        """The id of a visitor's latest run, empty where there is none."""
        run = self.visits.newest(session)
        return run.id if run else ""

    def stopped(self, parts: Parts, before: str, session: str) -> Shown:
        """After Stop: the line says so, and what was drawn of the run can be branched from. `before` is the id of the
        run before the one that was stopped, which may not have begun."""
        run = self.visits.newest(session)
        shown = {parts.film: film(run)} if run is not None and run.id != before else {}
        return {parts.status: views.status(texts.STOPPED, "stopped"), **shown}

    def find(self, recipe: dict[str, Any], reference: Any, visitor: Visitor) -> Any:
        """The recipe's reference and its path, see recipes.find_reference; raises RecipeError where it is not here."""
        found = recipes.find_reference(recipe, path_of(reference), self.examples, self.visits, visitor.session)
        if found is None:
            raise RecipeError(texts.NO_REFERENCE.format(digest=", ".join(recipe["references"]) or "none"))
        return found


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


def told(event: Event) -> dict[str, Any]:
    """An event of a run as JSON, without its pictures and latents."""
    if isinstance(event, Encoded):
        return {"event": "encoded", "unknown_words": event.unknown_words, "stage_steps": event.stage_steps}
    if isinstance(event, StageStarted):
        return {"event": "stage", "stage": event.stage + 1, "step": event.step + 1, "balance": event.balance}
    assert isinstance(event, StepDone)
    return {
        "event": "step", "step": event.step + 1, "steps": event.steps, "stage": event.stage + 1, "t": event.t,
        "seconds": round(event.seconds, 4),
    }  # fmt: skip


def from_json(name: str, value: Any) -> Any:
    """A field of Request from JSON: a list as a tuple, rows in it too; in a field of whole numbers 25.0 as 25, since
    not all that send JSON tell them apart; anything else, lists nested deeper among it, as it is."""
    if isinstance(value, list):
        return tuple(tuple(one) if isinstance(one, list) else from_json(name, one) for one in value)
    if name in WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def sentence(error: RequestError | RecipeError) -> gr.Error:
    """A visitor's mistake as the page and the API show it, without a traceback in the log."""
    return gr.Error(escape(str(error), quote=False), print_exception=False)
