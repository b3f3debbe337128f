"""The balance sweep as a picture: identity kept against prompt followed, a line for each stage."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from ..balance import PRESETS, STAGES

COLOURS = ("#3d6bd6", "#8f58c2", "#e2603f")  # of the stages, as on the page
WIDTH, HEIGHT = 720, 480
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 48, 56  # margins around the axes
X, Y = "prompt_mean", "identity_mean"


def as_svg(rows: list[dict[str, Any]]) -> str:
    """An SVG of the rows of the table `sweep`, see tables.run_table: points with 95 % intervals both ways, each stage's
    joined in the order of its balance, the ends named by it. Rows of too few cases for both intervals are left out."""
    rows = [row for row in rows if all(row[f"{key}_interval"] is not None for key in (X, Y))]
    x_ticks, y_ticks = _ticks(rows, X), _ticks(rows, Y)
    inner, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return LEFT + inner * (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])

    def y(value: float) -> float:
        return TOP + high * (1 - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" '
        f'font-size="13" role="img" aria-label="Identity kept against prompt followed, by the balance of each stage">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for tick in x_ticks:
        parts += [_line(x(tick), TOP, x(tick), TOP + high, "#ddd"), _text(x(tick), HEIGHT - 34, f"{tick:.0%}")]
    for tick in y_ticks:
        parts += [_line(LEFT, y(tick), LEFT + inner, y(tick), "#ddd"), _text(LEFT - 26, y(tick) + 4, f"{tick:.0%}")]
    parts += [
        _text(LEFT + inner / 2, HEIGHT - 12, "prompt followed"),
        f'<g transform="translate(16 {TOP + high / 2}) rotate(-90)">{_text(0, 0, "identity kept")}</g>',
    ]
    for stage, (name, colour) in enumerate(zip(STAGES, COLOURS, strict=True)):
        mine = sorted((row for row in rows if _moved(row) in (None, stage)), key=lambda row: _balance(row)[stage])
        corners = " ".join(f"{x(row[X]):.1f},{y(row[Y]):.1f}" for row in mine)
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for row in mine:
            (left, right), (low, top) = row[f"{X}_interval"], row[f"{Y}_interval"]
            here = x(row[X]), y(row[Y])
            parts += [
                _line(x(left), here[1], x(right), here[1], colour, 0.35),
                _line(here[0], y(low), here[0], y(top), colour, 0.35),
                f'<circle cx="{here[0]:.1f}" cy="{here[1]:.1f}" r="4.5" fill="{colour}"/>',
            ]
            if _moved(row) == stage and row in (mine[0], mine[-1]):  # more names would hide the points
                parts.append(_text(here[0] + 9, here[1] - 7, f"{_balance(row)[stage]:g}", colour, "start"))
        parts.append(_text(LEFT + stage * inner / 3, 28, f"● {stage + 1} · {name}", colour, "start"))
    parts += [_text(x(row[X]) - 9, y(row[Y]) + 16, "paper", anchor="end") for row in rows if _moved(row) is None]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _balance(row: dict[str, Any]) -> tuple[float, ...]:
    return tuple(row["asked"]["balance"])


def _moved(row: dict[str, Any]) -> int | None:
    """The stage whose balance is not the paper's."""
    apart = [stage for stage, (a, b) in enumerate(zip(_balance(row), PRESETS["paper"], strict=True)) if a != b]
    return apart[0] if apart else None


def _ticks(rows: list[dict[str, Any]], key: str) -> list[float]:
    """Tenths around everything the rows show."""
    ends = [end for row in rows for end in row[f"{key}_interval"]]
    first, last = math.floor(min(ends, default=0) * 10), math.ceil(max(ends, default=1) * 10)
    return [tick / 10 for tick in range(first, max(last, first + 1) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, opacity: float = 1) -> str:
    at = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {at} stroke="{colour}" stroke-opacity="{opacity:g}"/>'


def _text(x: float, y: float, said: str, colour: str = "#444", anchor: str = "middle") -> str:
    halo = 'stroke="#fff" stroke-width="3" paint-order="stroke"'
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" {halo} text-anchor="{anchor}">{escape(said)}</text>'
