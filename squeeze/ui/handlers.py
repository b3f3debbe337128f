"""What happens when a visitor presses something: generator handlers that turn a run's events into the page's parts.

Handlers are generators because gradio can only end a generator early: a closed tab raises GeneratorExit at the next
yield, and our `finally` frees the device. Stop goes another way: it leaves word in the run's Going, and the run ends
itself at the next step, so that what is shown last is the run's own word, in order with all before it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..events import Encoded, Event, Finished, StageStarted, StepDone
from ..images import content_hash, open_picture
from ..models.loading import Models
from ..pipeline import Resume, branched, default_request, generate, plan
from ..recipe import RecipeError, differences, read_file
from ..request import Request, RequestError, check_whole, is_whole
from . import recipes, texts, timeline, views
from .film import film
from .line import Ahead, Line, LineError, Place
from .sent import from_json, kept, path_of, picture_of
from .show import Parts, Shown, Visitor, asked, reading, show, unchosen, written
from .visits import Run, Visits


@dataclass
class Going:
    """A run from the press on. Stop leaves word here; gr.State hands the very same object to every handler. Once it is
    `over`, with a picture if it has `finished`, its frames can be chosen, though the page is still coming to rest."""

    stopped: bool = False
    finished: bool = False
    over: bool = False


class Handlers:
    """The handlers of one server: the models, shared by all visitors and changed by none; the line at the device;
    `visits` keeps what is each visitor's own."""

    def __init__(self, models: Models, examples: list[Path]) -> None:
        self.models, self.examples = models, examples
        self.line = Line()
        self.visits = Visits()

    @cached_property
    def known(self) -> dict[str, Path]:
        """The examples by content hash."""
        found = {}
        for path in self.examples:
            with suppress(RequestError):  # the file is gone or damaged; the others are there
                found[content_hash(open_picture(path))] = path
        return found

    def run(self, parts: Parts, form: dict[str, Any], visitor: Visitor, going: Going | None = None) -> Iterator[Shown]:
        """One generation as the page shows it; `form` are the page's inputs by name."""
        try:
            steps = from_json("steps", form["steps"])
            check_whole("steps", steps, 1, self.models.profile.limits.steps)  # before the borders, which add up to them
            form |= timeline.read(form.pop("timeline"), steps)
            if form.pop("random"):
                form["seed"] = secrets.randbelow(2**31)
            form["more"] = [form.pop(name) for name in list(form) if name.startswith("reference_")]
            request = self.request(**form)
        except RequestError as error:
            yield {parts.status: views.status(str(error), "failed")}
            raise sentence(error) from error
        yield from self.draw(request, parts, visitor, going)

    def branch(
        self, parts: Parts, chosen: Any, value: Any, visitor: Visitor, going: Going | None = None
    ) -> Iterator[Shown]:
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
        yield from self.draw(request, parts, visitor, going, trunk, chosen["step"])

    def verify(
        self, parts: Parts, recipe: Any, given: Sequence[Any], visitor: Visitor, going: Going | None = None
    ) -> Iterator[Shown]:
        """Draws the picture of the recipe on the page once more and says whether it is the same."""
        try:
            if recipe is None:
                raise RecipeError(texts.NO_RECIPE)
            found = self.find(recipe, given, visitor)
            if None in found:
                raise RecipeError(recipes.missing(recipe, found, texts.NOT_VERIFIED))
            request = recipes.requested(recipe, self.models.profile, tuple(one.picture for one in found if one))
            theirs = {parts.recipe, parts.compare, parts.form["seed"], *parts.forms.values()}
        except (RequestError, RecipeError) as error:
            yield {parts.status: views.status(str(error), "failed")}
            raise sentence(error) from error
        for changes in self.draw(request, parts, visitor, going):
            made = changes.get(parts.recipe)
            # the recipe on the page stays the one that was asked for, and the controls are for the next picture
            changes = {part: new for part, new in changes.items() if part not in theirs}
            if made is not None:
                apart = differences(recipe, made)
                same = made["picture"] == recipe["picture"]
                line = " ".join([texts.IDENTICAL if same else texts.NOT_IDENTICAL, *apart])
                changes[parts.status] = views.status(line, "done" if same else "failed")
            if changes:
                yield changes

    def draw(
        self, request: Request, parts: Parts, visitor: Visitor, going: Going | None = None, trunk: Run | None = None,
        step: int = 0,
    ) -> Iterator[Shown]:  # fmt: skip
        """A run of its own, or a branch after `step` steps of `trunk`, once the device is free. Stopped, it ends after
        the step it is at and can be branched from; a finished picture is not taken back."""
        going = going or Going()
        resume = Resume(step=step, img=trunk.latents[step - 1]) if trunk else None
        try:
            place = self.line.enter(visitor.session, (request.steps - step) * per_step(request))
        except LineError as error:
            yield {parts.status: views.status(str(error), "failed")}
            raise sentence(error) from error
        run = None
        try:
            run = self.visits.begin(visitor.session, request, plan(self.models.profile, request)[1], trunk, step)
            yield asked(run, parts, trunk is not None)
            for ahead in self.line.wait(place):
                if going.stopped:
                    break
                yield {parts.status: views.status(waiting(ahead), "busy")}
            if not going.stopped:
                yield reading(run, parts)
                with closing(self.events(request, place, resume)) as events:
                    for changes in show(events, run, self.visits, visitor, parts):
                        if going.stopped and len(run.latents) < request.steps:
                            break
                        going.finished = going.over = run.picture is not None
                        yield changes
        except RequestError as error:  # too little memory, which is known only now
            yield {parts.status: views.status(str(error), "failed")}
            raise sentence(error) from error
        except Exception:  # a full disk, a fault of the card or of ours: the log has it, and the page does not go on
            yield {parts.status: views.status(texts.FAILED, "failed")}
            raise
        finally:
            self.line.leave(place)
            if run is not None:
                self.visits.settle(visitor.session, run, step)
        going.over = True
        if not going.finished:
            drawn = {parts.film: film(run)} if len(run.frames) > step else {}
            yield {parts.status: views.status(texts.STOPPED if drawn else texts.LEFT_LINE, "stopped"), **drawn}

    def events(self, request: Request, place: Place, resume: Resume | None = None) -> Iterator[Event]:
        """The events of a run whose turn it is; the line hears how long its steps take, way to the visitor included."""
        with closing(generate(self.models, request, resume)) as events:
            began = time.monotonic()
            for event in events:
                if isinstance(event, Encoded):
                    began = time.monotonic()
                yield event
                if isinstance(event, StepDone):
                    now = time.monotonic()
                    self.line.stepped(place, per_step(request), now - began)
                    began = now

    def generate(
        self, visitor: gr.Request, reference: Any, prompt: Any, stage_steps: Any = None, more: Any = None, **asked: Any
    ) -> Iterator[tuple[str | None, dict[str, Any] | None]]:
        """Draw the subject of a reference picture as a prompt asks for.

        Gives the path of a PNG and the recipe that makes it again. While it runs the path is null, and in the recipe's
        place stands what happens: `event` is waiting, encoded, stage or step. All but `reference` and `prompt` may be
        left out, and numbers and their lists be null: then they are as the profile has them, and the seed is 0.
        `balance` is three numbers, one per stage, from 0 (semantics) to 1 (identity). `steps` are whole steps;
        `stage_steps` how many of them fall into each stage, three whole numbers that add up to `steps`, or null for the
        profile's borders. `cfg` is true classifier-free guidance, 1 is off; `guidance` FLUX's embedded guidance, where
        the model has it. `seed` is a whole number from 0 to 9007199254740991. `height` and `width` are pixels. `eta`,
        from 0 to 1, is how much of each step's noise is drawn anew. `uncond` is what CFG sees without the prompt,
        `lean` (nothing) or `full` (the reference's details); `late_text` whether the prompt's words stay where the
        balance is 1, `drop` or `keep`. `earlier` belongs to branched runs: rows of the number of steps up to a branch
        and the three balances that held there. `more` are further reference pictures where the model takes several, and
        left out where there are none. A wrong value is answered with a sentence that names it.
        """
        # the API page shows these words; gradio lets only a named argument's None be a default, so one stands apart
        given = {name: value for name, value in asked.items() if value is not None}
        try:
            further = more if isinstance(more, list) else []
            if None in map(path_of, further):
                raise RequestError("not_a_picture", value="more")
            request = self.request(reference, prompt, further, stage_steps=stage_steps, **given)
            place = self.line.enter(caller(visitor), request.steps * per_step(request))
        except (RequestError, LineError) as error:
            raise sentence(error) from error
        try:
            for ahead in self.line.wait(place):
                yield None, {"event": "waiting", "place": ahead.place, "seconds": ahead.seconds}
            with closing(self.events(request, place)) as events:
                for event in events:
                    if isinstance(event, Finished):
                        with written(event) as made:
                            yield str(made.path), made.recipe
                    else:
                        yield None, told(event)
        except RequestError as error:
            raise sentence(error) from error
        finally:
            self.line.leave(place)

    def recipe(self, file: Any) -> dict[str, Any]:
        """Read the recipe in a PNG that this program wrote, or in a JSON file: everything that makes the picture again.

        Its fields from `prompt` to `earlier` are arguments of /generate, but for `references`, the content hashes of
        the pictures it was made with: these go into `reference` and `more`. A file without a recipe is answered with a
        sentence that says what is wrong with it.
        """
        try:
            if (path := path_of(file)) is None:
                raise RecipeError(texts.NO_RECIPE)
            return read_file(Path(path))
        except RecipeError as error:
            raise sentence(error) from error

    def request(self, reference: Any, prompt: Any, more: Sequence[Any] = (), **asked: Any) -> Request:
        """The checked request of a form or an API call, `asked` fields of Request as JSON brings them; raises
        RequestError. No file is opened before this; of `more`, empty boxes count for nothing."""
        if path_of(reference) is None:
            raise RequestError("no_reference")
        profile = self.models.profile
        paths = [path for path in map(path_of, (reference, *more)) if path]
        if len(paths) > profile.limits.references:
            raise RequestError("too_many_references", value=len(paths), limit=profile.limits.references)
        fields = {name: from_json(name, value) for name, value in asked.items()}
        fields["prompt"] = prompt if isinstance(prompt, str) else ""
        return default_request(profile, references=tuple(map(picture_of, paths)), **fields).checked(profile.limits)

    def choose(self, parts: Parts, run: Any, step: Any, session: str) -> Shown:
        """A frame of the filmstrip was picked to branch from, or let go (`step` is null). Anything may be sent."""
        kept = self.visits.run(session, run) if isinstance(run, str) else None
        if step is None:
            return unchosen(parts) | {parts.status: views.status(texts.READY, "idle")}
        if kept is None or not is_whole(step) or not 1 <= step <= len(kept.latents):
            return unchosen(parts) | {parts.status: views.status(str(RequestError("no_run")), "failed")}
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

    def find(self, recipe: dict[str, Any], given: Sequence[Any], visitor: Visitor) -> list[recipes.Found | None]:
        """The recipe's references, see recipes.find_references; `given` are the pictures in the boxes."""
        boxes = [path and kept(path) for path in map(path_of, given)]
        return recipes.find_references(recipe, boxes, self.known, self.visits, visitor.session)


def per_step(request: Request) -> int:
    """Forwards of the transformer at each step."""
    return 1 if request.cfg == 1 else 2


def caller(visitor: gr.Request) -> str:
    """Whose place in the line a call of the API takes. Agents all come in one session, that of gradio's MCP server, so
    each of their calls stands by itself."""
    return secrets.token_hex(8) if visitor.headers.get("x-gradio-user") == "mcp" else str(visitor.session_hash)


def waiting(ahead: Ahead) -> str:
    """What the status line says of a place in the line."""
    left = "" if ahead.seconds is None else texts.LEFT.format(seconds=max(1, round(ahead.seconds)))
    return (texts.NEXT if ahead.place == 1 else texts.WAITING).format(place=ahead.place, left=left)


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


def sentence(error: RequestError | RecipeError | LineError) -> gr.Error:
    """A visitor's mistake as the page and the API show it, without a traceback in the log."""
    return gr.Error(escape(str(error), quote=False), print_exception=False)
