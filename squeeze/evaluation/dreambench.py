"""DreamBench: every subject with every prompt and seed, drawn by a profile or by another system, and scored.

One reference per subject, the same for all its cases: its first photo by name, which anybody can find again. A case is
kept at once, picture and scores each whole or not at all, so that a run can be stopped anywhere and goes on with the
same command; its cases are split over the processes that accelerate started.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from PIL import Image

from ..events import finished
from ..files import whole
from ..images import content_hash, open_picture
from ..models.failures import reason, trouble
from ..models.loading import Models
from ..pipeline import default_request, generate, plan, recipe_of
from ..recipe import RecipeError, read_png, write_png
from ..request import Request, RequestError
from .intervals import interval
from .metrics import SCORES, Look, Metrics, score
from .records import EvaluationError, Records
from .subjects import SUFFIXES, Bench, Subject

SEEDS = 4  # pictures of each prompt, as in DreamBooth
NAMING = "SUBJECT/PROMPT_SEED.png, for example dog/07_0.png: prompts are counted from 0 as in the list"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One picture to be: `number` of the prompt in the subject's list, from 0."""

    subject: Subject
    number: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.subject.name}/{self.number:02}_{self.seed}"

    @property
    def prompt(self) -> str:
        return self.subject.prompts[self.number]


def draw_list(bench: Bench, seeds: int) -> list[Case]:
    """All cases, in an order whose beginning is spread over subjects and prompts."""
    subjects = list(enumerate(bench.subjects))
    most = max(len(subject.prompts) for subject in bench.subjects)
    return [
        Case(subject=subject, number=(turn + place) % len(subject.prompts), seed=seed)
        for seed in range(seeds)
        for turn in range(most)
        for place, subject in subjects
        if turn < len(subject.prompts)
    ]


def possible(bench: Bench, cases: list[Case]) -> int:
    """The number of pairs of subject and prompt times that of pictures of one pair, of which some may have fewer."""
    most = max(Counter((case.subject.name, case.number) for case in cases).values())
    return sum(len(subject.prompts) for subject in bench.subjects) * most


class Drawn:
    """Pictures that a profile draws, kept in `folder` as NAMING says, each with its recipe."""

    def __init__(self, models: Models, folder: Path, asked: dict[str, Any]) -> None:
        self.models, self.folder, self.asked = models, folder, asked

    def path(self, case: Case) -> Path:
        """Where a case's picture is or will be."""
        return self.folder / f"{case.name}.png"

    def request(self, case: Case) -> Request:
        """What is asked for; raises RequestError where the profile cannot take it."""
        made = default_request(
            self.models.profile, prompt=case.prompt, references=(open_picture(case.subject.photos[0]),), seed=case.seed,
            previews=False, **self.asked,
        )  # fmt: skip
        return made.checked(self.models.profile.limits)

    def picture(self, case: Case) -> Image.Image:
        """The picture kept from a run that was stopped before it was scored, else a new one."""
        path, request = self.path(case), self.request(case)
        if not self._kept(path, request):
            done = finished(generate(self.models, request))
            with whole(path) as part:
                write_png(done.image, done.recipe, part)
        return open_picture(path)

    def _kept(self, path: Path, request: Request) -> bool:
        """Whether the case's picture is there, undamaged and made by the same recipe but for versions of software."""
        wanted = recipe_of(self.models, request, plan(self.models.profile, request)[1])
        try:
            recipe = read_png(path)
            intact = recipe["picture"] == content_hash(open_picture(path))
        except (RecipeError, RequestError):
            return False
        return intact and all(recipe[name] == value for name, value in wanted.items() if name != "software")


class Found:
    """Pictures that another system made, in a folder as NAMING says (also .jpg, .jpeg, .webp). `skipped` are sentences
    about what is not named so. Raises EvaluationError where no picture can be told, and where prompts were counted from
    1: each would be held against the prompt of the next."""

    def __init__(self, folder: Path, bench: Bench) -> None:
        if not folder.is_dir():
            raise EvaluationError(f"There is no folder {folder} of pictures. They are named {NAMING}.")
        self.skipped: list[str] = []
        self._paths: dict[str, Path] = {}
        self.cases: list[Case] = []
        subjects = {subject.name: subject for subject in bench.subjects}
        numbered: set[tuple[str, int]] = set()
        for path in sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES):
            name = f"{path.parent.name}/{path.name}"
            subject, numbers = subjects.get(path.parent.name), re.fullmatch(r"(\d+)_(\d+)", path.stem, re.ASCII)
            if subject is None:
                self.skipped.append(f"{name}: the data have no such subject.")
                continue
            if numbers:
                numbered.add((subject.name, int(numbers[1])))
            if numbers is None or int(numbers[1]) >= len(subject.prompts):
                self.skipped.append(f"{name}: it names none of the {len(subject.prompts)} prompts. Name it {NAMING}.")
            else:
                case = Case(subject=subject, number=int(numbers[1]), seed=int(numbers[2]))
                if case.name in self._paths:
                    self.skipped.append(f"{name}: {self._paths[case.name].name} is the same case and was taken.")
                else:
                    self._paths[case.name] = path
                    self.cases.append(case)
        if not self.cases:
            raise EvaluationError(f"{folder} holds no pictures to score. They are named {NAMING}.")
        from_one = any((name, len(subject.prompts)) in numbered for name, subject in subjects.items())
        if from_one and not any(number == 0 for _, number in numbered):
            raise EvaluationError(f"The pictures in {folder} count prompts from 1. Name them {NAMING}.")
        self.cases.sort(key=lambda case: (case.seed, case.number))  # stable: a limit takes from all subjects

    def path(self, case: Case) -> Path:
        """Where a case's picture is."""
        return self._paths[case.name]

    def picture(self, case: Case) -> Image.Image:
        """The picture; raises RequestError where it cannot be read."""
        return open_picture(self.path(case))


def evaluate(
    cases: list[Case], source: Drawn | Found, metrics: Metrics, records: Records, state: PartialState
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Draws or reads and scores what is not done yet and keeps each case at once; yields its place among those of this
    process, their number, and the result. Returns when all processes are done. Raises EvaluationError where the device
    has no place for the metric models."""
    pending = [case for case in cases if not _done(case, source, records)]
    pending.sort(key=lambda case: case.subject.name)  # a process looks at the photos of few subjects
    state.wait_for_everyone()  # all have listed before one writes
    seen: dict[str, Look] = {}
    with state.split_between_processes(pending) as mine:
        for place, case in enumerate(mine, 1):
            result = {"subject": case.subject.name, "number": case.number, "seed": case.seed, "prompt": case.prompt}
            try:
                picture = source.picture(case)
            except RequestError as error:
                if error.code in ("memory", "device"):  # not the case's fault, and the next would fare no better
                    raise
                result["skipped"] = str(error)
            else:
                try:
                    if case.subject.name not in seen:
                        seen = {case.subject.name: metrics.look([open_picture(path) for path in case.subject.photos])}
                    scores = score(metrics.look([picture]), seen[case.subject.name], metrics.read(case.prompt))
                except RuntimeError as error:
                    raise _no_place(error) from error
                result |= {"picture": content_hash(picture)} | scores
            records.write(case.name, result)
            yield place, len(mine), result
    state.wait_for_everyone()


def _no_place(error: RuntimeError) -> Exception:
    """What to raise where the metric models fail: the error itself unless it is the device's."""
    if trouble(error) is None:
        return error
    return EvaluationError(
        f"The device has no place for the metric models beside what draws, or failed ({reason(error)}). What is scored "
        f"is kept: run the same command again with a smaller plan (--memory swap or lean), or --device cpu."
    )


def _done(case: Case, source: Drawn | Found, records: Records) -> bool:
    """Whether a case was scored by the picture that is there: it may have been changed or damaged since."""
    kept = records.read(case.name)
    if kept is None or not {"picture", *SCORES} <= kept.keys():
        return False
    try:
        return kept["picture"] == content_hash(open_picture(source.path(case)))
    except RequestError:
        return False


def summary(cases: list[Case], records: Records) -> dict[str, Any]:
    """Means over the scored pictures with intervals over subjects, the same by subject, and what was skipped; raises
    EvaluationError where nothing was scored."""
    results = [(case, records.read(case.name) or {}) for case in cases]
    scored = [result for _, result in results if "picture" in result]
    skipped = [f"{case.name}: {result['skipped']}" for case, result in results if "skipped" in result]
    if not scored:
        raise EvaluationError(f"None of {len(cases)} pictures could be scored. {skipped[0] if skipped else ''}".strip())
    names = [result["subject"] for result in scored]
    return {
        "cases": len(scored),
        "asked": len(cases),
        "skipped_pictures": skipped,
        "scores": {
            key: {"mean": _mean(scored, key), "interval": interval([result[key] for result in scored], names)}
            for key in SCORES
        },
        "subjects": {
            name: {"cases": names.count(name)}
            | {key: _mean([result for result in scored if result["subject"] == name], key) for key in SCORES}
            for name in sorted(set(names))
        },
    }


def _mean(results: list[dict[str, Any]], key: str) -> float:
    return round(sum(result[key] for result in results) / len(results), 4)
