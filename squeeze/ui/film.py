"""The filmstrip of a run and the history of a visit, as HTML whose listeners (film.js) tell what was picked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..balance import stage_of
from . import texts
from .visits import Run

LISTENERS = Path(__file__).with_name("film.js")


def film(run: Run | None) -> str:
    """Every step's preview of a run in order, coloured by stage; nothing where there is none."""
    if run is None or not run.frames:
        return f'<div class="film" data-run=""><p class="none">{texts.NO_FILM}</p></div>'
    frames = []
    for step, uri in enumerate(run.frames, 1):
        stage = stage_of(step - 1, run.counts)
        label = texts.FRAME.format(step=step, steps=sum(run.counts), stage=texts.STAGES[stage][0])
        reach = 0 if step == 1 else -1
        end = " data-end" if step == sum(run.counts) else ""  # nothing follows it that could branch off
        frames.append(
            f'<button type="button" class="frame stage-{stage + 1}" data-step="{step}"{end} aria-label="{label}" '
            f'aria-pressed="false" title="{label}" tabindex="{reach}"><img src="{uri}" alt=""></button>'
        )
    # a finished run's film is new to the page, so nothing that was chosen while it was drawn looks chosen
    name, done = escape(run.id), str(run.picture is not None).lower()
    return (
        f'<div class="film" data-run="{name}" data-done="{done}" role="group" aria-label="{texts.FILM}">'
        f"{''.join(frames)}</div>"
    )


def history(recipes: Sequence[Mapping[str, Any]], thumbnails: Mapping[str, str]) -> str:
    """The recipes of a visit, the newest first, each with its picture where the visit still has it."""
    if not recipes:
        return f'<div class="history"><p class="none">{texts.NO_HISTORY}</p></div>'
    entries = []
    for index, recipe in enumerate(recipes):
        words = f"{recipe['prompt']} · seed {recipe['seed']} · {json.dumps(recipe['balance'])}"
        if recipe["earlier"]:
            words += f" · {texts.BRANCHED.format(step=recipe['earlier'][-1][0])}"
        uri = thumbnails.get(recipe["picture"])
        inside = f'<img src="{uri}" alt="">' if uri else '<span class="hole"></span>'
        entries.append(
            f'<button type="button" class="past" data-index="{index}" title="{escape(words)}">{inside}'
            f"<span>{'↳ ' if recipe['earlier'] else ''}{escape(recipe['prompt'])}</span></button>"
        )
    return f'<div class="history" role="group" aria-label="{texts.HISTORY}">{"".join(entries)}</div>'
