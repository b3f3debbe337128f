"""Identity tokens and their positions: Kontext's as diffusers makes them, UNO's one behind the other."""

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from tiny import CHANNELS, furthest, random_picture

from squeeze.identity import SCHEMES, identify, reference_ids
from squeeze.images import fitted, squared, to_tensor
from squeeze.sampling import grid_ids, pack


@torch.inference_mode()
def identity_of(models, *pictures, rows=2, columns=4, **profile):
    return identify(replace(models, profile=replace(models.profile, **profile)), pictures, rows, columns)


@torch.inference_mode()
def test_tokens_and_ids_equal_diffusers_kontext(models):
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=models.vae.model, transformer=models.dit.model,
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip
    picture = random_picture(0, 48, 32)
    _, theirs, img_ids, ids = pipeline.prepare_latents(
        to_tensor(picture), 1, CHANNELS, 32, 64, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(0)
    )
    ours = identity_of(models, picture)
    assert torch.equal(ours.ref_ids, ids), "Kontext counts references on axis 0, from 1"
    assert furthest(ours.ref, theirs) < 1e-6, "scale, shift or packing differs from Kontext's"
    assert torch.equal(grid_ids(2, 4), img_ids)


def test_kontext_counts_references():
    ids = reference_ids("kontext", [(2, 3), (1, 2), (1, 1)], 2, 4)
    assert ids[:, 0].tolist() == [1] * 6 + [2] * 2 + [3]
    assert ids[:6, 1:].tolist() == grid_ids(2, 3)[:, 1:].tolist(), "each reference begins at row 0, column 0"
    assert ids[6:, 1:].tolist() == [[0, 0], [0, 1], [0, 0]]


def test_uno_moves_references_past_the_target_cumulatively():
    ids = reference_ids("uno", [(2, 3), (1, 2), (1, 1)], rows=5, columns=7)
    assert not ids[:, 0].any(), "UNO leaves axis 0 alone"
    assert ids[:6, 1:].tolist() == [[5 + r, 7 + c] for r in range(2) for c in range(3)]
    assert ids[6:8, 1:].tolist() == [[7, 10], [7, 11]], "the second begins where the first ends, on both axes"
    assert ids[8:, 1:].tolist() == [[8, 12]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_two_tokens_share_a_place(scheme):
    everything = torch.cat([grid_ids(4, 4), reference_ids(scheme, [(4, 4), (4, 4), (2, 6)], 4, 4)])
    assert len({tuple(place) for place in everything.tolist()}) == len(everything), "positions collide"


def test_an_unknown_scheme_is_named():
    with pytest.raises(ValueError, match="diagonal"):
        reference_ids("diagonal", [(1, 1)], 1, 1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_references_of_different_sizes(models, scheme):
    wide, tall = random_picture(0, 96, 64), random_picture(1, 20, 60)
    both = identity_of(models, wide, tall, ids=scheme)
    sizes = [(2, 3), (3, 1)]  # 48 x 32 and 16 x 48 pixels
    assert both.ref.shape == (1, 6 + 3, 4 * CHANNELS), "long side to the profile's, shapes kept"
    assert torch.equal(both.ref_ids, reference_ids(scheme, sizes, 2, 4))
    with torch.inference_mode():
        latents = [models.vae.encode(to_tensor(fitted(picture, 48, 16))) for picture in (wide, tall)]
        expected = torch.cat([pack(latent) for latent in latents], 1)
    assert furthest(both.ref, expected) < 1e-6


def test_a_square_profile_squares_references(models):
    wide = random_picture(0, 96, 64)
    got = identity_of(models, wide, square=True)
    assert torch.equal(got.ref_ids, reference_ids("kontext", [(3, 3)], 2, 4))
    assert furthest(got.ref, identity_of(models, squared(wide)).ref) < 1e-6
