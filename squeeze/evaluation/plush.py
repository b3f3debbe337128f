"""How well the embedded model keeps the toy and follows the prompt, read by the probe on held-out toys and prompts.

One picture a case, seed = case number. The probe takes no part in training the generator; settings are chosen by it on
cases of their own, apart from those that are measured. Every interval is a 95 % bootstrap over cases, each a toy of its
own.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ..checks import near_copy
from ..events import finished
from ..files import whole
from ..images import content_hash, open_picture, to_picture, to_tensor
from ..models.loading import Models
from ..pipeline import default_request, generate
from ..plush.language import ANSWERS, Wish, say
from ..plush.probe import Probe, Reading, degrees_between
from ..plush.render import render, visible
from ..plush.world import FACINGS, PROPORTIONS, facing_of
from ..recipe import write_png
from ..request import RequestError
from ..training.data import IDENTITY, Case, draw_cases, unanswerable
from .intervals import interval, mean_interval
from .records import Records

PROMPT = ("place", "facing", "hat", "size")
JOINT = ("place", "facing", "hat", "body", "pattern")
JUDGED = 5  # counted up where pictures are judged by other rules
BLOCK = 250  # cases that are drawn together
CASES_SEED = 77_000_000  # apart from every seed that training draws from
SELECTION_SEED = 78_500_000  # other cases, to choose weights and settings by, so that no figure is of chosen cases
BLIND_RECALL = 0.079  # of facings drawn without regard to the reference, by the world's distribution of azimuths
BLIND_OFF = 0.25  # error of who takes every proportion for the middle of its range
BARE_SHARE = 0.35  # share of scenes without a hat, of all there are


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One case's outcome: the picture, the reference it started from, the prompt, and which attributes are right
    (None: not asked for, or not to be known from the reference, or hidden in a true picture of the case)."""

    case: int
    prompt: str
    reference: Image.Image
    picture: Image.Image
    right: dict[str, bool | None]
    needs_picture: bool
    copied: bool
    turned: float  # degrees between the facing in the reference and in the picture
    off: float  # mean error of the toy's proportions, see world.PROPORTIONS, each a share of its range


def evaluate(
    models: Models, probe: Probe, count: int, free: bool = False, needing: bool = False,
    records: Records | None = None, seed: int = CASES_SEED, **asked: Any,
) -> Iterator[Drawn]:  # fmt: skip
    """Draws the first `count` held-out cases of `seed` with the profile's defaults, changed by `asked` (fields of
    Request); with `free` the prompts leave the facing open, so that it shows whether it is copied from the reference,
    with `needing` cases whose prompts do not need the picture are passed over. With `records` each case is kept at
    once, and those kept before are not drawn again; what was judged by other rules or another probe is judged anew."""
    run = _Run(models=models, probe=probe, judge=_judge(probe), records=records, asked=asked)
    kind, left = "free" if free else "told", count
    for first in itertools.count(0, BLOCK):
        cases = held_out(BLOCK if needing else min(BLOCK, left), (seed + 3 if free else seed) + 100 * (first // BLOCK))
        if free:
            rng = random.Random(seed + first)
            cases = replace(cases, wishes=[_without_facing(wish, rng) for wish in cases.wishes])
        block = _Block(cases, models.profile.size)
        wanted = [case for case in range(len(cases.wishes)) if not needing or block.needs(case)][:left]
        for case in wanted:
            yield run.drawn(block, case, first + case, kind)
        left -= len(wanted)
        if not left:
            return


def held_out(count: int, seed: int) -> Case:
    """The first `count` <= BLOCK of a block of cases, which are the same whatever the count."""
    return draw_cases(BLOCK, seed, held_out=True)[:count]


def _judge(probe: Probe) -> str:
    """What results have in common that are judged alike: the rules, and the probe's weights."""
    weights = hashlib.sha256()
    for name, tensor in sorted(probe.state_dict().items()):
        weights.update(name.encode() + tensor.float().numpy().tobytes())
    return f"{JUDGED}/{weights.hexdigest()[:12]}"


class _Block:
    """Cases that are rendered together, and what is known of each beforehand."""

    def __init__(self, cases: Case, size: int) -> None:
        drawn = render(cases.toys, cases.references, size)
        self.cases, self._references, self._known = cases, drawn.pixels, visible(cases.toys, drawn)
        self._seen = visible(cases.toys, render(cases.toys, cases.targets, size))

    def reference(self, case: int) -> Image.Image:
        """The picture that is given."""
        return to_picture(self._references[case : case + 1] * 2 - 1)

    def unknown(self, case: int) -> frozenset[str]:
        """What the prompt asks for that the reference does not tell."""
        return unanswerable(self.cases, case, bool(self._known["belly"][case]))

    def needs(self, case: int) -> bool:
        """Whether the prompt cannot be followed without the picture."""
        return bool(self.cases.wishes[case].needs_picture - self.unknown(case))

    def judged(self, read: Reading, case: int) -> dict[str, Any]:
        """What a reading of its picture says, fields of Drawn; of the toy that which can be both known and shown."""
        toys, wish, unknown = self.cases.toys, self.cases.wishes[case], self.unknown(case)
        right: dict[str, bool | None] = dict.fromkeys((*PROMPT, *IDENTITY))
        for name in PROMPT:
            if (wanted := getattr(wish, name)) is not None and name not in unknown:
                right[name] = _reads(read, name) == wanted
        for name in IDENTITY:
            if self._known[name][case] and self._seen[name][case]:
                right[name] = _reads(read, name) == int(getattr(toys, name)[case])
        return {
            "right": right,
            "needs_picture": self.needs(case),
            "turned": float(degrees_between(read.azimuth, self.cases.references.azimuth[case])[0]),
            "off": float((read.proportions[0] - toys.shape[case, PROPORTIONS]).abs().mean()),
        }


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What cases are drawn and judged with, and where they are kept."""

    models: Models
    probe: Probe
    judge: str
    records: Records | None
    asked: dict[str, Any]

    def drawn(self, block: _Block, case: int, number: int, kind: str) -> Drawn:
        """A case's outcome; `number` is its name and its seed."""
        reference, prompt, name = block.reference(case), block.cases.wishes[case].text, f"{kind}/{number:05}"
        picture, result = self._kept(name)
        if picture is None:
            request = default_request(
                self.models.profile,
                **{"prompt": prompt, "references": (reference,), "seed": number, "previews": False} | self.asked,
            )
            done = finished(generate(self.models, request))
            picture, result = done.image, {"picture": done.recipe["picture"]}
            if self.records:
                with whole(self._path(name)) as part:
                    write_png(picture, done.recipe, part)
        if result.get("judge") != self.judge:
            told = block.judged(self.probe.read(to_tensor(picture)), case)
            result = {
                "picture": result["picture"],
                "judge": self.judge,
                **told,
                "copied": near_copy(picture, reference),
            }
            if self.records:
                self.records.write(name, result)
        told = {key: value for key, value in result.items() if key not in ("picture", "judge")}
        return Drawn(case=number, prompt=prompt, reference=reference, picture=picture, **told)

    def _kept(self, name: str) -> tuple[Image.Image | None, dict[str, Any]]:
        """A case's picture and result from an earlier run; no picture where one of them is missing or damaged."""
        if not self.records:
            return None, {}
        result = self.records.read(name) or {}
        try:
            picture = open_picture(self._path(name))
        except RequestError:
            return None, {}
        return (picture, result) if result.get("picture") == content_hash(picture) else (None, {})

    def _path(self, name: str) -> Path:
        return self.records.folder / "pictures" / f"{name}.png"


def _without_facing(wish: Wish, rng: random.Random) -> Wish:
    text = say(rng, place=wish.place, facing=None, hat=wish.hat, size=None)
    return Wish(text=text, place=wish.place, facing=None, hat=wish.hat, size=None)


def _reads(read: Reading, name: str) -> int:
    return int(facing_of(read.azimuth)[0]) if name == "facing" else int(read.index[name][0])


def chance(name: str) -> float:
    """The rate of a blind guess where every answer is as frequent, and of hats of the best one. Held-out cases are less
    even: an answer that is always the same may do better."""
    if name == "hat":
        return BARE_SHARE
    return 1 / (len(FACINGS) if name == "facing" else len(ANSWERS[name]))


def summary(drawn: list[Drawn]) -> dict[str, Any]:
    """Rates over the pictures that are asked for or can show each attribute, with their number and the chance of a
    blind guess. Several pictures of one case, by weights of different seeds, are drawn together in intervals."""
    of = [d.case for d in drawn]
    rates: dict[str, Any] = {}
    for name in (*PROMPT, *IDENTITY):
        shown = [d for d in drawn if d.right[name] is not None]
        judged = [d.right[name] for d in shown]
        rates[name] = {
            "rate": share(judged), "interval": interval(judged, [d.case for d in shown]), "cases": len(judged),
            "chance": round(chance(name), 3),
        }  # fmt: skip
    needs = [d for d in drawn if d.needs_picture]
    relative = [all(d.right[name] is not False for name in PROMPT) for d in needs]
    joint = [all(d.right[name] is not False for name in JOINT) for d in drawn]
    copied, off = [d.copied for d in drawn], [d.off for d in drawn]
    return {
        "cases": len(drawn),
        "rates": rates,
        "joint": share(joint),
        "joint_interval": interval(joint, of),
        "prompt_mean": _mean(rates, PROMPT[:3]),
        "prompt_mean_interval": mean_interval([[d.right[name] for name in PROMPT[:3]] for d in drawn], of),
        "identity_mean": _mean(rates, IDENTITY),
        "identity_mean_interval": mean_interval([[d.right[name] for name in IDENTITY] for d in drawn], of),
        "needs_picture": {
            "rate": share(relative),
            "interval": interval(relative, [d.case for d in needs]),
            "cases": len(relative),
        },
        "near_copies": share(copied),
        "near_copies_interval": interval(copied, of),
        "proportions_off": round(sum(off) / len(off), 4),
        "proportions_off_interval": interval(off, of),
    }


def copy_paste(drawn: list[Drawn]) -> dict[str, Any]:
    """How the toy stands in pictures whose prompts leave the facing open, in the paper's form: degrees turned from the
    reference on average, and the share within k degrees of it averaged over k = 5, 10, 15, 20."""
    turned, of = [d.turned for d in drawn], [d.case for d in drawn]
    recall = [sum(angle <= k for k in (5, 10, 15, 20)) / 4 for angle in turned]
    return {
        "azimuth_difference": round(sum(turned) / len(turned), 1), "azimuth_interval": interval(turned, of),
        "recall": round(sum(recall) / len(recall), 4), "recall_interval": interval(recall, of),
        "cases": len(turned),
    }  # fmt: skip


def share(values: list[bool | None]) -> float | None:
    """The share of cases that are right; None where there are none."""
    return round(sum(map(bool, values)) / len(values), 4) if values else None


def _mean(rates: dict[str, Any], names: tuple[str, ...]) -> float | None:
    found = [rates[name]["rate"] for name in names if rates[name]["rate"] is not None]
    return round(sum(found) / len(found), 4) if found else None


def as_markdown(figures: dict[str, Any]) -> str:
    """The summary as a table, chance beside each rate."""
    needs, cases = figures["needs_picture"], figures["cases"]
    rows = [(name, r["rate"], r["interval"], r["cases"], f"{r['chance']:.1%}") for name, r in figures["rates"].items()]
    blind = {"proportions_off": f"{BLIND_OFF:.1%}"}
    for name in ("joint", "prompt_mean", "identity_mean", "near_copies", "proportions_off"):
        rows.append((name.replace("_", " "), figures[name], figures[f"{name}_interval"], cases, blind.get(name, "")))
    if needs["cases"]:
        rows.append(("prompts that need the picture", needs["rate"], needs["interval"], needs["cases"], ""))
    if "copy_paste" in figures:
        turned = figures["copy_paste"]
        copied = turned["recall"], turned["recall_interval"], turned["cases"], f"{BLIND_RECALL:.1%}"
        rows.append(("facing copied (recall)", *copied))
    lines = ["| attribute | right | 95 % interval | cases | chance |", "|---|---:|---:|---:|---:|"]
    for name, rate, within, count, chances in rows:
        between = "{:.1%} to {:.1%}".format(*within) if within else "-"
        lines.append(f"| {name} | {'-' if rate is None else f'{rate:.1%}'} | {between} | {count} | {chances} |")
    if "copy_paste" in figures:
        within = turned["azimuth_interval"]
        between = "{:.1f}° to {:.1f}°".format(*within) if within else "-"
        average = f"{turned['azimuth_difference']:.1f}°"
        lines.append(f"| turned from the reference | {average} | {between} | {turned['cases']} | 90.0° |")
    if figures.get("renders_distance") is not None:
        within = figures["renders_distance_interval"]
        between = "{:.1f} to {:.1f}".format(*within) if within else "-"
        lines.append(f"| distance to renders | {figures['renders_distance']:.1f} | {between} | {cases} | |")
    return "\n".join(lines)


class Pair(Protocol):
    """A reference and what was drawn from it."""

    @property
    def reference(self) -> Image.Image: ...

    @property
    def picture(self) -> Image.Image: ...


def sheet(drawn: Sequence[Pair], columns: int = 8, scale: int = 2) -> Image.Image:
    """References (above) and pictures (below) of all cases, in order."""
    side = drawn[0].picture.width * scale
    rows = -(-len(drawn) // columns)
    out = Image.new("RGB", (columns * (side + 4), rows * (2 * side + 10)), "white")
    for index, one in enumerate(drawn):
        left, top = index % columns * (side + 4), index // columns * (2 * side + 10)
        out.paste(one.reference.resize((side, side), Image.Resampling.LANCZOS), (left, top))
        out.paste(one.picture.resize((side, side), Image.Resampling.LANCZOS), (left, top + side + 2))
    return out
