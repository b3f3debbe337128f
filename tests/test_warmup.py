"""After the warm-up of compiled models no request has anything compiled, and each gives what it gives uncompiled."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import ModelMixin
from tiny import compile_by, make_request, on_cpu, random_picture, tiny_profile, write_longcat, write_models
from torch._dynamo.utils import counters

from squeeze.models import loading
from squeeze.pipeline import generate
from squeeze.warmup import warm_up

REQUESTS = (
    {"balance": (0, 0.5, 1)}, {"balance": (1, 1, 1)}, {"balance": (0, 0, 0), "uncond": "full"}, {"cfg": 1.0},
    {"balance": (0.3, 0.9, 1)}, {"balance": (0.9, 0.1, 0.4), "uncond": "full"},
    {"balance": (0.6, 1, 0.7), "late_text": "keep"}, {"balance": (1, 1, 1), "late_text": "keep", "uncond": "full"},
    {"prompt": "a", "late_text": "keep"}, {"prompt": "a", "late_text": "keep", "balance": (0.3, 0.7, 0.6)},
    {"height": 96, "width": 32},
    {"height": 128, "width": 128, "balance": (0.4, 0.4, 0.4)}, {"prompt": "a"},
    {"prompt": "a toy in the snow, " * 5, "references": (random_picture(1, 64, 64),), "balance": (0.2, 0.5, 0.8)},
    {"references": (random_picture(1, 20, 90), random_picture(2, 90, 20)), "balance": (0.2, 0.5, 0.8)},
)  # fmt: skip


def flux(folder):
    write_models(folder)
    return tiny_profile(folder)


def longcat(folder):
    write_longcat(folder)
    return on_cpu("longcat", folder)


@pytest.fixture(params=[flux, longcat])
def profile(request, tmp_path):
    """References have as many tokens as the picture here: what is compiled must not hold that for a rule."""
    tiny = request.param(tmp_path)
    return replace(tiny, limits=replace(tiny.limits, reference=tiny.size))


@pytest.fixture
def compiled(profile, monkeypatch):
    """The tiny models, compiled."""
    monkeypatch.setattr(loading, "check_compiler", lambda place: None)
    compile_by(monkeypatch)
    return loading.load(profile, compiled=True)


def drawn(models, asked):
    few = asked["references"][: models.profile.limits.references] if "references" in asked else (random_picture(0),)
    *_, last = generate(models, make_request(models.profile, **asked | {"references": few}))
    return np.asarray(last.image, dtype=int)


def apart(work):
    """Runs it in a thread of its own, as visitors' steps are; torch holds its compiler's settings by thread."""
    with ThreadPoolExecutor(max_workers=1) as threads:
        threads.submit(work).result()


def test_nothing_is_compiled_after_it(profile, compiled):
    counters.clear()
    said, plain = list(warm_up(compiled)), loading.load(profile)
    assert counters["stats"]["unique_graphs"] <= 10, "a block is in pieces, or compiled again for nothing"
    assert said[0].startswith("Compiling: 0 of ")
    assert said[-1] == "Compiled."

    def visit():
        with torch._dynamo.config.patch(error_on_recompile=True):
            for asked in REQUESTS:
                assert abs(drawn(compiled, asked) - drawn(plain, asked)).max() <= 1, f"{asked}: another picture"

    apart(visit)


def test_a_visitors_thread_compiles_by_the_same_settings(profile, monkeypatch):
    """By its own, torch compiles eight forms of a block and draws what comes ninth uncompiled, without a word."""
    monkeypatch.setattr(loading, "check_compiler", lambda place: None)
    monkeypatch.setattr(ModelMixin, "compile_repeated_blocks", lambda self, **how: None)
    models, seen = loading.load(profile, compiled=True), set()
    block = models.dit.model.transformer_blocks[0]
    block.register_forward_pre_hook(
        lambda *_: seen.add((torch._dynamo.config.recompile_limit, torch.fx.experimental._config.use_duck_shape))
    )
    apart(lambda: drawn(models, {}))
    assert seen == {(64, False)}
