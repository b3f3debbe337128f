"""References and prompt become tokens as MLLM and aggregation make them, pictures first."""

from dataclasses import replace

import torch
from tiny import PICTURE_TOKENS, POOLED, TEXT_WIDTH, furthest, random_picture

from squeeze.conditioning import condition, mllm_view
from squeeze.encodings import Encodings
from squeeze.identity import identify
from squeeze.images import squared

PROMPT = "a toy on the beach"


@torch.inference_mode()
def conditioned(models, *references, prompt=PROMPT, square=False):
    return condition(replace(models, profile=replace(models.profile, square=square)), references, prompt)


@torch.inference_mode()
def test_it_is_the_aggregation_of_the_reading(models):
    pictures = [random_picture(0), random_picture(1)]
    got = conditioned(models, *pictures)
    reading = models.mllm.encode([mllm_view(models, picture) for picture in pictures], PROMPT)
    want = models.aggregation(reading.hidden, reading.image[0], reading.vision)
    assert torch.equal(got.txt, want.txt)
    assert torch.equal(got.vec, want.vec)
    assert torch.equal(got.null_vec, models.aggregation.null_vec)
    assert got.txt.shape == (1, 2 * PICTURE_TOKENS + 5, TEXT_WIDTH)
    assert got.vec.shape == got.null_vec.shape == (1, POOLED)
    assert got.image.tolist() == [True] * (2 * PICTURE_TOKENS) + [False] * 5, "picture tokens come first"


def test_picture_and_prompt_both_speak(models):
    picture = random_picture(0)
    base = conditioned(models, picture)
    assert furthest(base.txt, conditioned(models, random_picture(1)).txt) > 1e-2, "the picture is not read"
    assert furthest(base.txt, conditioned(models, picture, prompt="a toy in the snow").txt) > 1e-2, "the prompt is not"
    assert furthest(base.vec, conditioned(models, picture, prompt="a toy in the snow").vec) > 1e-3


def test_a_square_profile_shows_the_mllm_squares(models):
    wide = random_picture(0, 90, 30)
    assert torch.equal(conditioned(models, wide, square=True).txt, conditioned(models, squared(wide)).txt)
    assert furthest(conditioned(models, wide, square=True).txt, conditioned(models, wide).txt) > 1e-3


def test_what_is_kept_for_others_holds_no_graph(models):
    """Asked for outside of a generation too."""
    models = replace(models, encodings=Encodings())
    assert torch.is_grad_enabled()
    read = condition(models, (random_picture(0),), PROMPT)
    seen = identify(models, (random_picture(0),), 2, 2)
    assert not any(tensor.requires_grad for tensor in (read.txt, read.vec, seen.ref))
