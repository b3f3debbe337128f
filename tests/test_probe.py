"""The probe reads pictures of any size, its loss skips what cannot be seen, and the evaluator counts as it says."""

import math

import torch
from PIL import Image

from squeeze.evaluation.plush import BLIND_OFF, BLIND_RECALL, Drawn, as_markdown, chance, copy_paste, sheet, summary
from squeeze.plush.probe import HEADS, Probe, augment, degrees_between, probe_loss
from squeeze.plush.world import PROPORTIONS, draw_scenes, draw_toys
from squeeze.training.data import draw_labelled, to_unit


def test_reads_any_size_in_ranges():
    probe = Probe(widths=(4, 4, 4, 4)).eval()
    for side in (16, 64, 200):
        read = probe.read(torch.rand(2, 3, side, side) * 2 - 1)
        assert ((read.azimuth >= 0) & (read.azimuth < 360)).all()
        assert read.proportions.shape == (2, len(PROPORTIONS))
        assert ((read.proportions >= 0) & (read.proportions <= 1)).all()
        for name, count in HEADS.items():
            assert (read.index[name] < count).all()
            assert ((read.confidence[name] > 0) & (read.confidence[name] <= 1)).all()


def test_a_picture_and_its_mirror_image_read_the_same():
    torch.manual_seed(0)
    probe, pixels = Probe(widths=(4, 4, 4, 4)).eval(), torch.rand(8, 3, 128, 128) * 2 - 1
    plain, mirrored = probe.read(pixels), probe.read(pixels.flip(-1))
    for name in HEADS:
        assert torch.equal(plain.index[name], mirrored.index[name]), name
        assert torch.allclose(plain.confidence[name], mirrored.confidence[name]), name
    assert torch.allclose(plain.proportions, mirrored.proportions)
    assert degrees_between(plain.azimuth, -mirrored.azimuth).max() < 0.1, "it turns the other way"


def test_loss_ignores_what_is_hidden():
    truth = draw_labelled(8, 0, 128)
    out = Probe(widths=(4, 4, 4, 4))(to_unit(truth["pixels"]))
    hidden = truth | {"belly": torch.full_like(truth["belly"], -1)}
    elsewhere = out | {"belly": out["belly"] + 100 * torch.randn_like(out["belly"])}
    assert torch.equal(probe_loss(out, hidden), probe_loss(elsewhere, hidden)), "a hidden belly is learnt from"
    assert torch.isfinite(probe_loss(out, hidden)), "nothing visible should mean nothing to learn, not NaN"


def test_loss_is_of_what_is_asked_alone():
    truth = draw_labelled(4, 0, 64)
    nothing = {name: torch.full_like(truth[name], -1) for name in HEADS}
    nothing["azimuth"] = torch.full_like(truth["azimuth"], torch.nan)
    logits = {name: torch.randn(4, count, requires_grad=True) for name, count in HEADS.items()}
    logits["direction"] = torch.randn(4, 2, requires_grad=True)
    loss = probe_loss(logits, nothing)
    loss.backward()
    assert loss == 0, "nobody asked"
    assert all(torch.equal(value.grad, torch.zeros_like(value)) for value in logits.values()), "NaN goes on"
    half = nothing | {"azimuth": torch.where(torch.arange(4) < 2, truth["azimuth"], torch.nan)}
    first = {name: value[:2] for name, value in truth.items()} | {name: nothing[name][:2] for name in HEADS}
    same = probe_loss({name: value[:2] for name, value in logits.items()}, first)
    torch.testing.assert_close(probe_loss(logits, half), same)


def test_a_direction_costs_what_its_angle_and_its_length_say():
    truth = draw_labelled(4, 1, 64)
    radians = truth["azimuth"] * math.pi / 180
    logits = {name: torch.nn.functional.one_hot(truth[name].clamp_min(0), n) * 50.0 for name, n in HEADS.items()}
    unit = torch.stack([radians.sin(), radians.cos()], -1)

    def cost(direction: torch.Tensor) -> float:
        return float(probe_loss(logits | {"direction": direction}, truth))

    known = torch.distributions.VonMises(torch.zeros(4), torch.full((4,), 3.0)).log_prob(torch.zeros(4)).mean()
    blind = -math.log(2 * math.pi)
    assert math.isclose(cost(3 * unit) - cost(0 * unit), blind - float(known), rel_tol=1e-4)
    assert math.isclose(cost(-3 * unit) - cost(3 * unit), 6.0, rel_tol=1e-4), "opposite costs twice the length"


def test_angles_wrap_round():
    a, b = torch.tensor([350.0, 10.0, 0.0, 90.0]), torch.tensor([10.0, 350.0, 180.0, 90.0])
    assert degrees_between(a, b).tolist() == [20.0, 20.0, 180.0, 0.0]


def test_augment_is_deterministic_and_does_not_flip():
    drawn = draw_labelled(4, 2, 64)
    pixels, cells = to_unit(drawn["pixels"]), drawn["cells"].float()
    (one, _), (two, _) = (augment(pixels, cells, torch.Generator().manual_seed(3)) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(pixels, cells, torch.Generator().manual_seed(3))[0], one), "frayed in training"
    assert torch.equal(one, two)
    assert one.shape == pixels.shape
    assert ((one - pixels) ** 2).mean() < ((one - pixels.flip(-1)) ** 2).mean(), "a flip would turn left into right"


def test_augment_moves_the_cells_with_the_picture():
    left = (torch.arange(64) < 32).float().expand(8, 1, 64, 64)
    pixels, cells = augment(left.expand(-1, 3, -1, -1) * 2 - 1, left[..., ::4, ::4], torch.Generator().manual_seed(3))
    share = (pixels > 0).float().mean((1, 2, 3)), cells.mean((1, 2, 3))
    assert torch.allclose(*share, atol=0.03), "the truth does not follow the shift"
    assert share[1].std() > 0.01, "nothing was shifted"


def outcome(
    case: int, copied: bool = False, turned: float = 90.0, off: float = 0.1, **right: bool | None
) -> Drawn:  # fmt: skip
    names = ("place", "facing", "hat", "size", "body", "belly", "pattern", "ears", "tail")
    picture = Image.new("RGB", (8, 8), "red")
    return Drawn(
        case=case, prompt="", reference=picture, picture=picture, right=dict.fromkeys(names) | right,
        needs_picture=case == 0, copied=copied, turned=turned, off=off,
    )  # fmt: skip


def test_summary_counts_known_cases():
    drawn = [
        outcome(0, place=True, facing=True, hat=True, body=True, pattern=True),
        outcome(1, place=True, facing=False, body=True, pattern=None, copied=True, off=0.5),
        outcome(2, place=False, body=True),
        outcome(3, place=True, body=False),
    ]
    figures = summary(drawn)
    place = figures["rates"]["place"]
    assert (place["rate"], place["cases"], place["chance"]) == (0.75, 4, 0.125)
    assert 0 <= place["interval"][0] < 0.75 < place["interval"][1] <= 1
    assert figures["rates"]["facing"]["rate"] == 0.5
    assert figures["rates"]["hat"]["cases"] == 1, "a hat that nobody asked for was counted"
    assert figures["rates"]["ears"]["rate"] is None
    assert figures["joint"] == 0.25
    assert figures["near_copies"] == 0.25
    assert figures["proportions_off"] == 0.2
    assert figures["needs_picture"] == {"rate": 1.0, "interval": None, "cases": 1}
    assert "| place | 75.0% | 25.0% to 100.0% | 4 | 12.5% |" in as_markdown(figures)
    assert "| proportions off | 20.0% | 10.0% to 40.0% | 4 | 25.0% |" in as_markdown(figures)
    assert sheet(drawn, columns=2, scale=1).size == (24, 52)


def test_intervals_shrink_with_more_cases_and_are_always_the_same():
    few, many = (summary([outcome(case, place=case % 4 > 0) for case in range(count)]) for count in (20, 400))
    width = [high - low for low, high in (one["rates"]["place"]["interval"] for one in (few, many))]
    assert width[1] < 0.5 * width[0]
    assert abs(width[1] - 2 * 1.96 * (0.75 * 0.25 / 400) ** 0.5) < 0.02, "not the interval of a mean of 400 cases"
    assert few == summary([outcome(case, place=case % 4 > 0) for case in range(20)])


def test_copy_paste_counts_known_angles():
    figures = copy_paste([outcome(case, turned=angle) for case, angle in enumerate((0.0, 7.0, 18.0, 175.0))])
    assert (figures["azimuth_difference"], figures["recall"]) == (50.0, round((1 + 2 + 2 + 3) / 16, 4))
    assert figures["azimuth_interval"][0] < 50 < figures["azimuth_interval"][1] <= 175
    assert figures["recall_interval"][0] < 0.5 < figures["recall_interval"][1] <= 1


def test_blind_facings_are_recalled_as_rarely_as_stated():
    generator = torch.Generator().manual_seed(0)
    one, two = (draw_scenes(40_000, generator).azimuth for _ in range(2))
    turned = degrees_between(one, two)
    recall = sum((turned <= k).float().mean() for k in (5, 10, 15, 20)) / 4
    assert abs(float(recall) - BLIND_RECALL) < 0.004


def test_who_guesses_the_middle_is_off_by_as_much_as_stated():
    shape = draw_toys(10_000, torch.Generator().manual_seed(0)).shape[:, PROPORTIONS]
    assert abs(float((shape - 0.5).abs().mean()) - BLIND_OFF) < 0.005


def test_chance_of_each_attribute():
    assert chance("facing") == 1 / 8
    assert chance("body") == 1 / 10
    assert chance("hat") > 1 / 11, "the best blind guess is: no hat"
