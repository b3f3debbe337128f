"""The paper's tables in miniature: what a choice does to identity kept and prompt followed, one table a command.

Some rows only ask for something else of the shipped model; others train a variant of the denoiser first, all with the
same frozen parts, size, steps, data and seed. Nothing is chosen by these figures.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..balance import PRESETS, steps_per_stage
from ..files import write_text
from ..models.loading import Models, load
from ..models.profiles import Profile
from ..models.sources import revision
from ..pipeline import settings
from ..plush.probe import Probe
from ..request import CHOICES
from ..sampling import noisier, schedule, shift_for
from ..training.run import FROZEN
from . import plush
from .likeness import likeness
from .parts import load_probe
from .records import EvaluationError, Records

BATCH = 64  # samples of a training step, shared out among its processes
PAPER_TOKENS = 4096  # the image tokens that the paper's thresholds belong to
FREE = 4  # one case in so many is drawn again with the facing left open


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is trained for a row: flags of `python -m squeeze train`, and the parts in order with their share of the
    table's steps."""

    name: str
    flags: tuple[str, ...] = ()
    parts: tuple[tuple[str, float], ...] = (("phase1", 0.5), ("phase2", 0.5))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: fields of Request that it changes, and the variant it needs, None for the shipped weights."""

    name: str
    asked: dict[str, Any] = field(default_factory=dict)
    trained: Trained | None = None


def _thresholds(profile: Profile) -> list[Row]:
    """The paper's Table C, its thresholds brought to this profile's token count at equal signal to noise a picture."""
    tokens = (profile.size // 16) ** 2
    mu = shift_for(tokens) if profile.shift is None else profile.shift
    times = schedule(profile.steps, mu)[:-1]
    rows = []
    for tau1, tau2, cfg in ((0, 0, 2.5), (0.97, 0.9, 2.5), (0.95, 0.85, 2.5), (0.85, 0.7, 2.5), (0.95, 0.85, 4)):
        counts = steps_per_stage(times, scaled(tau1, tokens), scaled(tau2, tokens))
        named = f"tau {tau1:g}, {tau2:g} ({counts[0]} + {counts[1]} + {counts[2]} steps), CFG {cfg:g}"
        rows.append(Row(name=named, asked={"stage_steps": counts, "cfg": cfg}))
    return rows


def scaled(t: float, tokens: int) -> float:
    """The time at which a picture of `tokens` has the signal to noise, over the whole picture, that one of 4096 tokens
    has at `t`."""
    return noisier(t, (tokens / PAPER_TOKENS) ** 0.5)


def _sweep(profile: Profile) -> list[Row]:
    """Each stage's balance by itself, the others as in the paper's preset."""
    rows = {}
    for stage in range(3):
        for value in (0.0, 0.25, 0.5, 0.75, 1.0):
            balance = tuple(value if i == stage else b for i, b in enumerate(PRESETS["paper"]))
            rows[balance] = Row(name="balance " + ", ".join(f"{b:g}" for b in balance), asked={"balance": balance})
    return list(rows.values())


def _presets(*names: str) -> list[Row]:
    return [Row(name=name, asked={"balance": PRESETS[name]}) for name in names]


COLUMNS = {
    "identity kept": "identity_mean", "proportions off": "proportions_off", "prompt followed": "prompt_mean",
    "all right": "joint",
}  # fmt: skip
ONE = Trained(name="one phase", flags=("--dropout", "0"), parts=(("phase2", 1.0),))
TWO = Trained(name="dla")

TABLES: dict[str, tuple[str, Callable[[Profile], list[Row]]]] = {
    "thresholds": ("Stage borders and CFG, the paper's at 4096 tokens", _thresholds),
    "conditions": ("MLLM only, both at every step, staged, identity only",
                   lambda _: _presets("meaning", "both", "paper", "identity")),
    "late_text": ("What stays of the prompt where the balance is 1",
                  lambda _: [Row(name=how, asked={"late_text": how}) for how in CHOICES["late_text"]]),
    "eta": ("How much of each step's noise is drawn anew",
            lambda _: [Row(name=f"eta {eta:g}", asked={"eta": eta}) for eta in (0.0, 1.0)]),
    "sweep": ("The balance of one stage at a time", _sweep),
    "aggregation": ("How the MLLM's layers are aggregated",
                    lambda _: [Row(name=mode, trained=replace(TWO, name=mode, flags=("--mode", mode)))
                               for mode in ("last_layer", "last_layer_blend_vit", "single_lap")]
                    + [Row(name="dla", trained=TWO)]),
    "layers": ("Which of the MLLM's layers are pooled",
               lambda _: [Row(name=part, trained=replace(TWO, name=f"layers {part}", flags=("--layers", part)))
                          for part in ("early", "middle", "late")] + [Row(name="all", trained=TWO)]),
    "training": ("One phase or two, with the stages' masks or without",
                 lambda _: [Row(name="one phase", asked={"balance": PRESETS["both"]}, trained=ONE),
                            Row(name="one phase + masks", trained=ONE),
                            Row(name="two phases + masks", trained=TWO)]),
}  # fmt: skip


def run_table(
    name: str, profile: Profile, count: int, out: Path, *, steps: int = 2000, processes: int = 1, seed: int = 0,
    seeds: int = 1, only: str | None = None, size: int | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows of a table in order, each as it is done: `name`, what was `asked`, the weights' `revision`, and the
    figures of `plush.summary`, `plush.copy_paste` and `likeness` over `count` cases. Of a variant there are `seeds`
    trainings, the first by `seed`; the figures are over the pictures of all of them, and `trainings` tells the means of
    each with its seed and revision.

    Everything is kept under `out`, variants too, and what is there already is not done again, for whichever table it
    was done. Variants train for `steps` in `processes`, and are measured, at `size` pixels a side, None = the
    profile's. `only` is the name of a single row. Raises EvaluationError where there is no such row, a training fails,
    or what is there is another version's.
    """
    rows = TABLES[name][1](profile)
    if only is not None and only not in [row.name for row in rows]:
        raise EvaluationError(f"The table {name} has no row {only!r}; it has: {'; '.join(row.name for row in rows)}.")
    probe = load_probe(profile)
    for row in rows:
        if only not in (None, row.name):
            continue
        asked = {key: value for key, value in settings(profile, row.asked).items() if key in row.asked}
        told: list[plush.Drawn] = []
        free: list[plush.Drawn] = []
        each = []
        for number in range(seed, seed + (seeds if row.trained else 1)):
            where, weights = profile, "shipped"
            if row.trained:
                sized = profile.at(size or profile.size)
                variant = train_variant(row.trained, sized, out / "variants", steps, processes, number)
                where, weights = replace(sized, folder=variant), variant.name
            models, apart = load(where), unusual(where, asked)
            records = Records(out / "drawn" / weights / ("_".join(re.findall(r"[\w.]+", str(apart))) or "defaults"))
            records.claim({"benchmark": "plush", "revision": models.revision} | settings(where, asked))
            more_told, more_free = measured(models, probe, count, records, row.asked)
            told, free = told + more_told, free + more_free
            figures = plush.summary(more_told)
            means = {key: figures[key] for key in COLUMNS.values()}
            each.append({"seed": number, "revision": models.revision} | means)
        figures = plush.summary(told) | {"copy_paste": plush.copy_paste(free)}
        figures |= likeness(probe, [one.picture for one in told], where.size, [one.case for one in told])
        trainings = {"trainings": each} if row.trained else {}
        yield {"name": row.name, "asked": asked, "revision": each[0]["revision"]} | trainings | figures


def unusual(profile: Profile, asked: dict[str, Any]) -> dict[str, Any]:
    """What of `asked`, fields of Request, differs from the profile's defaults; by all else rows are alike."""
    usual = settings(profile, {})
    return {key: value for key, value in asked.items() if value != usual[key]}


def measured(
    models: Models, probe: Probe, count: int, records: Records, asked: dict[str, Any]
) -> tuple[list[plush.Drawn], list[plush.Drawn]]:
    """Draws and judges the cases of one row, and some of them again with the facing left open."""
    told = list(plush.evaluate(models, probe, count, records=records, **asked))
    free = list(plush.evaluate(models, probe, max(1, count // FREE), free=True, records=records, **asked))
    return told, free


def train_variant(wanted: Trained, profile: Profile, folder: Path, steps: int, processes: int, seed: int) -> Path:
    """The folder of a variant's weights, trained for `steps` in all unless that is done; a stopped one goes on. Raises
    EvaluationError where a training fails, or where the variant was begun on other frozen parts."""
    out = folder / f"{wanted.name.replace(' ', '_')}-{steps}-{profile.size}-{seed}"
    Records(out).claim({part: revision(profile.folder / part) for part in FROZEN} | {"processes": processes})
    if (out / "done").exists():
        return out
    device = "cuda" if torch.cuda.is_available() and processes == 1 else "cpu"  # processes would share one card
    for part, share in wanted.parts:
        goal = max(1, round(steps * share))
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [
            sys.executable, *(start if processes > 1 else []), "-m", "squeeze", "train", "plush", "--part", part,
            "--steps", str(goal), "--seed", str(seed), "--batch", str(BATCH // processes), "--out", str(out),
            "--size", str(profile.size), "--device", device, *wanted.flags,
            *(["--resume", str(out)] if any(out.glob("checkpoint-*.pt")) else []),
        ]  # fmt: skip
        status = run_training(command)
        if status:
            raise EvaluationError(
                f"The training of {wanted.name!r} ended with {status}; what it kept is in {out}, and the same command "
                f"goes on from there. It was: {' '.join(command)}"
            )
    write_text(out / "done", "")
    return out


def run_training(command: list[str]) -> int:
    """Runs a training in a process of its own; gives its exit status. A stop is handed on once, and waits until the
    training has written its checkpoint."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True) as training:
        try:
            return training.wait()
        except KeyboardInterrupt:
            training.send_signal(signal.SIGINT)
            training.wait()
            raise


def as_markdown(name: str, rows: list[dict[str, Any]]) -> str:
    """A table with 95 % intervals. `turned` and `facing copied` are the paper's copy-paste measure: the mean angle to
    the reference's facing, and the mean of the shares within 5, 10, 15 and 20 degrees of it. Where there were several
    trainings, the lowest and the highest of their means follow."""
    heads = [TABLES[name][0], *COLUMNS, "distance to renders", "near-copies", "turned", "facing copied"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for row in rows:
        each = row.get("trainings", [])
        cells = [_percent(row[key], row[f"{key}_interval"], [one[key] for one in each]) for key in COLUMNS.values()]
        copied, turned = row["near_copies"], row["copy_paste"]
        between = "({:.0f}° to {:.0f}°)".format(*turned["azimuth_interval"]) if turned["azimuth_interval"] else ""
        far, within = row["renders_distance"], row["renders_distance_interval"]
        cells += [
            "-" if far is None else f"{far:.1f}" + (" ({:.1f} to {:.1f})".format(*within) if within else ""),
            _percent(copied, row["near_copies_interval"]),
            f"{turned['azimuth_difference']:.0f}° {between}".strip(),
            _percent(turned["recall"], turned["recall_interval"]),
        ]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(value: float | None, within: list[float] | None, trainings: Sequence[float | None] = ()) -> str:
    if value is None:
        return "-"
    means = [mean for mean in trainings if mean is not None]
    seeds = f"; {len(means)} seeds {min(means):.1%} to {max(means):.1%}" if len(means) > 1 else ""
    return f"{value:.1%}" + (f" ({within[0]:.1%} to {within[1]:.1%}{seeds})" if within else "")
