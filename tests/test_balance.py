"""The balance: what a weight does to attention, and how many steps each stage gets."""

import pytest
import torch

from squeeze.balance import PRESETS, STAGES, Weights, preset_of, stage_of, steps_per_stage, weights
from squeeze.models.attention import group_bias
from squeeze.models.profiles import PROFILES
from squeeze.request import check_balance
from squeeze.sampling import schedule, shift_for


@pytest.mark.parametrize(
    ("balance", "mllm", "vae"),
    [(0.0, 1.0, 0.0), (0.25, 1.0, 0.5), (0.5, 1.0, 1.0), (0.75, 0.5, 1.0), (1.0, 0.0, 1.0), (0, 1, 0), (1, 0, 1)],
)
def test_ends_middle_and_between(balance, mllm, vae):
    assert weights(balance) == Weights(mllm=mllm, vae=vae), "w_mllm = min(1, 2 (1 - b)), w_vae = min(1, 2 b)"


def test_one_group_is_always_whole_and_neither_leaves_the_range():
    for step in range(101):
        got = weights(step / 100)
        assert max(got.mllm, got.vae) == 1, f"at b = {step / 100} both groups are weakened"
        assert min(got.mllm, got.vae) >= 0


@pytest.mark.parametrize("weight", [1e-30, 0.1, 0.5, 1.0])
def test_a_weight_gives_its_group_w_m_over_1_minus_m_plus_w_m(weight):
    logits = torch.randn(64, 9, generator=torch.Generator().manual_seed(0)) * 3
    mass = logits.softmax(-1)[:, :4].sum(-1)
    bias = group_bias([(4, weight), (5, 1.0)])[0, 0]
    got = (logits + bias).softmax(-1)[:, :4].sum(-1)
    torch.testing.assert_close(
        got, weight * mass / (1 - mass + weight * mass), msg=lambda m: f"log w is not added: {m}"
    )


@pytest.mark.parametrize(
    ("mu", "counts"), [(shift_for(4096), (4, 5, 16)), (shift_for(1024), (3, 4, 18)), (0.0, (2, 2, 21))]
)
def test_the_papers_borders_at_25_steps(mu, counts):
    times = schedule(25, mu)[:-1]
    assert steps_per_stage(times, 0.95, 0.85) == counts, f"METHOD.md says {counts} at mu = {mu}"


def test_a_step_on_a_border_belongs_to_the_earlier_stage():
    assert steps_per_stage([1.0, 0.95, 0.9, 0.85, 0.5], 0.95, 0.85) == (2, 2, 1), "Eq. 5 has t >= tau"


@pytest.mark.parametrize(("tau1", "tau2", "counts"), [(0, 0, (5, 0, 0)), (1.1, 0, (0, 5, 0)), (1.1, 1.1, (0, 0, 5))])
def test_borders_outside_leave_one_stage(tau1, tau2, counts):
    assert steps_per_stage(schedule(5, 0.5)[:-1], tau1, tau2) == counts


@pytest.mark.parametrize("counts", [(4, 5, 16), (0, 2, 3), (2, 0, 1), (0, 0, 3), (3, 0, 0), (1, 1, 1)])
def test_stage_of_agrees_with_the_counts(counts):
    stages = [stage_of(step, counts) for step in range(sum(counts))]
    assert stages == [stage for stage, count in enumerate(counts) for _ in range(count)]
    for outside in (-1, sum(counts)):
        with pytest.raises(ValueError, match=str(outside)):
            stage_of(outside, counts)


def test_presets_and_profiles_are_balances():
    for name, balance in PRESETS.items():
        assert check_balance(balance) is None, name
        assert len(balance) == len(STAGES)
    assert PRESETS["paper"] == (0, 0.5, 1), "the paper's schedule"
    for profile in PROFILES.values():
        check_balance(profile.balance)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_every_stage_of_a_profile_has_steps(profile):
    tokens = profile.size**2 // 256
    times = schedule(profile.steps, shift_for(tokens) if profile.shift is None else profile.shift)[:-1]
    counts = steps_per_stage(times, profile.tau1, profile.tau2)
    assert min(counts) > 0, f"{profile.name} never sees one of its stages: {counts}"


def test_a_preset_is_known_by_its_balance_as_list_and_tuple():
    for name, balance in PRESETS.items():
        assert preset_of(balance) == preset_of(list(balance)) == name
    assert preset_of((0, 0.5, 1)) == "paper", "whole numbers are the same balance"
    assert preset_of([0.1, 0.5, 1]) is None
