"""The plush world: what is drawn is what was asked, the same on every call, and held-out combinations stay out."""

import pytest
import torch

from squeeze.plush.render import render, visible
from squeeze.plush.world import (
    COLOURS,
    FACINGS,
    NOISE_DIMS,
    SHAPE_DIMS,
    Scenes,
    Toys,
    draw_scenes,
    draw_toys,
    facing_of,
    prompt_held_out,
    toy_held_out,
)


def one_toy(count: int, **changed: int) -> Toys:
    values = {"body": 0, "belly": 8, "pattern": 0, "ears": 0, "tail": 2} | changed
    return Toys(
        **{name: torch.full((count,), value) for name, value in values.items()},
        shape=torch.full((count, SHAPE_DIMS), 0.5),
    )


def scenes(azimuth: list[float], hat: int = 0, place: int = 0, size: int = 0) -> Scenes:
    count = len(azimuth)
    angles = torch.tensor(azimuth)
    return Scenes(
        place=torch.full((count,), place),
        facing=facing_of(angles),
        hat=torch.full((count,), hat),
        size=torch.full((count,), size),
        azimuth=angles,
        noise=torch.full((count, NOISE_DIMS), 0.5),
    )


def test_same_seed_same_pictures():
    drawn = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        drawn.append(render(draw_toys(6, generator), draw_scenes(6, generator)).pixels)
    assert torch.equal(*drawn), "rendering is not a pure function of the seed"


def test_batch_equals_alone():
    generator = torch.Generator().manual_seed(6)
    toys, views = draw_toys(5, generator), draw_scenes(5, generator)
    together = render(toys, views, chunk=5).pixels
    alone = torch.cat([render(toys[i : i + 1], views[i : i + 1]).pixels for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-5), "a picture depends on its neighbours in the batch"


def test_a_training_in_bfloat16_sees_the_same_pictures():
    generator = torch.Generator().manual_seed(7)
    toys, views = draw_toys(4, generator), draw_scenes(4, generator)
    drawn = render(toys, views)
    with torch.autocast("cpu", torch.bfloat16):
        within = render(toys, views)
    assert torch.equal(within.pixels, drawn.pixels)
    assert torch.equal(within.cells, drawn.cells)


@pytest.mark.parametrize("body", range(len(COLOURS)))
def test_body_colour_is_seen(body: int):
    toys, views = one_toy(1, body=body), scenes([180.0])
    picture = render(toys, views).pixels[0]
    other = render(one_toy(1, body=(body + 1) % 10), views).pixels[0]
    changed = (picture - other).abs().amax(0) > 0.02
    mean = picture[:, changed].mean(1)
    wanted = torch.tensor(list(COLOURS.values()))
    nearest = torch.nn.functional.cosine_similarity(wanted, mean[None], dim=1)
    lit = (wanted - mean).norm(dim=1)
    assert body in (int(nearest.argmax()), int(lit.argmin())), "the fur is not of the body's colour"


def test_turning_round_shows_belly_then_tail():
    toys = one_toy(2)
    seen = visible(toys, render(toys, scenes([0.0, 180.0])))
    assert seen["belly"].tolist() == [True, False], "the belly should show from the front only"
    assert seen["tail"].tolist()[1], "the tail should show from behind"


def test_left_is_left():
    left, right = render(one_toy(2, belly=2), scenes([270.0, 90.0])).pixels
    yellow = [((p[0] > 0.6) & (p[1] > 0.5) & (p[2] < 0.4)).float() for p in (left, right)]
    columns = torch.arange(64.0)
    centre = [float((m.sum(0) * columns).sum() / m.sum()) for m in yellow]
    assert centre[0] < centre[1], "a toy facing left should show its belly and snout on the picture's left"


def test_far_is_smaller_and_hat_is_there():
    near, far = (render(one_toy(1), scenes([0.0], size=size)).coverage.sum() for size in (0, 1))
    assert far < 0.7 * near, "far toys should be clearly smaller"
    bare, hat = (render(one_toy(1), scenes([0.0], hat=hat)).pixels for hat in (0, 5))
    assert ((bare - hat).abs().amax(1) > 0.1).float().mean() > 0.02, "a hat should change the picture"


def test_facings_are_eighths():
    angles = torch.arange(len(FACINGS)) * 45.0
    assert facing_of(angles).tolist() == list(range(8))
    assert facing_of(angles + 20).tolist() == list(range(8))
    assert facing_of(torch.tensor([350.0, 340.0])).tolist() == [0, 0], "the angle wraps round"


def test_held_out_is_a_tenth_and_apart():
    generator = torch.Generator().manual_seed(1)
    for held_out in (False, True):
        assert bool((toy_held_out(draw_toys(300, generator, held_out)) == held_out).all())
        drawn = draw_scenes(300, generator, held_out)
        assert bool((prompt_held_out(drawn.place, drawn.facing, drawn.hat) == held_out).all())
    kinds = {"body": 10, "belly": 10, "pattern": 4, "ears": 4, "tail": 3}
    drawn = {name: torch.randint(count, (20000,)) for name, count in kinds.items()}
    toys = Toys(**drawn, shape=torch.zeros(20000, SHAPE_DIMS))
    assert 0.07 < toy_held_out(toys).float().mean() < 0.13, "about a tenth of the toys should be held out"
