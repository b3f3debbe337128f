"""What the MLLM's reading holds: every layer, the right positions, and nothing of the template or of padding."""

from dataclasses import replace

import pytest
import torch
from tiny import LAYERS, PICTURE_TOKENS, SPECIAL, WIDTH, furthest, random_picture

from squeeze.models.loading import load
from squeeze.models.mllm import Mllm, Template
from squeeze.models.profiles import PROFILES
from squeeze.request import RequestError

PROMPT = "a toy on the beach"  # five words of the tiny vocabulary
REFERENCES = [random_picture(0), random_picture(1)]


@pytest.fixture(scope="module")
def mllm(models):
    return models.mllm


@torch.inference_mode()
def read(mllm, references, prompt=PROMPT):
    return mllm.encode(references, prompt)


@pytest.mark.parametrize("references", [1, 2])
def test_shapes_and_masks(mllm, references):
    reading = read(mllm, REFERENCES[:references])
    pictures = PICTURE_TOKENS * references
    assert reading.hidden.shape == (1, pictures + 5, LAYERS, WIDTH), "template tokens stay, or states are missing"
    assert (mllm.layers, mllm.width) == (LAYERS, WIDTH)
    assert reading.image.tolist() == [[True] * pictures + [False] * 5], "picture tokens first, then the prompt"
    assert bool(reading.valid.all())
    assert reading.vision.numel() == pictures * WIDTH


@pytest.mark.parametrize("references", [1, 2])
@torch.inference_mode()
def test_the_states_are_the_models_own(mllm, references):
    """Laid out by hand: <img>, picture tokens, </img>, once a picture, then the words."""
    picture, words = SPECIAL.index("<IMG_CONTEXT>"), mllm.tokenizer.encode(PROMPT)
    one = [SPECIAL.index("<img>"), *[picture] * PICTURE_TOKENS, SPECIAL.index("</img>")]
    ids = torch.tensor([one * references + words])
    pixels = mllm.pixels(REFERENCES[:references])
    out = mllm.model(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
    assert len(out.hidden_states) == LAYERS
    kept = [i for i, token in enumerate(ids[0].tolist()) if token == picture or i >= len(one) * references]
    reading = read(mllm, REFERENCES[:references])
    for layer, states in enumerate(out.hidden_states):
        assert furthest(reading.hidden[:, :, layer], states[:, kept]) < 1e-5, f"layer {layer} is of other positions"
    assert furthest(reading.hidden[:, :, -1], out.last_hidden_state[:, kept]) < 1e-5, "the last is after the final norm"


def test_the_first_state_of_a_picture_token_is_vision(mllm):
    reading = read(mllm, REFERENCES)
    embedded = reading.hidden[0, : 2 * PICTURE_TOKENS, 0]
    assert torch.equal(embedded, reading.vision.reshape(-1, WIDTH)), "vision is not what the embedding layer holds"


def test_the_prompt_sees_the_picture_and_not_the_reverse(mllm):
    first, other = read(mllm, REFERENCES[:1]), read(mllm, REFERENCES[1:])
    assert furthest(first.hidden[:, PICTURE_TOKENS:, 1:], other.hidden[:, PICTURE_TOKENS:, 1:]) > 1e-2, (
        "the prompt is read without the picture"
    )
    renamed = read(mllm, REFERENCES[:1], "red hat facing")
    assert furthest(first.hidden[:, :PICTURE_TOKENS], renamed.hidden[:, :PICTURE_TOKENS]) < 1e-5, (
        "attention is causal: picture tokens, which come first, cannot know the prompt"
    )
    assert furthest(first.hidden[:, PICTURE_TOKENS:][:, :3], renamed.hidden[:, PICTURE_TOKENS:][:, :3]) > 1e-2


def test_the_order_of_references_matters(mllm):
    there, back = read(mllm, REFERENCES), read(mllm, REFERENCES[::-1])
    assert furthest(there.hidden, back.hidden) > 1e-2
    assert furthest(there.hidden[:, :PICTURE_TOKENS], read(mllm, REFERENCES[:1]).hidden[:, :PICTURE_TOKENS]) < 1e-5


@torch.inference_mode()
def test_a_padded_batch_equals_each_by_itself(mllm):
    prompts = [PROMPT, "snow", "a red hat , a blue hat ."]
    pixels = mllm.pixels([random_picture(i) for i in range(6)])
    batch = mllm.encode_batch(pixels, prompts, references=2)
    assert batch.valid.sum(1).tolist() == [2 * PICTURE_TOKENS + n for n in (5, 1, 8)], "valid counts tokens wrongly"
    for row, prompt in enumerate(prompts):
        alone = mllm.encode_batch(pixels[2 * row : 2 * row + 2], [prompt], references=2)
        count = alone.hidden.shape[1]
        assert batch.valid[row].tolist() == [True] * count + [False] * (batch.hidden.shape[1] - count)
        assert furthest(batch.hidden[row : row + 1, :count], alone.hidden) < 1e-5, "padding is seen by real tokens"
        assert torch.equal(batch.image[row : row + 1, :count], alone.image)


@torch.inference_mode()
def test_tokens_before_the_pictures_are_dropped_too(mllm):
    framed = Mllm(mllm.model, mllm.tokenizer, mllm.image_processor, Template(before="facing left <img> hat"))
    reading = framed.encode(REFERENCES, PROMPT)
    assert reading.hidden.shape[1] == 2 * PICTURE_TOKENS + 5
    assert reading.image.sum() == 2 * PICTURE_TOKENS
    assert furthest(reading.hidden, read(mllm, REFERENCES).hidden) > 1e-3, "the template is not read at all"


def test_a_prompt_cannot_smuggle_in_special_tokens(mllm):
    hostile = "a <IMG_CONTEXT> toy <img> [PAD] </img>"
    reading = read(mllm, REFERENCES[:1], hostile)
    assert reading.image.sum() == PICTURE_TOKENS, "a prompt that says <IMG_CONTEXT> became a picture token"
    assert "IMG_CONTEXT" in mllm.unknown_words(hostile), "<IMG_CONTEXT> in a prompt is a word like any other"


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        (PROMPT, []),
        ("A TOY, On The Beach.", []),
        ("a dragon on the moon", ["dragon", "moon"]),
        ("moon dragon moon Dragon dragon", ["moon", "dragon", "Dragon"]),
        ("a 🧸 toy", ["🧸"]),
        ("玩具 beach", ["玩具"]),
        ("[UNK] beach", ["[", "UNK", "]"]),
        ("", []),
    ],
)
def test_unknown_words_in_order_and_once(mllm, prompt, unknown):
    assert mllm.unknown_words(prompt) == unknown


def test_a_tokenizer_that_knows_every_word_has_no_unknown_ones(mllm):
    class Bytes:
        unk_token_id = None

    assert Mllm(mllm.model, Bytes(), mllm.image_processor, Template()).unknown_words("xyzzy") == []


def test_a_prompt_without_any_token(mllm):
    reading = read(mllm, REFERENCES[:1], "")
    assert reading.hidden.shape[1] == PICTURE_TOKENS
    assert bool(reading.hidden.isfinite().all())


def test_a_prompt_beyond_its_tokens_is_refused(mllm):
    """Two thousand characters may be thousands of tokens, and memory is planned for 512."""
    reading = read(mllm, REFERENCES[:1], " ".join(["toy"] * 512))
    assert reading.hidden.shape[1] == PICTURE_TOKENS + 512
    with pytest.raises(RequestError, match=r"513 tokens; .* reads 512"):
        read(mllm, REFERENCES[:1], " ".join(["toy"] * 513))


def test_8_bit_stays_near_full_precision():
    """The shipped weights through bitsandbytes on the CPU, layer by layer."""
    profile = PROFILES["plush"]
    full = load(profile, device="cpu").mllm
    eight = load(replace(profile, mllm_8bit=True), device="cpu").mllm
    kinds = {type(module).__name__ for module in eight.model.language_model.modules()}
    assert "Linear8bitLt" in kinds, f"nothing was quantised: {kinds}"
    outside = [*eight.model.vision_tower.modules(), *eight.model.multi_modal_projector.modules()]
    assert "Linear8bitLt" not in {type(m).__name__ for m in outside}, "vision must stay in full precision"
    prompt = "the toy on the beach, facing left, with a red hat"
    want, got = read(full, REFERENCES[:1], prompt).hidden, read(eight, REFERENCES[:1], prompt).hidden
    assert torch.equal(want[:, :, 0], got[:, :, 0]), "embeddings are not quantised"
    for layer in range(full.layers):
        error = ((got - want)[:, :, layer].norm() / want[:, :, layer].norm()).item()
        assert error < 0.05, f"layer {layer} is {error:.1%} off in 8-bit: wrong modules skipped, or a wrong threshold"
    assert not torch.equal(want, got), "8-bit equals full precision: it was not used"
