"""What is passed to the transformer at which weights, and that the answer is of the target alone."""

from dataclasses import replace

import pytest
import torch
from tiny import CHANNELS, furthest, make_conditioning, make_identity, make_transformer

from squeeze.balance import Weights
from squeeze.models.dit import Conditioning, Dit, Identity, passed
from squeeze.sampling import grid_ids

IDS = grid_ids(2, 4)
BOTH = Weights(mllm=1.0, vae=1.0)


@pytest.fixture(scope="module")
def dit():
    return Dit(make_transformer())


@pytest.fixture
def seen(dit):
    """The keyword arguments of every forward, with the weights that its attention gets."""
    calls = []

    def note(_module, _arguments, kwargs):
        calls.append(kwargs | {"groups": dit.weighing.groups, "mask": dit.weighing.mask})

    handle = dit.model.register_forward_pre_hook(note, with_kwargs=True)
    yield calls
    handle.remove()


def noise(batch=1, seed=0):
    return torch.randn(batch, len(IDS), 4 * CHANNELS, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def velocity(dit, weights=BOTH, *, img=None, t=0.6, conditioning=None, identity=None, **options):
    return dit.velocity(
        noise() if img is None else img, IDS, t, conditioning=conditioning or make_conditioning(1),
        identity=identity or make_identity(2), weights=weights, **options,
    )  # fmt: skip


def test_full_weights_pass_everything_and_no_bias(dit, seen):
    out = velocity(dit)
    (call,) = seen
    assert call["groups"] is None, "weights of 1 must cost nothing in attention"
    assert call["mask"] is None
    assert call["hidden_states"].shape[1] == 8 + 6
    assert call["encoder_hidden_states"].shape[1] == 9
    assert torch.equal(call["img_ids"], torch.cat([IDS, make_identity(2).ref_ids]))
    assert not call["txt_ids"].any(), "FLUX's text ids are all zero"
    assert out.shape == (1, 8, 4 * CHANNELS), "the velocity must be of the target's tokens alone"


@pytest.mark.parametrize(
    ("weights", "late_text", "text", "reference", "biased"),
    [
        (Weights(mllm=1.0, vae=0.0), "drop", 9, 0, False),
        (Weights(mllm=0.0, vae=1.0), "drop", 0, 6, False),
        (Weights(mllm=0.0, vae=1.0), "keep", 5, 6, False),
        (Weights(mllm=0.0, vae=0.0), "drop", 0, 0, False),
        (Weights(mllm=0.5, vae=1.0), "drop", 9, 6, True),
        (Weights(mllm=1.0, vae=0.5), "keep", 9, 6, True),
        (Weights(mllm=0.0, vae=0.5), "drop", 0, 6, True),
    ],
)
def test_tokens_of_weight_zero_are_not_passed(dit, seen, weights, late_text, text, reference, biased):
    out = velocity(dit, weights, late_text=late_text)
    (call,) = seen
    assert call["encoder_hidden_states"].shape[1] == len(call["txt_ids"]) == text
    assert call["hidden_states"].shape[1] == len(call["img_ids"]) == 8 + reference
    assert (call["groups"] is not None) == biased
    if biased:
        assert sum(count for count, _ in call["groups"]) == text + 8 + reference
    assert bool(out.isfinite().all()), "NaN: something averages over no tokens"


def test_keep_passes_the_text_tokens_and_no_picture_token():
    conditioning = make_conditioning(3)
    txt, vec, groups = passed(conditioning, Weights(mllm=0.0, vae=1.0), "keep")
    assert torch.equal(txt, conditioning.txt[:, 4:]), "pictures come first; the text is what is kept"
    assert torch.equal(vec, conditioning.vec)
    assert groups == [(5, 1.0)], "kept text stays at weight 1"


@pytest.mark.parametrize("batch", [1, 3])
def test_without_text_tokens_the_pooled_vector_is_the_null_vector(dit, seen, batch):
    conditioning = make_conditioning(3, batch=batch)
    velocity(dit, Weights(mllm=0.0, vae=1.0), img=noise(batch), conditioning=conditioning)
    expected = conditioning.null_vec.expand(batch, -1)
    assert torch.equal(seen[0]["pooled_projections"], expected), "the prompt leaks into 'identity only' through vec"


def test_the_order_of_keys_is_text_target_reference(dit, seen):
    velocity(dit, Weights(mllm=0.5, vae=1.0))
    velocity(dit, Weights(mllm=1.0, vae=0.25))
    assert [call["groups"] for call in seen] == [((9, 0.5), (8, 1.0), (6, 1.0)), ((9, 1.0), (8, 1.0), (6, 0.25))]


@pytest.mark.parametrize("late_text", ["drop", "keep"])
@pytest.mark.parametrize("weights", [BOTH, Weights(mllm=0.5, vae=0.5), Weights(mllm=0.0, vae=1.0)])
def test_padding_changes_nothing(dit, weights, late_text):
    """Two prompts of different length in one batch against each by itself."""
    long, short = make_conditioning(4, text=5), make_conditioning(5, text=3)
    rubbish = torch.full((1, 2, short.txt.shape[-1]), 50.0)
    valid = torch.tensor([[True] * 9, [True] * 7 + [False] * 2])
    both = Conditioning(
        txt=torch.cat([long.txt, torch.cat([short.txt, rubbish], 1)]), image=long.image,
        vec=torch.cat([long.vec, short.vec]), null_vec=long.null_vec, valid=valid,
    )  # fmt: skip
    options = {"weights": weights, "late_text": late_text}
    together = velocity(dit, img=noise().expand(2, -1, -1), conditioning=both, **options)
    alone = [velocity(dit, conditioning=replace(c, null_vec=long.null_vec), **options) for c in (long, short)]
    assert furthest(together, torch.cat(alone)) < 1e-5, "padded text tokens are seen by the others"


def test_several_references(dit, seen):
    two = make_identity(6, ((2, 3), (1, 2)))
    one = Identity(ref=two.ref[:, :6], ref_ids=two.ref_ids[:6])
    whole = velocity(dit, identity=two)
    assert seen[0]["hidden_states"].shape[1] == 8 + 8
    assert whole.shape == (1, 8, 4 * CHANNELS)
    assert furthest(whole, velocity(dit, identity=one)) > 1e-3, "the second reference is not seen"
    swapped = Identity(ref=two.ref[:, [6, 7, 0, 1, 2, 3, 4, 5]], ref_ids=two.ref_ids[[6, 7, 0, 1, 2, 3, 4, 5]])
    assert furthest(whole, velocity(dit, identity=swapped)) < 1e-5, "order must be told by the ids alone"
    renamed = Identity(ref=two.ref, ref_ids=torch.cat([two.ref_ids[:6], two.ref_ids[6:] + torch.tensor([5.0, 0, 0])]))
    assert furthest(whole, velocity(dit, identity=renamed)) > 1e-5, "the ids of references do not reach the transformer"


def test_one_reference_serves_a_batch(dit):
    img = noise(3)
    together = velocity(dit, img=img, conditioning=make_conditioning(1, batch=3))
    conditioning = make_conditioning(1, batch=3)
    rows = [replace(conditioning, txt=conditioning.txt[i : i + 1], vec=conditioning.vec[i : i + 1]) for i in range(3)]
    alone = torch.cat([velocity(dit, img=img[i : i + 1], conditioning=rows[i]) for i in range(3)])
    assert furthest(together, alone) < 1e-5, "rows of a batch see each other"


def test_the_time_is_passed_as_it_is(dit, seen):
    velocity(dit, t=0.25)
    velocity(dit, img=noise(2), conditioning=make_conditioning(1, batch=2), t=torch.tensor([0.25, 1.0]))
    assert seen[0]["timestep"].tolist() == [0.25], "diffusers' FLUX multiplies by 1000 itself"
    assert seen[1]["timestep"].tolist() == [0.25, 1.0]
    assert furthest(velocity(dit, t=0.2), velocity(dit, t=0.9)) > 1e-3


def test_guidance_goes_to_models_that_have_it(dit, seen):
    velocity(dit, guidance=3.0)
    assert "guidance" not in seen[0]
    guided = Dit(make_transformer(guidance_embeds=True))
    assert furthest(velocity(guided, guidance=1.0), velocity(guided, guidance=4.0)) > 1e-3, (
        "guidance is lost on the way"
    )
