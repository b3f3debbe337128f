"""What the browser saves as a file: from what the page shows, since the server deletes its own files after an hour."""

from __future__ import annotations

import gradio as gr

from .show import Parts

SAVE = """const save = (blob, name) => {
    const link = Object.assign(document.createElement('a'), {href: URL.createObjectURL(blob), download: name});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};"""
PICTURE = """async () => {
    %s
    const {src, dataset: {name, last}} = document.querySelector('#view img'); // `last` while the film shows a frame
    save(await (await fetch(last ?? src)).blob(), name);
}"""
RECIPE = """(text) => {
    %s
    save(new Blob([text], {type: 'application/json'}), `squeeze-${JSON.parse(text).seed}.json`);
}"""


def saving(parts: Parts, recipe: gr.Button) -> None:
    """The finished picture, a PNG with its recipe, and by the button `recipe` the recipe alone."""
    parts.download.click(fn=None, js=PICTURE % SAVE)
    recipe.click(fn=None, js=RECIPE % SAVE, inputs=parts.forms["json"])
