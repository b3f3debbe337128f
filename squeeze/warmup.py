"""Warm-up of compiled models: what torch would compile in a visitor's run is compiled before there is one."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from .models.loading import Models
from .pipeline import default_request, generate

WAYS = (  # each group of tokens alone, both and none; then with weights below 1; then one token of text
    {"balance": (0.0, 0.5, 1.0), "uncond": "lean"}, {"balance": (0.25, 0.5, 0.75), "uncond": "full"},
    {"balance": (0.0, 0.5, 1.0), "late_text": "keep", "prompt": "a"},
)  # fmt: skip


def warm_up(models: Models) -> Iterator[str]:
    """Draws pictures in which tokens come together in every way, for models that were loaded with `compiled`; says how
    far it is. Blocks are compiled for any number of tokens. Raises RequestError as `generate` does."""
    grey = Image.new("RGB", (256, 256), "grey")
    common = {"prompt": "a toy", "references": (grey,), "cfg": 2.0, "steps": 3, "stage_steps": (1, 1, 1)}
    for done, way in enumerate(WAYS):
        yield f"Compiling: {done} of {len(WAYS)} done."
        request = default_request(models.profile, **common | way)
        for _ in generate(models, request):
            pass
    models.encodings.clear()
    yield "Compiled."
