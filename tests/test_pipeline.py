"""A whole generation: diffusers' own pipeline where both do the same thing, and what a seed promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from peft import PeftModel
from tiny import (
    CHANNELS,
    furthest,
    make_conditioning,
    make_request,
    make_transformer,
    make_vae,
    on_cpu,
    random_picture,
    write_adapter,
    write_paper,
)

from squeeze.balance import Weights
from squeeze.events import Encoded, Finished, StageStarted, StepDone
from squeeze.identity import identify
from squeeze.images import content_hash, to_tensor
from squeeze.models.loading import load
from squeeze.pipeline import Resume, branched, generate, guided, plan, recipe_of
from squeeze.request import RequestError
from squeeze.sampling import denoise, draw_noise, grid_ids, unpack

STAGES = (2, 2, 2)


def pixels(events):
    return np.asarray(events[-1].image).tobytes()


def steps_of(events):
    return [event for event in events if isinstance(event, StepDone)]


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Tiny models of the paper's layout with an adapter, and the folder they were loaded from."""
    folder = tmp_path_factory.mktemp("paper")
    write_paper(folder)
    write_adapter(folder / "adapter")
    return load(on_cpu("paper", folder), adapter=folder / "adapter"), folder


@pytest.mark.parametrize("row", ["plush", "paper"])
def test_at_full_weights_it_is_diffusers_kontext(models, paper, row):
    """25 steps, CFG 2.5, references in both branches; the reference has another size than the picture. The pipeline
    gets the weights anew, its LoRA not merged."""
    transformer, vae = make_transformer(), make_vae()
    if row == "paper":
        models, folder = paper
        transformer = FluxTransformer2DModel.from_pretrained(folder / "transformer")
        transformer = PeftModel.from_pretrained(transformer, folder / "adapter" / "lora").base_model.model.eval()
    asked = make_request(
        models.profile, balance=(0.5, 0.5, 0.5), stage_steps=(9, 8, 8), steps=25, cfg=2.5, guidance=3.5, uncond="full"
    )
    positive, other = make_conditioning(1), make_conditioning(2)
    negative = replace(other, txt=other.txt[:, : positive.txt.shape[1]])
    picture, noise = random_picture(0, 48, 32), next(draw_noise(7, 8, 4 * CHANNELS))

    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=vae, transformer=transformer,
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        image=picture, prompt_embeds=positive.txt, pooled_prompt_embeds=positive.vec,
        negative_prompt_embeds=negative.txt, negative_pooled_prompt_embeds=negative.vec, true_cfg_scale=2.5,
        guidance_scale=3.5, num_inference_steps=25, height=asked.height, width=asked.width, latents=noise,
        max_area=asked.height * asked.width, _auto_resize=False, output_type="latent",
    ).images  # fmt: skip

    with torch.inference_mode():
        identity = identify(models, (picture,), 2, 4)
        velocity = guided(models.dit, asked, (9, 8, 8), grid_ids(2, 4), positive, negative, identity)
        *_, last = denoise(noise, plan(models.profile, asked)[0], velocity)
    assert furthest(identity.ref, noise[:, :6]) > 0.1, "the reference is as empty as noise"
    assert furthest(last.img, theirs) <= 1e-4, "our loop is not FluxKontextPipeline's"
    assert furthest(last.img, noise) > 0.1, "nothing moved"


def test_what_happens_comes_in_order(models, request_for):
    events = list(generate(models, request_for()))
    kinds = [type(event) for event in events]
    staged = [StageStarted, StepDone, StepDone]
    assert kinds == [Encoded, *staged * 3, Finished]
    assert events[0].stage_steps == STAGES
    assert [event.step for event in steps_of(events)] == list(range(6))
    assert [event.stage for event in steps_of(events)] == [0, 0, 1, 1, 2, 2]
    assert [event.t for event in steps_of(events)] == list(events[0].times)
    assert all(event.preview.size == (64, 32) for event in steps_of(events))
    assert events[-1].image.size == (64, 32)
    assert all(event.img.shape == (1, 8, 4 * CHANNELS) for event in steps_of(events))


def test_a_stage_without_steps_does_not_start(models, request_for):
    events = list(generate(models, request_for(steps=2, stage_steps=(0, 2, 0))))
    assert [event.stage for event in events if isinstance(event, StageStarted)] == [1]


def test_same_seed_same_bytes(models, request_for):
    first, again = (list(generate(models, request_for())) for _ in range(2))
    assert pixels(first) == pixels(again)
    assert first[-1].recipe == again[-1].recipe
    assert pixels(list(generate(models, request_for(seed=8)))) != pixels(first), "the seed does nothing"


def test_previews_change_nothing(models, request_for):
    shown, hidden = (list(generate(models, request_for(previews=on))) for on in (True, False))
    assert all(event.preview is None for event in steps_of(hidden))
    assert pixels(shown) == pixels(hidden)
    assert all(torch.equal(a.img, b.img) for a, b in zip(steps_of(shown), steps_of(hidden), strict=True))


def test_previews_leave_guidance_out(models, request_for):
    """What it enlarges would look loud and speckled long before the end."""
    plain, strong = (steps_of(generate(models, request_for(cfg=cfg))) for cfg in (1.0, 5.0))
    assert strong[0].preview == plain[0].preview, "before the first step both foresee the same"
    assert not torch.equal(strong[0].img, plain[0].img)


def test_a_stage_ends_with_what_the_autoencoder_makes_of_it(models, request_for):
    events = list(generate(models, request_for(cfg=1.0, eta=0)))
    steps = steps_of(events)
    assert steps[-1].preview == events[-1].image, "the last step shows another picture than the finished one"
    times = [step.t for step in steps] + [0.0]
    for number in range(1, 5):
        before, after = steps[number - 1].img, steps[number].img
        x0 = before - times[number] * (after - before) / (times[number + 1] - times[number])
        latent = unpack(x0, 4, 8)
        drawn, sketched = models.vae.decode(latent), models.preview(latent)
        shown, ended = to_tensor(steps[number].preview), number in (1, 3)  # the last steps of the first two stages
        wanted, other = (drawn, sketched) if ended else (sketched, drawn)
        assert furthest(shown, wanted) < 0.02 < furthest(shown, other), f"step {number}"


def test_every_choice_reaches_the_picture(models, request_for):
    base = pixels(list(generate(models, request_for())))
    for change in (
        {"prompt": "a toy in the snow"}, {"references": (random_picture(1),)}, {"cfg": 3.0}, {"uncond": "full"},
        {"late_text": "keep"}, {"balance": (0.0, 0.5, 0.75)}, {"balance": (0.2, 0.5, 1.0)}, {"stage_steps": (1, 3, 2)},
        {"eta": 0.5}, {"references": (random_picture(0), random_picture(1))},
    ):  # fmt: skip
        assert pixels(list(generate(models, request_for(**change)))) != base, f"{list(change)} changes nothing"


def test_noise_is_drawn_anew_where_something_says_what_was_asked_for(models, request_for):
    def renewed(balance, **asked):
        events = generate(models, request_for(balance=balance, eta=0.5, cfg=1.0, **asked))
        plain = generate(models, request_for(balance=balance, eta=0, cfg=1.0, **asked))
        apart = [not torch.equal(a.img, b.img) for a, b in zip(steps_of(events), steps_of(plain), strict=True)]
        return apart.index(True) if any(apart) else None

    assert renewed((0.0, 0.5, 1.0)) == 0
    assert renewed((1.0, 0.5, 1.0)) == 2
    assert renewed((1.0, 1.0, 0.75)) == 4
    assert renewed((1.0, 1.0, 1.0)) is None, "of the prompt only the picture tells, and it would be lost"
    assert renewed((1.0, 1.0, 1.0), late_text="keep") == 0


@pytest.mark.parametrize("eta", [0, 0.5, 1])
@pytest.mark.parametrize(("stage", "step"), [(1, 2), (2, 4)])
def test_resumed_equals_uninterrupted(models, request_for, forwards, stage, step, eta):
    before = request_for(previews=False, eta=eta)
    balance = [0.0, 0.5, 1.0]
    balance[stage] = 0.25
    after = replace(before, balance=tuple(balance))
    kept = steps_of(list(generate(models, before)))[step - 1].img
    whole = list(generate(models, after))
    forwards.clear()
    rest = list(generate(models, after, Resume(step=step, img=kept)))
    assert len(forwards) == 2 * (6 - step), "resuming must do the remaining forwards and no more"
    assert [event.step for event in steps_of(rest)] == list(range(step, 6))
    assert pixels(rest) == pixels(whole)
    assert rest[-1].recipe == whole[-1].recipe, "the recipe of a resumed picture is the recipe of the picture"


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_branch_equals_a_fresh_run_with_the_same_balances(models, request_for, forwards, step):
    trunk = request_for(balance=(0.0, 0.5, 1.0))
    kept = steps_of(list(generate(models, trunk)))
    branch = branched(trunk, step, (1.0, 0.25, 0.5))
    forwards.clear()
    rest = list(generate(models, branch, Resume(step=step, img=kept[step - 1].img)))
    assert len(forwards) == 2 * (6 - step), "a branch must do the remaining forwards and no more"
    fresh = list(generate(models, branch))
    assert pixels(rest) == pixels(fresh)
    assert [event.img.tolist() for event in steps_of(fresh)][:step] == [event.img.tolist() for event in kept][:step]
    assert pixels(rest) != pixels(list(generate(models, trunk))), "the new balances changed nothing"


def test_a_branch_of_a_branch(models, request_for):
    trunk = request_for(balance=(0.0, 0.0, 0.0))
    twice = branched(branched(trunk, 2, (0.5, 0.5, 0.5)), 4, (1.0, 1.0, 1.0))
    assert [twice.balance_at(step, (2, 2, 2)) for step in range(6)] == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    back = branched(twice, 3, (0.25, 0.25, 0.25))
    assert [back.balance_at(step, (2, 2, 2)) for step in range(6)] == [0.0, 0.0, 0.5, 0.25, 0.25, 0.25]
    checked = back.checked(models.profile.limits)
    assert checked is back


def test_resuming_inside_a_stage_announces_it(models, request_for):
    kept = steps_of(list(generate(models, request_for())))[2].img
    rest = list(generate(models, request_for(), Resume(step=3, img=kept)))
    started = [(event.stage, event.step) for event in rest if isinstance(event, StageStarted)]
    assert started == [(1, 3), (2, 4)]


@pytest.mark.parametrize(
    ("step", "tokens"), [(0, 8), (6, 8), (-1, 8), (3, 4)], ids=["start", "end", "before the start", "another size"]
)
def test_a_latent_that_does_not_fit_is_refused(models, request_for, step, tokens):
    with pytest.raises(RequestError) as refused:
        next(generate(models, request_for(), Resume(step=step, img=torch.zeros(1, tokens, 4 * CHANNELS))))
    assert refused.value.code == "resume"


@pytest.mark.parametrize(("cfg", "per_step"), [(1.0, 1), (2.5, 2)])
def test_forwards_are_counted(models, request_for, forwards, cfg, per_step):
    list(generate(models, request_for(cfg=cfg)))
    assert len(forwards) == 6 * per_step


def test_the_balance_of_a_stage_decides_what_is_passed(models, request_for, forwards):
    list(generate(models, request_for(cfg=1.0, balance=(0.0, 0.5, 1.0))))
    passed = [(call["encoder_hidden_states"].shape[1], call["hidden_states"].shape[1] - 8) for call in forwards]
    assert passed == [(9, 0)] * 2 + [(9, 6)] * 2 + [(0, 6)] * 2, "tokens of weight 0 must not be passed"


@pytest.mark.parametrize(("uncond", "references"), [("lean", [0, 0, 0]), ("full", [0, 6, 6])])
def test_what_the_unconditional_branch_sees(models, request_for, forwards, uncond, references):
    list(generate(models, request_for(uncond=uncond, balance=(0.0, 0.5, 0.75))))
    free = forwards[1::2]
    assert [call["encoder_hidden_states"].shape[1] for call in free] == [0] * 6
    assert [call["hidden_states"].shape[1] - 8 for call in free[::2]] == references


@torch.inference_mode()
@pytest.mark.parametrize("negative", [None, make_conditioning(2)])
def test_branches_with_the_same_input_are_one_forward(models, request_for, forwards, negative):
    """Identity alone under `full`: guidance has nothing to enlarge, so one forward gives what two would."""
    noise, positive = next(draw_noise(1, 8, 4 * CHANNELS)), make_conditioning(1)
    negative = negative and replace(negative, null_vec=positive.null_vec)
    identity = identify(models, (random_picture(0),), 2, 4)
    counts = {}
    for late_text in ("drop", "keep"):
        asked = request_for(balance=(0.0, 0.5, 1.0), uncond="full", late_text=late_text)
        velocity = guided(models.dit, asked, STAGES, grid_ids(2, 4), positive, negative, identity)
        for index in (0, 2, 4):
            forwards.clear()
            velocity(noise, index, 0.5)
            counts[late_text, index] = len(forwards)
    assert counts == {
        ("drop", 0): 2, ("drop", 2): 2, ("drop", 4): 1, ("keep", 0): 2, ("keep", 2): 2, ("keep", 4): 2,
    }  # fmt: skip
    asked = request_for(balance=(0.0, 0.5, 1.0), uncond="full")
    found, seen = guided(models.dit, asked, STAGES, grid_ids(2, 4), positive, negative, identity)(noise, 4, 0.5)
    alone, other = (
        models.dit.velocity(
            noise, grid_ids(2, 4), 0.5, conditioning=said, identity=identity, weights=Weights(mllm=0.0, vae=1.0),
            guidance=asked.guidance,
        ).float()
        for said in (positive, negative or positive)
    )  # fmt: skip
    assert torch.equal(found, other + asked.cfg * (alone - other)), "not what two forwards give, bit for bit"
    assert torch.equal(seen, alone)


def test_interleaved_generations_do_not_touch_each_other(models, request_for):
    """Two visitors' generators, stepped in turn, each give what they give alone."""
    asked = [request_for(), request_for(seed=9, prompt="a red hat", balance=(1.0, 1.0, 1.0), stage_steps=(3, 1, 2))]
    alone = [pixels(list(generate(models, one))) for one in asked]
    running, got = [generate(models, one) for one in asked], [None, None]
    for _ in range(11):
        for i, run in enumerate(running):
            event = next(run, None)
            got[i] = event or got[i]
    assert [np.asarray(event.image).tobytes() for event in got] == alone


def test_references_change_neither_noise_nor_themselves(models, request_for, forwards):
    picture, other = random_picture(0, 90, 60), random_picture(1)
    kept, noise = picture.tobytes(), next(draw_noise(7, 8, 4 * CHANNELS))
    for references in ((picture,), (other,), (picture, other)):
        forwards.clear()
        list(generate(models, request_for(references=references)))
        assert torch.equal(forwards[0]["hidden_states"][:1, :8], noise)
    assert picture.tobytes() == kept


def test_a_bad_request_ends_before_the_first_event(models, request_for, forwards):
    with pytest.raises(RequestError):
        next(generate(models, request_for(steps=0)))
    assert forwards == []


def test_gradients_stay_off_between_events(models, request_for):
    for event in generate(models, request_for()):
        if isinstance(event, StepDone):
            assert not event.img.requires_grad
            assert torch.is_grad_enabled(), "a paused generation switches off its caller's gradients"


def test_the_recipe_names_all_that_made_it(models, request_for):
    asked = request_for(prompt="  a toy\n on the  beach ")
    recipe = recipe_of(models, asked, STAGES)
    assert recipe["references"] == [content_hash(asked.references[0])]
    assert recipe["revision"] == models.revision
    for field in ("balance", "steps", "cfg", "guidance", "seed", "height", "width", "eta", "uncond", "late_text"):
        value = getattr(asked, field)
        assert recipe[field] == (list(value) if isinstance(value, tuple) else value)
    assert recipe["stage_steps"] == list(STAGES)


def test_a_picture_is_the_decoded_end_of_the_walk(models, request_for):
    events = list(generate(models, request_for()))
    end = steps_of(events)[-1].img
    with torch.inference_mode():
        latent = end.view(1, 2, 4, CHANNELS, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, CHANNELS, 4, 8)
        decoded = models.vae.decode(latent)
    assert furthest(decoded, to_tensor(events[-1].image)) < 1.01 / 127.5, "beyond rounding to 8 bits"
