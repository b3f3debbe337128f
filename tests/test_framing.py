"""Pictures are framed as toys stand that are near, for files and tensors alike, and no pixel of a large one is lost."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import make_framing, random_picture, tiny_profile

from squeeze.images import to_tensor
from squeeze.models.framing import LEAST, MOST, Framing, resized_crop
from squeeze.models.loading import load
from squeeze.plush.render import CELLS, MATERIALS, near_squares, render
from squeeze.plush.world import draw_scenes, draw_toys
from squeeze.training import framing
from squeeze.training.data import draw_parts, parts_of, to_unit
from squeeze.training.framing import UNITS, FramingPart, jittered, missed, within


def fixed(x: float, y: float, side: float, size: int = 32) -> Framing:
    """A framing that gives the same square of every picture."""
    always = Framing(size=size, fold=2, widths=(4, 8)).eval()
    torch.nn.init.zeros_(always.square.weight)
    always.square.bias.data = torch.tensor([x, y, 4 * np.log(side)], dtype=torch.float32)
    return always


def drawn_far(count: int, seed: int = 0):
    """Toys, and the same scenes with them far away and in the midst of where those stand that are near."""
    generator = torch.Generator().manual_seed(seed)
    toys, far = draw_toys(count, generator), draw_scenes(count, generator)
    noise = far.noise.clone()
    far = replace(far, size=torch.ones_like(far.size))
    noise[:, :3] = 0.5
    return toys, far, replace(far, size=torch.zeros_like(far.size), noise=noise)


def test_a_framed_toy_stands_as_one_that_is_near():
    toys, far, near = drawn_far(16)
    apart, together = render(toys, far, 128), render(toys, near, 128)
    made = parts_of(apart, near_squares(far))
    toys = [one.cells[:, :MATERIALS].sum(1).clamp(0, 1) for one in (apart, made, together)]
    line = (torch.arange(CELLS) + 0.5) / CELLS

    def middles(toy: torch.Tensor) -> torch.Tensor:
        weight = toy / toy.sum((1, 2), keepdim=True)
        return torch.stack([(weight.sum(axis) * line).sum(1) for axis in (1, 2)], 1)

    before, after, wanted = (torch.cat([middles(toy), toy.mean((1, 2))[:, None].sqrt()], 1) for toy in toys)
    assert (after - wanted).abs().max() < 0.01, "across, down or in size it stands elsewhere"
    assert (before - wanted).abs().mean() > 0.05, "it was there already"
    shown = torch.nn.functional.interpolate((toys[2] > 0.99).float()[:, None], 128)
    off = ((made.pixels - together.pixels).abs() * shown).sum() / shown.sum() / 3
    assert off < 0.03, "the toys are not the same to see"


def test_of_a_part_the_same_is_framed_as_of_the_whole():
    toys, far, _ = drawn_far(16, 1)
    drawn = render(toys, far, 128)
    parts = draw_parts(drawn, torch.Generator().manual_seed(0))
    truth = near_squares(far)
    again = within(truth, parts)
    inside = (again[:, :2].abs().amax(1) + again[:, 2]) < 1  # nothing beyond the part is to be seen
    assert inside.sum() > 3
    shown = resized_crop(parts_of(drawn, parts).pixels, again)
    assert (shown - resized_crop(drawn.pixels, truth)).abs()[inside].mean() < 0.01


def test_lessons_are_of_whole_pictures_and_of_parts(monkeypatch: pytest.MonkeyPatch):
    def lessons(cropped: float) -> tuple[torch.Tensor, torch.Tensor]:
        monkeypatch.setattr(framing, "CROPPED", cropped)
        both = FramingPart().lessons(32, 3)
        return to_unit(both["pixels"]), both["squares"]

    (wholes, of_wholes), (parts, of_parts) = lessons(0.0), lessons(1.0)
    assert (wholes - parts).abs().mean() > 0.1
    assert torch.cat([of_wholes, of_parts])[:, 2].min() > LEAST[2]
    assert torch.cat([of_wholes, of_parts])[:, 2].max() < MOST[2]
    middle = slice(32, 96)  # which is the toy, in either
    one, other = (resized_crop(*of)[..., middle, middle] for of in ((wholes, of_wholes), (parts, of_parts)))
    assert (one - other).abs().mean() < 0.04
    mixed, _ = lessons(0.5)
    as_whole = torch.tensor([torch.equal(mine, whole) for mine, whole in zip(mixed, wholes, strict=True)])
    assert 4 < as_whole.sum() < 28


@pytest.mark.parametrize("square", [(0.0, 0.0, 1.0), (0.3, -0.2, 0.6), (-0.9, 0.5, 0.5), (0.0, 0.4, 1.4)])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 32)])
def test_files_and_tensors_are_framed_alike(square: tuple, size: tuple):
    picture = random_picture(3, *size)
    one, other = to_tensor(fixed(*square).view(picture)), fixed(*square).framed(to_tensor(picture))
    assert one.shape == other.shape == (1, 3, 32, 32)
    assert (one - other).abs().mean() < 0.1


def test_the_whole_is_the_picture_itself():
    picture = random_picture(3, 32, 32)
    assert np.array_equal(np.asarray(fixed(0, 0, 1).view(picture)), np.asarray(picture))


def test_what_lies_where():
    """The square's x goes to the right, its y down."""
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("red", (32, 0, 64, 32))
    picture.paste("blue", (0, 32, 32, 64))
    for (x, y), colour in {(0.5, -0.5): (255, 0, 0), (-0.5, 0.5): (0, 0, 255), (0.5, 0.5): (255, 255, 255)}.items():
        view = np.asarray(fixed(x, y, 0.5).view(picture))
        assert np.abs(view[4:-4, 4:-4].astype(int) - colour).max() < 3, (x, y)


def test_a_large_picture_is_framed_out_of_all_its_pixels():
    stripes = Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255).convert("RGB")
    view = np.asarray(fixed(0, 0, 0.5).view(stripes)).astype(int)
    assert view.std() > 100, "it was framed out of a smaller picture"


def test_no_square_is_too_small_or_too_large_or_elsewhere():
    for side, expected in ((0.01, LEAST[2]), (1.2, 1.2), (100.0, MOST[2])):
        (square,) = fixed(0, 0, side)(torch.zeros(1, 3, 32, 32))
        assert square.tolist() == pytest.approx([0, 0, expected])
    wide = make_framing()(100 * torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert ((wide >= torch.tensor(LEAST)) & (wide <= torch.tensor(MOST))).all()
    assert fixed(3, -2, 1)(torch.zeros(1, 3, 32, 32))[0, :2].tolist() == [1, -1]


def test_squares_are_not_rounded_in_training():
    pixels, third = torch.rand(4, 3, 32, 32), fixed(0.1 / 3, -1 / 3, 2 / 3)
    with torch.autocast("cpu", torch.bfloat16):
        squares, shown = third(pixels), third.framed(pixels)
    assert squares[0].tolist() == pytest.approx([0.1 / 3, -1 / 3, 2 / 3], rel=1e-5)
    assert torch.equal(shown, third.framed(pixels))


def test_what_is_missed_is_counted_in_units():
    truth = torch.tensor([[0.1, -0.2, 0.7]])
    across, down, size = UNITS
    off = truth + torch.tensor([[2 * across * 0.7, -2 * down * 0.7, 0.0]])
    assert missed(off, truth)[0].tolist() == pytest.approx([1, -1, 0], abs=1e-5)
    assert missed(truth * torch.tensor([1, 1, 1 + size]), truth)[0].tolist() == pytest.approx([0, 0, 1], abs=0.02)


def test_jitter_is_one_unit_on_average():
    truth = torch.tensor([[0.1, -0.2, 0.7]]).expand(2000, -1)
    off = missed(jittered(truth, torch.Generator().manual_seed(0)), truth)
    assert off.mean(0).abs().max() < 0.1
    assert off.std(0).tolist() == pytest.approx([1, 1, 1], abs=0.1)


def test_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("squeeze.training.framing.CHUNK", 16)
    part = FramingPart(batch=16)
    lessons = part.lessons(16, 5)
    part._make = part._pool._make = lambda index: lessons
    first = part.loss(0).item()
    optimiser = torch.optim.Adam(part.model.parameters(), 3e-3)
    for step in range(60):
        optimiser.zero_grad()
        part.loss(step).backward()
        optimiser.step()
    assert part.loss(0).item() < first / 2
    part.save(part.model, tmp_path)
    assert Framing.from_pretrained(tmp_path / "framing").config["size"] == 128


def test_a_profile_without_framing_needs_none(tmp_path: Path, folder: Path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "framing")
    assert load(replace(tiny_profile(copy), framing=False)).mllm.framing is None


def test_a_view_is_the_picture_where_nothing_frames(models):
    picture = random_picture(0, 40, 40)
    plain = replace(models, mllm=type(models.mllm)(
        models.mllm.model, models.mllm.tokenizer, models.mllm.image_processor, models.mllm.template
    ))  # fmt: skip
    size = models.mllm.image_processor.size
    assert plain.mllm.view(picture) == picture.resize((size.width, size.height), models.mllm.image_processor.resample)
    assert plain.mllm.view(picture) != models.mllm.view(picture)
    for mllm in (plain.mllm, models.mllm):
        one, other = to_tensor(mllm.view(picture)), mllm.view_tensors(to_tensor(picture))
        assert (one - other).abs().mean() < 0.1
