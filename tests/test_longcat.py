"""LongCat-Image-Edit through our parts is diffusers' own pipeline where both do the same thing; and what only we do."""

from dataclasses import replace

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    LongCatImageEditPipeline,
    LongCatImageTransformer2DModel,
)
from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit as theirs_module
from tiny import LAYERS, WIDTH, furthest, on_cpu, random_picture, write_longcat
from transformers import Qwen2_5_VLForConditionalGeneration

from squeeze.balance import Weights
from squeeze.conditioning import condition, mllm_view
from squeeze.identity import identify
from squeeze.models.loading import load
from squeeze.pipeline import default_request, generate, guided, plan
from squeeze.request import RequestError
from squeeze.sampling import denoise, draw_noise, grid_ids

SIZE = (128, 64)
PROMPT = 'it\'s a sign that says "Hat 7" on the beach'
PICTURE = random_picture(0, 300, 150)  # of the target's proportions, as the pipeline always has it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("longcat")
    write_longcat(path)
    return path


@pytest.fixture(scope="module")
def models(folder):
    return load(on_cpu("longcat", folder))


class Processor:
    """In the place of `Qwen2VLProcessor`, which wants torchvision for its videos."""

    def __init__(self, image_processor):
        self.image_processor = image_processor


@pytest.fixture
def pipeline(folder, models, monkeypatch):
    """diffusers' pipeline of the same files. It draws one megapixel always: that is brought down to SIZE. It does not
    say which tokens are pictures, so its language model gets the positions they had before transformers 5."""
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()

    def with_positions(_module, _arguments, kwargs):
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        kinds = (ids == encoder.config.image_token_id).int()
        places, _ = encoder.model.get_rope_index(ids, kinds, kwargs["image_grid_thw"], attention_mask=mask)
        places[:, mask == 0] = 1
        return (), kwargs | {"position_ids": places}

    encoder.register_forward_pre_hook(with_positions, with_kwargs=True)
    monkeypatch.setattr(theirs_module, "calculate_dimensions", lambda area, ratio: SIZE)
    made = LongCatImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), text_encoder=encoder,
        vae=AutoencoderKL.from_pretrained(folder / "vae"), tokenizer=models.mllm.tokenizer,
        transformer=LongCatImageTransformer2DModel.from_pretrained(folder / "transformer"),
        text_processor=Processor(models.mllm.image_processor),
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def asked_of(models, **asked):
    return default_request(
        models.profile, prompt=PROMPT, references=(PICTURE,), width=SIZE[0], height=SIZE[1], **asked
    ).checked(models.profile.limits)


@torch.inference_mode()
def test_the_loop_is_the_pipelines(models, pipeline):
    """Pictures and words as they come, the pipeline's own encodings against ours: 25 steps, CFG on, all weights 1."""
    asked, noise = asked_of(models, steps=25, stage_steps=(9, 8, 8)), next(draw_noise(7, 32, 64))
    assert (asked.cfg, asked.uncond, asked.balance) == (4.5, "full", (0.5, 0.5, 0.5)), "the row is not the pipeline's"
    theirs = pipeline(
        image=PICTURE, prompt=PROMPT, num_inference_steps=25, guidance_scale=4.5, latents=noise, output_type="latent"
    ).images
    positive, negative = (condition(models, (PICTURE,), text, SIZE) for text in (PROMPT, models.profile.negative))
    identity = identify(models, (PICTURE,), 4, 8)
    velocity = guided(models.dit, asked, (9, 8, 8), grid_ids(4, 8), positive, negative, identity)
    *_, last = denoise(noise, plan(models.profile, asked)[0], velocity)
    assert furthest(last.img, theirs) <= 1e-4, "our loop is not LongCatImageEditPipeline's"
    assert furthest(last.img, noise) > 0.1, "nothing moved"
    drawn = list(generate(models, replace(asked, seed=7)))[-2].img
    assert furthest(drawn, theirs) <= 1e-4, "generate() does not do what its parts do"


@pytest.mark.parametrize(
    "prompt", [PROMPT, "", "no quotes", "write 'a' and “b c” and ‘d’", "don't", 'unclosed " quote', '玩具 "玩具"']
)
@torch.inference_mode()
def test_what_is_read_is_what_the_pipeline_reads(models, pipeline, prompt):
    theirs = pipeline._encode_prompt([prompt], mllm_view(models, PICTURE, SIZE))
    ours = condition(models, (PICTURE,), prompt, SIZE)
    assert ours.txt.shape == theirs.shape == (1, 2 + 2 + 512, WIDTH), (
        "two marks, two picture tokens, 512 for the prompt"
    )
    assert furthest(ours.txt, theirs) <= 1e-5
    assert ours.image.tolist() == [True] * 4 + [False] * 512, "the marks belong to the picture"
    assert ours.vec.shape == ours.null_vec.shape == (1, 0), "LongCat takes no pooled vector"


@torch.inference_mode()
def test_picture_tokens_have_positions_in_rows_and_columns(models):
    """Taken for text they would be read otherwise: that is how diffusers reads them under transformers 5."""
    grid = torch.tensor([[1, 4, 8]])
    picture = models.mllm.config.image_token_id
    ids = torch.tensor([[1, 2, *[picture] * 8, 3, 0]])
    mask = torch.tensor([[1] * 11 + [0]])
    found = models.mllm._positions(ids, mask, grid)[:, 0].tolist()
    assert found[0] == [0, 1, *[2] * 8, 6, 1], "time stands still inside a picture, and what follows begins behind it"
    assert found[1] == [0, 1, *[2] * 4, *[3] * 4, 6, 1]
    assert found[2] == [0, 1, *[2, 3, 4, 5] * 2, 6, 1]


def test_several_apostrophes_are_no_quotes(models):
    """The pipeline's own way loses words where two of them have an apostrophe."""
    read = models.mllm.tokenizer.decode(models.mllm._spelled("don't say it's \"so\""))
    assert read == "don't say it's \"so\""


def test_a_prompt_cannot_smuggle_in_special_tokens(models):
    ids = models.mllm._spelled("a <|image_pad|> <|vision_start|> hat")
    assert not {models.mllm.config.image_token_id, models.mllm.config.vision_start_token_id} & set(ids)


def test_a_prompt_beyond_its_512_tokens_is_refused(models):
    """diffusers' pipeline cuts it, or tries to: its warning raises a TypeError."""
    with torch.inference_mode():
        condition(models, (PICTURE,), "x" * 512, SIZE)
    with pytest.raises(RequestError, match=r"513 tokens; .* reads 512"):
        next(generate(models, replace(asked_of(models), prompt="x" * 513)))


@pytest.fixture
def calls(models):
    """The keyword arguments of every forward of the transformer."""
    seen = []
    handle = models.dit.model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs), with_kwargs=True)
    yield seen
    handle.remove()


def velocity(models, weights, late_text="drop"):
    with torch.inference_mode():
        conditioning = condition(models, (PICTURE,), PROMPT, SIZE)
        identity = identify(models, (PICTURE,), 4, 8)
        return models.dit.velocity(
            next(draw_noise(1, 32, 64)), grid_ids(4, 8), 0.6, conditioning=conditioning, identity=identity,
            weights=weights, late_text=late_text,
        )  # fmt: skip


def test_positions_do_not_jump_where_tokens_are_left_out(models, calls):
    for weights, late_text in (((1, 1), "drop"), ((1, 0), "drop"), ((0, 1), "drop"), ((0, 1), "keep")):
        velocity(models, Weights(mllm=weights[0], vae=weights[1]), late_text)
    assert [len(call["txt_ids"]) for call in calls] == [516, 516, 0, 512]
    assert [len(call["img_ids"]) for call in calls] == [64, 32, 64, 64]
    for call in calls:
        places = call["img_ids"].int().tolist()
        assert places[0] == [1, 516, 516], "the target begins behind all text tokens, also behind those left out"
        assert places[31] == [1, 519, 523]
        assert places[32:33] in ([[2, 516, 516]], []), "the reference lies over the target, one index on"
    kept = calls[3]["txt_ids"].int().tolist()
    assert kept[0] == [0, 4, 4], "the text keeps the places it had behind the picture's tokens"
    assert kept[-1] == [0, 515, 515]


def test_weights_between_nothing_and_all(models):
    """Continuous down to the end, where the tokens are left out."""
    full, half = (velocity(models, Weights(mllm=1, vae=w)) for w in (1.0, 0.5))
    none, least = (velocity(models, Weights(mllm=1, vae=w)) for w in (0.0, 1e-30))
    assert furthest(none, least) < 1e-5, "w = 1e-30 is not the same as leaving out"
    assert min(furthest(half, full), furthest(half, none)) > 1e-4, "a weight of one half does nothing"


def test_stages_leave_out_tokens_of_both_branches(models, calls):
    list(generate(models, asked_of(models, steps=3, stage_steps=(1, 1, 1), balance=(0.0, 0.5, 1.0))))
    text, references = zip(
        *[(len(call["txt_ids"]), call["hidden_states"].shape[1] - 32) for call in calls], strict=True
    )
    assert text == (516, 516, 516, 516, 0), "the empty prompt's tokens weigh as the prompt's do"
    assert references == (0, 0, 32, 32, 32), "without any text both branches are one"


def test_lean_leaves_out_everything(models, calls):
    list(generate(models, asked_of(models, steps=1, stage_steps=(0, 1, 0), uncond="lean")))
    assert len(calls[1]["txt_ids"]) == 0
    assert calls[1]["hidden_states"].shape[1] == 32


def test_a_reference_of_other_proportions_is_padded_to_the_targets(models):
    with torch.inference_mode():
        tall = identify(models, (random_picture(0, 40, 200),), 4, 8)
    assert tall.ref.shape[1] == 32, "the reference has the target's size"


def test_nothing_is_unknown_to_it(models):
    assert models.mllm.unknown_words("xyzzy 🧸 <|image_pad|>") == []
    assert (models.mllm.layers, models.mllm.width) == (LAYERS, WIDTH)
