"""Every row, at tiny size and with the real classes, gives a page and a picture."""

import numpy as np
import pytest
from tiny import on_cpu, random_picture, write_adapter, write_longcat, write_paper

from squeeze.checks import views
from squeeze.events import StepDone
from squeeze.models.loading import load
from squeeze.pipeline import default_request, generate
from squeeze.ui.page import build

WRITERS = {"paper": write_paper, "longcat": write_longcat}


@pytest.fixture(scope="module", params=WRITERS)
def models(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](folder)
    profile = on_cpu(request.param, folder)
    if profile.adapter:
        write_adapter(folder / "adapter")
    return load(profile, adapter=folder / "adapter" if profile.adapter else None)


def drawn(models, **asked):
    usual = {"prompt": "a toy on the beach", "references": (random_picture(0),), "width": 96}
    return list(generate(models, default_request(models.profile, **usual | asked)))


def test_the_page_can_be_built(models):
    page = build(models)
    page.close(verbose=False)


def test_a_picture_with_previews(models):
    events = drawn(models)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert events[-1].image.size == (96, 64)
    assert len(steps) == models.profile.steps
    assert {event.preview.size for event in steps} == {(96, 64)}
    assert np.asarray(events[-1].image).std() > 1, "one flat colour"
    assert events[-1].recipe["revision"] == models.revision


def test_prompt_picture_and_balance_reach_it(models):
    base = np.asarray(drawn(models)[-1].image)
    for change in (
        {"prompt": "a hat in the snow"}, {"references": (random_picture(1),)}, {"cfg": 1.5}, {"uncond": "lean"},
        {"uncond": "full"}, {"balance": (0.0, 0.3, 1.0), "stage_steps": (1, 1, 1)},
    ):  # fmt: skip
        if all(getattr(models.profile, name, None) == value for name, value in change.items()):
            continue  # that is what the base has
        assert (np.asarray(drawn(models, **change)[-1].image) != base).any(), f"{list(change)} changes nothing"


def test_what_is_shown_of_a_reference_has_the_shape_the_models_get(models):
    seen = views(models, random_picture(2, 90, 30))
    if models.profile.at_target:
        assert (seen.vae.size, seen.mllm.size) == ((64, 64), (32, 32)), "the default size, and half of it"
    else:
        assert (seen.vae.size, seen.mllm.size) == ((48, 16), (32, 32)), "as it is, and the tower's square"
