"""The path, the schedule and the tokens agree with diffusers; a perfect velocity arrives."""

import itertools

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxPipeline
from tiny import furthest

from squeeze.sampling import denoise, draw_noise, grid_ids, pack, schedule, shift_for, shifted, unpack
from squeeze.training.objective import flow_loss, interpolate


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tokens", [16, 256, 1024, 4096])
@pytest.mark.parametrize("steps", [1, 2, 4, 25, 28, 100])
def test_the_schedule_equals_diffusers(steps, tokens):
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
    )
    sigmas = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).numpy()
    scheduler.set_timesteps(sigmas=sigmas, mu=shift_for(tokens))
    got = torch.tensor(schedule(steps, shift_for(tokens)))
    assert furthest(got, scheduler.sigmas) < 1e-6, (
        "the shift or the spacing differs from FlowMatchEulerDiscreteScheduler"
    )


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.15, 3.0])
def test_times_fall_from_one_to_zero(mu):
    times = schedule(25, mu)
    assert times[0] == pytest.approx(1, abs=1e-12)
    assert times[-1] == 0
    assert all(a > b for a, b in itertools.pairwise(times))


def test_no_shift_changes_nothing_and_a_shift_raises():
    t = torch.linspace(0.01, 0.99, 50)
    assert furthest(shifted(t, 0.0), t) < 1e-6
    assert bool((shifted(t, 1.0) > t).all()), "a positive mu must leave more time to the noisy end"


@pytest.mark.parametrize(("height", "width"), [(2, 2), (8, 8), (4, 10), (12, 6)])
def test_packing_equals_diffusers_and_has_an_inverse(height, width):
    latent = normal(2, 4, height, width)
    tokens = pack(latent)
    assert torch.equal(tokens, FluxKontextPipeline._pack_latents(latent, 2, 4, height, width))
    assert torch.equal(unpack(tokens, height, width), latent), "unpack is not the inverse of pack"
    theirs = FluxKontextPipeline._unpack_latents(tokens, height * 8, width * 8, 8)
    assert torch.equal(unpack(tokens, height, width), theirs)


def test_packing_takes_any_memory_layout():
    latent = normal(2, 4, 8, 6)
    assert torch.equal(pack(latent.to(memory_format=torch.channels_last)), pack(latent))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (2, 5)])
def test_positions_equal_diffusers(rows, columns):
    theirs = FluxPipeline._prepare_latent_image_ids(1, rows, columns, "cpu", torch.float32)
    assert torch.equal(grid_ids(rows, columns), theirs), "ids are (index, row, column), row by row"
    moved = grid_ids(rows, columns, index=2, top=7, left=11)
    assert torch.equal(moved, theirs + torch.tensor([2.0, 7.0, 11.0]))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 25])
@pytest.mark.parametrize("mu", [0.0, 1.15])
def test_a_perfect_velocity_lands_on_the_picture(steps, mu):
    x0, noise = normal(2, 5, 8, seed=1), normal(2, 5, 8, seed=2)
    moves = list(denoise(noise, schedule(steps, mu), lambda img, index, t: (noise - x0,) * 2))
    assert [move.index for move in moves] == list(range(steps))
    assert furthest(moves[-1].img, x0) < 1e-5, "Euler's steps do not add up to the whole way"
    for move in moves:
        assert furthest(move.x0, x0) < 1e-5, "x0 = img - t * velocity must foresee the picture at once"
    assert moves[0].t == pytest.approx(1, abs=1e-12)


def test_what_is_followed_and_what_foresees_are_two_things():
    img, followed, calm = normal(1, 2, 4, seed=1), normal(1, 2, 4, seed=2), normal(1, 2, 4, seed=3)
    (move,) = denoise(img, [0.8, 0.5], lambda img, index, t: (followed, calm))
    assert torch.equal(move.img, img + (0.5 - 0.8) * followed)
    assert torch.equal(move.x0, img - 0.8 * calm)


def test_new_noise_at_each_step_is_diffusers_stochastic_sampling():
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    times = schedule(5, 0.6)
    scheduler.set_timesteps(sigmas=times[:-1])
    matrix = normal(8, 8) / 3

    def velocity(img, index, t):
        return (torch.tanh(img @ matrix) + t,) * 2

    torch.manual_seed(7)
    img = normal(1, 5, 8)
    for index, t in enumerate(scheduler.timesteps):
        img = scheduler.step(velocity(img, index, times[index])[0], t, img, return_dict=False)[0]
    torch.manual_seed(7)
    fresh = (torch.randn(1, 5, 8) for _ in times)
    *_, last = denoise(normal(1, 5, 8), times, velocity, fresh=fresh)
    assert furthest(last.img, img) < 1e-5
    followed = next(denoise(img, times, velocity, fresh=iter([img]), eta=0.0))
    assert furthest(followed.img, next(denoise(img, times, velocity)).img) < 1e-5, "no new noise is Euler's step"


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_perfect_velocity_has_no_loss_and_the_path_is_the_samplers(t):
    x0, noise = normal(3, 5, 8, seed=1), normal(3, 5, 8, seed=2)
    assert flow_loss(noise - x0, x0, noise) == 0, "training and sampling disagree about the velocity's sign"
    assert flow_loss(x0 - noise, x0, noise) > 1
    img = interpolate(x0, noise, torch.full((3,), t))
    (move,) = denoise(img, [t, 0.0], lambda img, index, t: (noise - x0,) * 2)
    assert furthest(move.img, x0) < 1e-5, "the trainer's path and the sampler's are not the same"


def test_each_row_of_a_training_batch_has_its_own_time():
    x0, noise = normal(2, 3, 4, seed=1), normal(2, 3, 4, seed=2)
    mixed = interpolate(x0, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed[0], x0[0])
    assert torch.equal(mixed[1], noise[1])


@pytest.mark.parametrize("start", range(1, 7))
def test_going_on_from_any_step_is_the_same(start):
    times, matrix = schedule(7, 0.6), normal(8, 8) / 3

    def velocity(img, index, t):
        return (torch.tanh(img @ matrix) * (index + 1) + t,) * 2

    whole = list(denoise(normal(1, 5, 8), times, velocity))
    again = list(denoise(whole[start - 1].img, times, velocity, start))
    assert [move.index for move in again] == list(range(start, 7))
    for a, b in zip(whole[start:], again, strict=True):
        assert (a.index, a.t) == (b.index, b.t)
        assert torch.equal(a.img, b.img), f"going on from step {start} differs from never having stopped"


def test_denoise_is_lazy():
    calls = []
    moves = denoise(normal(1, 2, 4), schedule(5, 0.0), lambda img, index, t: calls.append(index) or (img, img))
    assert calls == []
    next(moves)
    next(moves)
    assert calls == [0, 1], "a step must be computed when it is asked for, so that a stop stops"


def test_noise_depends_on_the_seed_alone():
    state = torch.get_rng_state()
    first, second = itertools.islice(draw_noise(3, 16, 8), 2)
    torch.manual_seed(99)
    again = list(itertools.islice(draw_noise(3, 16, 8), 2))
    assert torch.equal(torch.stack(again), torch.stack([first, second])), "global random state leaks into the noise"
    assert not torch.equal(first, second)
    assert not torch.equal(next(draw_noise(4, 16, 8)), first)
    assert first.shape == (1, 16, 8)
    big = next(draw_noise(2**53 - 1, 4096, 64))
    assert abs(big.mean().item()) < 0.01
    assert abs(big.std().item() - 1) < 0.01
    torch.set_rng_state(state)


def test_drawing_noise_leaves_the_global_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(draw_noise(5, 16, 8))
    assert torch.equal(torch.get_rng_state(), before)
