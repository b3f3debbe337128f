"""What a run of the benchmark says: rows with figures or a sentence, as a table and as JSON."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ..files import WriteError
from ..models.failures import reason, trouble
from ..models.loading import LoadError
from ..request import RequestError
from .timing import OutOfTime, Spread, ratio, spread

MEASURED, DERIVED = "measured", "derived"  # every figure is one of these; none is cited
FEW = 3  # rounds; fewer decide nothing


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure: `value` in `unit` with quartiles `low` and `high` of `count` repetitions where it was repeated.
    `value` None: not measured, `note` says why, or no number where a goal is missed by that. `goal` is a condition on
    the value, `kept` whether it is met."""

    what: str
    kind: str = MEASURED
    value: float | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    count: int | None = None
    goal: str | None = None
    kept: bool | None = None
    note: str = ""


def at_most(what: str, value: float, limit: float, **fields: Any) -> Row:
    """A figure that must not be above `limit`; 0 asks for equality bit for bit."""
    return Row(what=what, value=value, goal=f"<= {limit:g}" if limit else "= 0", kept=value <= limit, **fields)


def equal(what: str, value: float, expected: float, **fields: Any) -> Row:
    """A count that must be the expected one."""
    return Row(what=what, value=value, goal=f"= {expected:g}", kept=value == expected, **fields)


def compared(
    what: str, times: Mapping[str, Sequence[float]], over: str, under: str, card: bool, *,
    most: float | None = None, least: float | None = None, note: str = "",
) -> Row:  # fmt: skip
    """The ratio of two sides' times, with a goal where there is one and a card to reach it on; whether it is met is
    left open after fewer than FEW rounds."""
    found = ratio(times, over, under)
    limit = most if most is not None else least
    goal = None if limit is None or not card else f"{'<=' if most is not None else '>='} {limit:g}"
    kept = None
    if goal is not None and found.count >= FEW:
        kept = found.median <= limit if most is not None else found.median >= limit
    few = "Too few rounds to say whether it is met." if goal is not None and kept is None else ""
    note = " ".join(part for part in (note, few, "" if card else "CPU: a ratio only.") if part)
    return Row(what=f"{what}: time of {over} / {under}", unit="x", goal=goal, kept=kept, note=note, **figures(found))


def timed(what: str, times: Mapping[str, Sequence[float]], card: bool) -> Iterator[Row]:
    """The seconds of each side on a card; on a CPU that others share they are worth nothing, and none are said."""
    for name, taken in times.items() if card else ():
        yield Row(what=f"{what}: {name}", unit="s", **figures(spread(taken)))


def attempted(what: str, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, and where they end in want of memory, files or time, a sentence in the last one's place."""
    sentence = ""
    try:
        yield from rows
    except (LoadError, RequestError, WriteError, OutOfTime) as error:
        sentence = str(error)
    except RuntimeError as error:
        if trouble(error) is None:
            raise
        what_happened = {"memory": "has too little memory for it", "device": "failed"}[trouble(error)]
        sentence = f"Not measured: the device {what_happened} ({reason(error)})."
    if sentence:
        cleared()  # here, where the error's frames no longer hold their tensors
        yield Row(what=what, note=sentence)


def cleared() -> None:
    """What nobody holds any more leaves the device; one that has failed keeps it and says the same to whoever asks."""
    gc.collect()
    try:
        torch.cuda.empty_cache()
    except RuntimeError as error:
        if trouble(error) != "device":
            raise


def as_markdown(report: Mapping[str, Any]) -> str:
    """A table with a heading that says where and when."""
    made = report["made"]
    versions = ", ".join(f"{name} {made[name]}" for name in ("torch", "diffusers", "transformers", "bitsandbytes"))
    lines = [
        f"{made['device']}, size {made['size']}, {made['dtype']}, attention {made['attention']}; {versions}", "",
        "| block | what | value | quartiles (n) | goal | mark | note |", "|---|---|---:|---:|---|---|---|",
    ]  # fmt: skip
    for name, block in report["blocks"].items():
        for row in block["rows"]:
            cells = [name, row["what"], *_cells(row), row["kind"] if row["value"] is not None else "", row["note"]]
            lines.append("| " + " | ".join(cells) + " |")
    dates = sorted({block["date"] for block in report["blocks"].values()})
    return "\n".join([*lines, "", f"Dates: {', '.join(dates)}"])


def as_dict(row: Row) -> dict[str, Any]:
    """A row for JSON, which has no word for what is no number."""
    if row.value is not None and not math.isfinite(row.value):
        row = replace(row, value=None, note=f"No number came out. {row.note}".strip())
    return asdict(row)


def figures(found: Spread) -> dict[str, Any]:
    """A spread as fields of a row; one value has no quartiles."""
    several = found.count > 1
    return {
        "value": found.median, "low": found.low if several else None, "high": found.high if several else None,
        "count": found.count,
    }  # fmt: skip


def _cells(row: Mapping[str, Any]) -> list[str]:
    missed = "" if row["kept"] is None or row["kept"] else " **missed**"
    goal = (row["goal"] or "") + missed
    if row["value"] is None:
        return ["no number" if missed else "not measured", "", goal]
    value = f"{row['value']:.4g} {row['unit']}".strip()
    quartiles = "" if row["low"] is None else f"{row['low']:.4g} to {row['high']:.4g} "
    counted = "" if row["count"] is None else f"{quartiles}({row['count']})"
    return [value, counted, goal]
