"""The stage timeline: a generation's steps in order, two borders and three levels to drag, and the bar of a run.

It is one gr.HTML whose template never changes: timeline.js draws into it. So a step of a run costs no new HTML, and
nothing that arrives meanwhile can take a handle out of a visitor's hand.

Its value is `{"counts": [4, 5, 16], "balance": [0, 0.5, 1], "touched": false, "earlier": []}`: whole steps and balance
of each stage, whether the borders were moved by hand, and of a branched run what held before (Request.earlier), which
goes with the first change. Its event `input` comes only from what a visitor does.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..recipe import as_tuples
from ..request import check_balance, check_earlier, check_stage_steps
from . import texts

HERE = Path(__file__).parent
HINT = "Drag, or use the arrow keys. Double click or Delete: automatic again."
AGAIN = "Automatic borders"
ARROW = (
    '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3.2 6.2A5.2 5.2 0 1 1 2.8 9.4M3 2.6v3.8h3.8" fill="none" '
    'stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round"/></svg>'
)


def timeline(counts: Sequence[int], balance: Sequence[float], *, touched: bool = False) -> gr.HTML:
    """The control, with each stage's whole steps and balance; `touched` says that the steps were set by hand."""
    return gr.HTML(
        state(counts, balance, touched=touched),
        html_template=_skeleton(),
        js_on_load=(HERE / "timeline.js").read_text(),
        head=f"<style>{(HERE / 'timeline.css').read_text()}</style>",  # a css_template is parsed anew at every step
        run={"counts": list(counts), "done": 0},
        busy=False,
        elem_id="timeline",
        padding=False,
        apply_default_css=False,
    )


def state(
    counts: Sequence[int], balance: Sequence[float], *, touched: bool = False, earlier: Sequence[Sequence[float]] = ()
) -> dict[str, Any]:
    """The control's value: what a handler gives to show other steps or balances. It triggers no `input`."""
    return {
        "counts": list(counts), "balance": list(balance), "touched": touched, "earlier": [list(row) for row in earlier]
    }  # fmt: skip


def progress(counts: Sequence[int], done: int) -> dict[str, Any]:
    """The change that shows a run: its whole steps per stage, `done` of them filled. It lets nothing be dragged.

    The value stays as it is, so a step carries one short list and overwrites nothing the visitor chose.
    """
    return gr.update(run={"counts": list(counts), "done": done}, busy=True)


def rest() -> dict[str, Any]:
    """The change that ends a run: handles work again; the filled cells stay until the borders move."""
    return gr.update(busy=False)


def read(value: Any, steps: Any) -> dict[str, Any]:
    """What a browser sent, as the fields `stage_steps` (None: from the profile's thresholds), `balance` and `earlier`
    of a Request.

    Raises RequestError unless the balances are three numbers from 0 to 1 and, where the borders were moved by hand, the
    counts three whole numbers that add up to `steps`.
    """
    balance = read_balance(value)
    counts, earlier, touched = value.get("counts"), value.get("earlier", []), value.get("touched") is True
    if touched:
        check_stage_steps(counts, steps)
    check_earlier(earlier, steps)
    return {
        "stage_steps": tuple(counts) if touched else None, "balance": balance, "earlier": as_tuples(earlier)
    }  # fmt: skip


def read_balance(value: Any) -> tuple[float, float, float]:
    """The balances of what a browser sent; raises RequestError unless they are three numbers from 0 to 1."""
    balance = value.get("balance") if isinstance(value, dict) else None
    check_balance(balance)
    first, second, third = balance
    return first, second, third


def _skeleton() -> str:
    """The control's elements, empty; no backtick, no brace and no dollar sign, which gradio's template would read."""
    names = [escape(name) for name, _ in texts.STAGES]
    parts, terms = [], []
    for stage, name in enumerate(names, 1):
        if stage > 1:
            parts.append(
                f'<div class="edge" role="slider" tabindex="0" aria-orientation="horizontal" aria-valuemin="0" '
                f'aria-label="Border between {names[stage - 2]} and {name}" title="{HINT}">'
                f'<span class="grip"></span></div>'
            )
        parts.append(
            f'<div class="stage stage-{stage}" data-name="{name}"><div class="lane"><div class="range">'
            f'<div class="area"></div><div class="level" role="slider" tabindex="0" aria-orientation="vertical" '
            f'aria-valuemin="0" aria-valuemax="1" aria-label="Balance of stage {stage}, {name}">'
            f'<span class="chip"></span></div></div></div><div class="steps"></div></div>'
        )
        terms.append(f'<span class="term stage-{stage}">{name} <b></b></span>')
    return (
        f'<div class="timeline" role="group" aria-label="Stages: steps and balance">'
        f'<div class="axis" aria-hidden="true"><span>identity</span><span>semantics</span></div>'
        f'<div class="track">{"".join(parts)}</div>'
        f'<div class="caption"><p class="sum">{" + ".join(terms)} '
        f'<span class="total">= <b></b> <span class="unit"></span></span> <span class="branch"></span></p>'
        f'<button type="button" class="again" title="{AGAIN}">{ARROW}<span>{AGAIN}</span></button></div>'
        f'<div class="done" role="progressbar" aria-label="Steps done" aria-valuemin="0"></div></div>'
    )
