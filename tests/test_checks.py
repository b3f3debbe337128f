"""The views shown are the pixels that enter the models, on the page too; a copy of the reference is told."""

import base64
import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import ball, data, good, pixels
from PIL import Image
from tiny import make_request, random_picture

from squeeze import checks
from squeeze.checks import COPY_RMS, Notice, inspect, near_copy
from squeeze.images import open_picture, squared, to_tensor
from squeeze.pipeline import generate
from squeeze.ui.check import check


def entering(models, *references):
    """Runs a generation and gives what reached the vision tower (R, 3, H, W) and the VAE's encoder, one by one."""
    towers, encoders = [], []
    modules = (models.mllm.model.vision_tower, towers), (models.vae.model.encoder, encoders)
    hooks = [
        module.register_forward_pre_hook(
            lambda _m, args, kwargs, into=into: into.append((*args, *kwargs.values())[0]), with_kwargs=True
        )
        for module, into in modules
    ]
    models.encodings.clear()  # what was read before is not read again
    try:
        list(generate(models, make_request(models.profile, references=references)))
    finally:
        for hook in hooks:
            hook.remove()
    assert len(towers) == 1, "the language model should read each request once"
    return towers[0], encoders


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("size", [(90, 30), (30, 90), (48, 48), (32, 32), (700, 500), (3, 3), (1, 1), (1, 40)])
def test_the_views_are_the_pixels_that_enter_the_models(models, size, square):
    models = replace(models, profile=replace(models.profile, square=square))
    picture = random_picture(1, *size)
    seen = checks.views(models, picture)
    tower, encoders = entering(models, picture)
    assert torch.equal(tower, to_tensor(seen.mllm)), "the vision tower got another picture than the one shown"
    assert len(encoders) == 1
    assert torch.equal(encoders[0], to_tensor(seen.vae)), "the VAE got another picture than the one shown"


def test_each_reference_has_its_own_views(models):
    pictures = [random_picture(seed, 60, 20 + 10 * seed) for seed in range(3)]
    tower, encoders = entering(models, *pictures)
    for index, picture in enumerate(pictures):
        seen = checks.views(models, picture)
        assert torch.equal(tower[index : index + 1], to_tensor(seen.mllm))
        assert torch.equal(encoders[index], to_tensor(seen.vae))


@pytest.mark.parametrize("square", [True, False])
def test_the_image_processor_would_have_seen_the_same(models, square):
    models = replace(models, profile=replace(models.profile, square=square))
    picture = random_picture(2, 300, 170)
    view = checks.views(models, picture).mllm
    whole = models.mllm.framing.view(squared(picture) if square else picture)
    assert torch.equal(models.mllm.pixels([view]), models.mllm.pixels([whole])), "our resize is not the processor's"


def test_the_picture_looked_at_is_the_one_for_the_request(wanting):
    file = data(good(), "JPEG")
    looked = inspect(wanting(), file)
    assert np.array_equal(pixels(looked.picture), pixels(open_picture(file)))
    part = inspect(wanting(), file, box=(0.5, 0, 1, 1))
    assert np.array_equal(pixels(part.picture), pixels(looked.picture)[:, 200:])
    assert np.array_equal(pixels(part.views.vae), pixels(checks.views(wanting(), part.picture).vae))


def test_a_file_is_decoded_once(wanting, monkeypatch):
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: opened.append(1) or real(*args, **kwargs))
    inspect(wanting(), data(good()), box=(0, 0, 0.5, 0.5))
    assert len(opened) == 1


# --- near copies ----------------------------------------------------------------------------------------------------


def shifted(picture, levels):
    return Image.fromarray((pixels(picture) + levels).astype(np.uint8))


def test_a_copy_is_told_at_the_threshold():
    grey = Image.new("RGB", (64, 64), (100, 100, 100))
    border = COPY_RMS * 255
    assert near_copy(grey, grey)
    assert near_copy(shifted(grey, math.floor(border)), grey)
    assert not near_copy(shifted(grey, math.ceil(border)), grey)
    assert not near_copy(good(64, 64, 1), good(64, 64, 2))


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (300, 200), (200, 300)])
def test_a_copy_of_another_size_and_shape(size):
    reference = random_picture(5, *size)
    picture = squared(reference).resize((64, 64), Image.Resampling.LANCZOS)
    assert near_copy(picture, reference), "what the models see of the reference is a copy of it"
    assert not near_copy(random_picture(6, 64, 64), reference)
    assert not near_copy(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), reference)


def test_a_copy_that_is_no_square():
    reference = random_picture(5, 300, 200)
    assert near_copy(reference.resize((96, 64)), reference)
    assert not near_copy(reference.resize((64, 96)), reference)


def test_near_copies_are_told_from_one_pixel_and_strips():
    for size in ((1, 1), (2, 9), (1, 300)):
        assert near_copy(random_picture(1, *size), random_picture(1, *size))
        assert near_copy(random_picture(1, 64, 64), random_picture(1, *size)) in (True, False)


# --- as HTML --------------------------------------------------------------------------------------------------------


def test_the_page_shows_both_views_and_every_notice(wanting):
    looked = inspect(wanting(square=False), ball(0.1).resize((300, 100)))
    html = check(looked)
    seen, dialog = html.split("<dialog")
    shown = [base64.b64decode(uri) for uri in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', seen)]
    assert f'data-width="{looked.whole.width}" data-height="{looked.whole.height}"' in dialog
    for file, view in zip(shown, (looked.views.mllm, looked.views.vae), strict=True):
        got = Image.open(io.BytesIO(file))
        assert got.size == view.size
        assert abs(pixels(got) - pixels(view)).mean() < 3, "another picture is shown"
        assert f"{view.width} × {view.height} px" in html
    assert "the language model sees" in html
    assert "the autoencoder sees" in html
    assert looked.notices
    assert html.count("<li>") == len(looked.notices)
    assert "<ul" not in check(replace(looked, notices=())), "an empty list"


def test_values_cannot_write_html(wanting):
    sent = Notice("low_resolution", {"width": "<script>", "height": "&", "wanted": '"'})
    html = check(replace(inspect(wanting(), good()), notices=(sent,)))
    assert "<script>" not in html
    assert "&lt;script&gt; × &amp;" in html
