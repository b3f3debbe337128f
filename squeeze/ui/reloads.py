"""What a visitor has set outlives a page that is loaded anew, as gradio (6.31) does by itself where the connection was
lost for a moment. The browser keeps it, for the tab it was set in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from . import texts, views
from .handlers import Handlers
from .sent import kept, path_of
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
BRING = """(...given) => {
    const as = {__type__: 'update'}, fresh = JSON.stringify(given.slice(BOXES));
    const none = [...given, ...Array(BOXES + 1)].fill(as);
    if (Boolean(location.search) !== LINKED) return none;
    window.squeezeNew = fresh;
    try {
        const kept = JSON.parse(sessionStorage.getItem('squeeze-set'));
        if (kept.address !== location.href || kept.fresh !== fresh || kept.values.length !== given.length) return none;
        return [...kept.values, ...Array(BOXES).fill(''), STATUS];
    } catch { return none; }
}"""


def reloads(
    page: gr.Blocks, opened: dict[str, Any], handlers: Handlers, parts: Parts, subjects: Sequence[Subject]
) -> None:
    """Keeps what is set at every change, and brings it back at once, before a hand can set anything else, or where the
    page has a recipe's link, once that is `opened`, an event of the page. A picture whose file the server has deleted
    since goes again."""
    boxes, looked = [one.picture for one in subjects], [one.looked for one in subjects]
    values = [*boxes, *(part for part in parts.form.values() if part not in boxes), parts.preset, *parts.sliders]
    bring = BRING.replace("BOXES", str(len(boxes))).replace("STATUS", json.dumps(views.status(texts.RELOADED, "idle")))
    sets = {"fn": None, "inputs": values, "outputs": [*values, *looked, parts.status]}
    brought = page.load(js=bring.replace("LINKED", "false"), **sets)
    brought = brought.then(**opened).then(js=bring.replace("LINKED", "true"), **sets)

    def renew(sent: Any, *size: Any) -> tuple[Any, Any]:
        if (path := path_of(sent)) and not Path(kept(path)).is_file():
            return None, ""
        return gr.skip(), renewed(handlers, sent, None, size)

    for one in subjects:
        brought.then(renew, inputs=[one.picture, *sized(parts)], outputs=[one.picture, one.looked], **QUEUED)
    gr.on([value.change for value in values], fn=None, js=KEEP, inputs=values)
