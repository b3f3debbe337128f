"""A weight inside attention means what METHOD.md says, from no bias at 1 down to tokens that are as good as gone."""

import math

import pytest
import torch
from tiny import POOLED, furthest, make_conditioning, make_identity, make_transformer

from squeeze.balance import Weights
from squeeze.models.attention import forced_bias, group_bias, padding_bias
from squeeze.models.dit import Conditioning, Dit
from squeeze.sampling import grid_ids

IMG_IDS = grid_ids(2, 4)
TEXT, IMG, REF = 9, 8, 6  # keys of the three groups in make_conditioning, IMG_IDS and make_identity


@pytest.fixture(scope="module")
def dit():
    return Dit(make_transformer())


def velocity(dit, conditioning, weights, bias=None):
    img = torch.randn(1, IMG, dit.channels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return dit.velocity(
            img, IMG_IDS, 0.6, conditioning=conditioning, identity=make_identity(1), weights=weights, bias=bias
        )


def same_vec():
    """Conditioning whose pooled vector does not change when the tokens go, so that the tokens alone are compared."""
    made = make_conditioning(2)
    return Conditioning(txt=made.txt, image=made.image, vec=made.null_vec, null_vec=made.null_vec)


@pytest.mark.parametrize(
    ("gone", "weights"), [("mllm", Weights(mllm=0.0, vae=1.0)), ("vae", Weights(mllm=1.0, vae=0.0))]
)
def test_a_vanishing_weight_equals_dropped_tokens(dit, gone, weights):
    left = {"mllm": 1.0, "vae": 1.0} | {gone: 1e-30}
    bias = forced_bias([(TEXT, left["mllm"]), (IMG, 1.0), (REF, left["vae"])])
    biased = velocity(dit, same_vec(), Weights(mllm=1.0, vae=1.0), bias)
    dropped = velocity(dit, same_vec(), weights)
    assert furthest(biased, dropped) <= 1e-5, f"log w does not silence the {gone} keys, or keys are in another order"
    whole = velocity(dit, same_vec(), Weights(mllm=1.0, vae=1.0))
    assert furthest(whole, dropped) > 1e-2, "the tokens say nothing: this test tests nothing"


def test_a_bias_of_zeros_equals_none_exactly(dit):
    zeros = forced_bias([(TEXT, 1.0), (IMG, 1.0), (REF, 1.0)])
    assert zeros.shape == (1, 1, 1, TEXT + IMG + REF)
    assert not zeros.any()
    both = Weights(mllm=1.0, vae=1.0)
    assert torch.equal(velocity(dit, same_vec(), both, zeros), velocity(dit, same_vec(), both))


@pytest.mark.parametrize("weights", [Weights(mllm=0.5, vae=1.0), Weights(mllm=1.0, vae=0.5)])
def test_a_half_weight_lies_between(dit, weights):
    half = velocity(dit, same_vec(), weights)
    for end in (Weights(mllm=1.0, vae=1.0), Weights(mllm=float(weights.mllm == 1), vae=float(weights.vae == 1))):
        assert furthest(half, velocity(dit, same_vec(), end)) > 1e-3, "a weight between 0 and 1 changes nothing"
    bias = forced_bias([(TEXT, weights.mllm), (IMG, 1.0), (REF, weights.vae)])
    assert torch.equal(half, velocity(dit, same_vec(), Weights(mllm=1.0, vae=1.0), bias)), "the bias is on other keys"


def test_no_bias_where_every_weight_is_one():
    assert group_bias([(3, 1.0), (2, 1)]) is None
    assert group_bias([(0, 0.5), (2, 1.0)]) is None, "a group without tokens needs no bias"
    bias = group_bias([(2, 0.5), (1, 1.0), (2, 0.25)])
    expected = [math.log(0.5)] * 2 + [0.0] + [math.log(0.25)] * 2
    torch.testing.assert_close(bias, torch.tensor(expected).view(1, 1, 1, 5))


def test_the_padding_bias_hides_padding_alone():
    bias = padding_bias(torch.tensor([[True, False, True], [True, True, True]]), 5)
    assert bias.shape == (2, 1, 1, 5)
    assert torch.isneginf(bias[:, 0, 0]).tolist() == [[False, True, False, False, False], [False] * 5]
    assert not bias[~torch.isneginf(bias)].any()


def test_the_pooled_vector_speaks(dit):
    made = make_conditioning(2)
    loud = Conditioning(txt=made.txt, image=made.image, vec=torch.ones(1, POOLED) * 3, null_vec=made.null_vec)
    both = Weights(mllm=1.0, vae=1.0)
    assert furthest(velocity(dit, made, both), velocity(dit, loud, both)) > 1e-3, "vec never reaches the transformer"
