"""Training data: the same for a seed, other for another, a window that slides, and what of a case can be known."""

import torch
import torch.nn.functional as F

from squeeze.cli_checks import MOST_SEED
from squeeze.plush.render import CELLS, MATERIALS, Rendered, render, visible
from squeeze.training.data import (
    IDENTITY,
    SCENE,
    Pool,
    chunk_seed,
    draw_cases,
    draw_parts,
    parts_of,
    truth,
    unanswerable,
    wanted,
)


def test_cases_are_the_same_for_a_seed():
    first, second = draw_cases(20, 11), draw_cases(20, 11)
    assert first.wishes == second.wishes
    for part in ("toys", "references", "targets"):
        one, other = (vars(getattr(case, part)) for case in (first, second))
        assert all(torch.equal(value, other[name]) for name, value in one.items()), part


def test_seeds_share_no_samples():
    wide = [0, 1, 2**22, 2**23, 2**29, MOST_SEED]  # torch's generator takes 32 bits of a seed
    seeds = [chunk_seed(part, seed, index) for part in (1, 4) for seed in wide for index in range(100)]
    assert len(set(seeds)) == len(seeds)
    first = [torch.rand(3, generator=torch.Generator().manual_seed(one)) for one in seeds]
    assert len({tuple(one.tolist()) for one in first}) == len(seeds)


def test_pool_slides_and_depends_on_the_step_alone():
    made = []

    def chunk(index: int):
        made.append(index)
        return {"x": torch.arange(index * 10, index * 10 + 10)}

    def pool():
        return Pool(chunk, batch=5, chunk=10, window=4, reuse=1)

    one, other = pool(), pool()
    first = [one.batch(step)["x"] for step in range(40)]
    assert len(made) == len(set(made)), "a chunk was made twice"
    assert torch.equal(other.batch(39)["x"], first[39]), "a batch depends on the batches before it"
    assert first[39].min() >= 10 * (2 + 39 * 5 // 10 - 4), "old chunks were not dropped"


def test_what_can_be_known_is_what_the_reference_shows_and_the_prompt_names():
    case = draw_cases(192, 3)
    before, after = (render(case.toys, scenes, 64) for scenes in (case.references, case.targets))
    told = truth(case.toys, case.targets, after)
    asked, seen = wanted(case, before, told), visible(case.toys, before)
    for name in IDENTITY:
        assert torch.equal(asked[name] >= 0, seen[name] & (told[name] >= 0)), name
        assert torch.equal(asked[name][asked[name] >= 0], getattr(case.toys, name)[asked[name] >= 0]), name
    assert (asked["belly"] < 0).any(), "no toy was seen from behind, so nothing was tried"
    hidden = [unanswerable(case, number, bool(seen["belly"][number])) for number in range(192)]
    assert {"hat"} in hidden, "no hat of a belly's colour was wished of a toy seen from behind, so nothing was tried"
    for number, wish in enumerate(case.wishes):
        for name in SCENE:
            named = None if name in hidden[number] else getattr(wish, name)
            assert int(asked[name][number]) == (-1 if named is None else named), (name, wish.text)
        assert bool(asked["azimuth"][number].isfinite()) == (wish.facing is not None), wish.text


def test_a_crop_holds_the_toy_and_what_is_where():
    case = draw_cases(64, 3)
    drawn = render(case.toys, case.references, 64)
    whole = drawn.cells[:, :MATERIALS].sum(1)
    picture = F.interpolate(whole[:, None], 64).expand(-1, 3, -1, -1)  # of where the toy is
    squares = draw_parts(drawn, torch.Generator().manual_seed(0))
    part = parts_of(Rendered(pixels=picture, cells=drawn.cells), squares)
    with torch.autocast("cpu", torch.bfloat16):
        again = parts_of(Rendered(pixels=picture, cells=drawn.cells), squares)
    assert torch.equal(part.pixels, again.pixels), "parts are frayed in training"
    toy = part.cells[:, :MATERIALS].sum(1)
    white = Rendered(pixels=torch.ones_like(picture), cells=drawn.cells)
    assert parts_of(white, squares).pixels.min() > 0.999, "the edge is dark"
    assert part.pixels.shape == picture.shape
    seen = F.adaptive_avg_pool2d(part.pixels[:, 0], CELLS)
    assert (seen - toy).abs().mean() < 0.01, "picture and cells are cropped apart"
    side = (whole.mean((1, 2)) / toy.mean((1, 2))).sqrt()  # of the part, in pictures
    assert side.max() < 1.05
    assert side[case.references.size == 1].quantile(0.2) < 0.8, "of toys far away much is left out"
    for axis in (1, 2):
        before, after = ((of > 0.1).any(axis).sum(1) / CELLS for of in (whole, toy))
        assert (after * side - before).abs().max() < 3 / CELLS, "a toy is cut or squeezed"
