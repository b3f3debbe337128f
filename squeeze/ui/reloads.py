"""What a visitor has set outlives a page that is loaded anew, as gradio (6.31) does by itself where the connection was
lost for a moment. The browser keeps it, for the tab it was set in."""

from __future__ import annotations

import json
from collections.abc import Sequence

import gradio as gr

from . import texts, views
from .handlers import Handlers
from .show import Parts
from .subjects import Subject, renewed
from .wiring import QUEUED, sized

# What a new page of this address has is kept beside it: where that is another now, by an update or another profile, the
# rest does not fit. A browser may deny its storage, or have no room.
KEEP = """(...values) => {
    const {squeezeNew: fresh} = window;
    if (fresh === undefined) return;
    try {
        sessionStorage.setItem('squeeze-set', JSON.stringify({address: location.href, fresh, values}));
    } catch {}
}"""
BRING = """async (...given) => {
    const as = {__type__: 'update'}, fresh = JSON.stringify(given.slice(BOXES));
    const there = async (file) => {
        try { return (await fetch(file.url, {method: 'HEAD'})).ok ? file : null; } catch { return null; }
    };
    let kept = null;
    try { kept = JSON.parse(sessionStorage.getItem('squeeze-set')); } catch {}
    let set = given.map(() => as), looked = as, said = as;
    if (Boolean(location.search) !== LINKED) return [...set, ...Array(BOXES).fill(looked), said];
    if (kept?.address === location.href && kept.fresh === fresh) {
        set = await Promise.all(kept.values.map((value, n) => n < BOXES ? there(value) : value));
        [looked, said] = ['', STATUS];
    }
    window.squeezeNew = fresh;
    return [...set, ...Array(BOXES).fill(looked), said];
}"""


def reloads(
    page: gr.Blocks, opened: gr.events.Dependency, handlers: Handlers, parts: Parts, subjects: Sequence[Subject]
) -> None:
    """Keeps what is set at every change, and brings it back at once, before a hand can set anything else, or where the
    page has a recipe's link, once that is `opened`. A picture whose file the server has deleted since does not come
    back."""
    boxes, looked = [one.picture for one in subjects], [one.looked for one in subjects]
    values = [*boxes, *(part for part in parts.form.values() if part not in boxes), parts.preset, *parts.sliders]
    bring = BRING.replace("BOXES", str(len(boxes))).replace("STATUS", json.dumps(views.status(texts.RELOADED, "idle")))
    sets = {"inputs": values, "outputs": [*values, *looked, parts.status]}
    page.load(fn=None, js=bring.replace("LINKED", "false"), **sets)
    brought = opened.then(fn=None, js=bring.replace("LINKED", "true"), **sets)

    def renew(sent: object, *size: object) -> object:
        return renewed(handlers, sent, None, size)

    for one in subjects:
        brought.then(renew, inputs=[one.picture, *sized(parts)], outputs=one.looked, **QUEUED)
    gr.on([value.change for value in values], fn=None, js=KEEP, inputs=values)
