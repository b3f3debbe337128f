"""The distance to renders: none between renders, more the worse pictures are, with an interval that holds it."""

import pytest
import torch
from PIL import Image, ImageFilter

from squeeze.evaluation import likeness as module
from squeeze.evaluation.likeness import likeness
from squeeze.evaluation.parts import load_probe
from squeeze.images import to_picture
from squeeze.models.profiles import PROFILES
from squeeze.training.data import draw_labelled, to_unit


@pytest.fixture(autouse=True)
def _as_many_renders(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "RENDERS", 60)


@pytest.fixture(scope="module")
def probe():
    return load_probe(PROFILES["plush"])


@pytest.fixture(scope="module")
def renders() -> list[Image.Image]:
    pixels = to_unit(draw_labelled(60, 3, 128, held_out=True)["pixels"])
    return [to_picture(one[None]) for one in pixels]


def far(probe, pictures) -> float:
    return likeness(probe, pictures, 128)["renders_distance"]


def test_renders_are_near_and_worse_pictures_further(probe, renders: list[Image.Image]):
    blurred = [[one.filter(ImageFilter.GaussianBlur(radius)) for one in renders] for radius in (2, 3, 4)]
    told = [far(probe, pictures) for pictures in (renders, *blurred)]
    assert told == sorted(told)
    assert told[1] > told[0] + 5


def test_pictures_of_one_kind_are_far_though_each_is_right(probe, renders: list[Image.Image]):
    assert far(probe, renders[:5] * 12) > far(probe, renders) + 20, "a model that draws five pictures is no good one"


def test_the_interval_holds_it_and_narrows_with_more_pictures(probe, renders: list[Image.Image]):
    told = [likeness(probe, renders[:count], 128) for count in (12, 60)]
    for one in told:
        low, high = one["renders_distance_interval"]
        assert low < one["renders_distance"] < high
    widths = [high - low for low, high in (one["renders_distance_interval"] for one in told)]
    assert widths[1] < widths[0]
    pairs = likeness(probe, renders, 128, [number // 2 for number in range(60)])
    assert pairs["renders_distance_interval"] != told[1]["renders_distance_interval"]


def test_the_order_of_pictures_does_not_matter(probe, renders: list[Image.Image]):
    assert far(probe, renders[::-1]) == pytest.approx(far(probe, renders), abs=0.1)


def test_pictures_of_one_case_are_not_held_against_each_other(probe, renders: list[Image.Image]):
    """Several trainings draw each case, so alike that the distance would grow with their number."""
    few, cases = renders[:40], [*range(40)]
    assert likeness(probe, few * 3, 64, cases * 3) == likeness(probe, few, 64, cases)
    assert likeness(probe, few[:1] * 3, 64, [0] * 3)["renders_distance"] is None


def test_too_few_pictures_have_none(probe, renders: list[Image.Image]):
    assert likeness(probe, renders[:1], 128) == {"renders_distance": None, "renders_distance_interval": None}
    assert likeness(probe, renders[:3], 128)["renders_distance_interval"] is None


def test_it_is_the_unbiased_estimate(probe, renders: list[Image.Image], monkeypatch: pytest.MonkeyPatch):
    """Worked out by hand, of features that are a number twice, where the kernel of a and b is (ab + 1)^3."""
    drawn, truth = (torch.tensor([[a, a] for a in numbers], dtype=torch.float64) for numbers in ((0, 1, 2), (1, 3)))
    one_by_one = iter(drawn.split(1))
    monkeypatch.setattr(module, "features", lambda *_: next(one_by_one))
    monkeypatch.setattr(module, "_renders", lambda *_: truth)
    within = (1 + 1 + 27) / 3  # of pairs of two pictures; a picture with itself would be 1, 8 and 125
    between = (1 + 1 + 8 + 64 + 27 + 343) / 6
    assert far(probe, renders[:3]) == round(1000 * (within + 64 - 2 * between), 1)
