"""A weight inside attention means what METHOD.md says, from no bias at 1 down to tokens that are as good as gone."""

import math

import pytest
import torch
from tiny import (
    CHANNELS,
    POOLED,
    TEXT_WIDTH,
    furthest,
    make_conditioning,
    make_identity,
    make_longcat,
    make_transformer,
)

from squeeze.balance import Weights
from squeeze.models import kernels
from squeeze.models.attention import group_bias, install, padding_bias, weighted_attention
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
    bias = group_bias([(TEXT, left["mllm"]), (IMG, 1.0), (REF, left["vae"])])
    biased = velocity(dit, same_vec(), Weights(mllm=1.0, vae=1.0), bias)
    dropped = velocity(dit, same_vec(), weights)
    assert furthest(biased, dropped) <= 1e-5, f"log w does not silence the {gone} keys, or keys are in another order"
    whole = velocity(dit, same_vec(), Weights(mllm=1.0, vae=1.0))
    assert furthest(whole, dropped) > 1e-2, "the tokens say nothing: this test tests nothing"


def test_a_bias_of_zeros_equals_none_exactly(dit):
    zeros = group_bias([(TEXT, 1.0), (IMG, 1.0), (REF, 1.0)])
    assert zeros.shape == (1, 1, 1, TEXT + IMG + REF)
    assert not zeros.any()
    both = Weights(mllm=1.0, vae=1.0)
    assert torch.equal(velocity(dit, same_vec(), both, zeros), velocity(dit, same_vec(), both))


@pytest.mark.parametrize("weights", [Weights(mllm=0.5, vae=1.0), Weights(mllm=1.0, vae=0.5)])
def test_a_half_weight_lies_between(dit, weights):
    half = velocity(dit, same_vec(), weights)
    for end in (Weights(mllm=1.0, vae=1.0), Weights(mllm=float(weights.mllm == 1), vae=float(weights.vae == 1))):
        assert furthest(half, velocity(dit, same_vec(), end)) > 1e-3, "a weight between 0 and 1 changes nothing"
    bias = group_bias([(TEXT, weights.mllm), (IMG, 1.0), (REF, weights.vae)])
    assert torch.equal(half, velocity(dit, same_vec(), Weights(mllm=1.0, vae=1.0), bias)), "the bias is on other keys"


def test_the_bias_is_the_logarithm_of_each_groups_weight():
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


# --- weighted_attention ---------------------------------------------------------------------------------------------


def queries(queries=7, keys=23, dtype=torch.float32):
    """q (2, queries, 3, 16), k and v (2, keys, 3, 16), with logits well apart."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, count, 3, 16, generator=generator) for count in (queries, keys, keys))
    return (2 * q).to(dtype), k.to(dtype), v.to(dtype)


def weighted_softmax(q, k, groups):
    """The definition, in double: each query's share of every key, times the weight of the key's group, normalised."""
    share = (torch.einsum("bshd,blhd->bhsl", q.double(), k.double()) * q.shape[-1] ** -0.5).softmax(-1)
    weights = torch.cat([torch.full((count,), weight, dtype=torch.float64) for count, weight in groups])
    return share * weights / (share * weights).sum(-1, keepdim=True)


GROUPS = [
    [(9, 0.5), (8, 1.0), (6, 1.0)],
    [(9, 1.0), (8, 1.0), (6, 0.03)],
    [(9, 0.2), (8, 1.0), (6, 0.7)],
    [(0, 0.5), (8, 1.0), (15, 0.4)],
    [(23, 0.5)],
    [(1, 1e-30), (22, 1.0)],
]


@pytest.mark.parametrize("groups", GROUPS)
def test_merged_equals_masked_equals_the_definition(groups):
    q, k, v = queries()
    masked, merged = (weighted_attention(q, k, v, groups, merge=merge).out for merge in (False, True))
    assert furthest(masked, merged) <= 1e-5, "the two ways through attention differ"
    expected = torch.einsum("bhsl,blhd->bshd", weighted_softmax(q, k, groups), v.double()).float()
    assert furthest(merged, expected) <= 1e-5, "a weight does not multiply its group's softmax mass"


def test_a_vanishing_weight_equals_keys_that_are_not_there():
    q, k, v = queries()
    for merge in (False, True):
        gone = weighted_attention(q, k, v, [(9, 1.0), (14, 1e-30)], merge=merge).out
        dropped = weighted_attention(q, k[:, :9], v[:, :9], [(9, 1.0)], merge=merge).out
        assert furthest(gone, dropped) <= 1e-5


@pytest.mark.parametrize("groups", GROUPS)
def test_the_mass_is_the_softmaxs_and_sums_to_one(groups):
    q, k, v = queries()
    attended = weighted_attention(q, k, v, groups, mass=True)
    parts = weighted_softmax(q, k, groups).split([count for count, _ in groups], -1)
    expected = torch.stack([part.sum(-1) for part in parts], -1).float()
    assert attended.mass.shape == (2, 3, 7, len(groups))
    assert furthest(attended.mass, expected) <= 1e-5, "the mass is another than the softmax gives the group"
    torch.testing.assert_close(attended.mass.sum(-1), torch.ones(2, 3, 7))
    assert furthest(attended.out, weighted_attention(q, k, v, groups).out) <= 1e-5


def test_a_group_of_mass_m_and_weight_w_gets_what_the_method_says():
    q, k, v = queries()
    whole = weighted_attention(q, k, v, [(9, 1.0), (14, 1.0)], mass=True).mass[..., 0]
    half = weighted_attention(q, k, v, [(9, 0.5), (14, 1.0)], mass=True).mass[..., 0]
    assert furthest(half, 0.5 * whole / (1 - whole + 0.5 * whole)) <= 1e-5


def test_half_precision_merges_in_single():
    q, k, v = queries(dtype=torch.bfloat16)
    merged = weighted_attention(q, k, v, GROUPS[2], merge=True).out
    assert merged.dtype == torch.bfloat16
    expected = torch.einsum("bhsl,blhd->bshd", weighted_softmax(q, k, GROUPS[2]), v.double()).float()
    assert furthest(merged.float(), expected) <= 0.02


def test_groups_that_do_not_cover_the_keys_are_refused():
    with pytest.raises(ValueError, match="must cover the 23 keys"):
        weighted_attention(*queries(), [(9, 0.5), (8, 1.0)])


def test_the_kernel_is_one_that_gives_the_right_log_sum_exp(monkeypatch):
    """What a GPU's kernels do is only known there; that a wrong or a missing one is passed over can be seen here."""
    kernels.lse_kernel.cache_clear()
    device = torch.device("meta")  # nothing of this name can run a kernel
    samples = torch.randn(3, 1, 2, 16, 8).unbind()
    wrong = lambda q, k, v: (kernels._plain(q, k, v)[0], kernels._plain(q, k, v)[1] / math.log(2))  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args: self)  # the sample stays on the CPU
    for flash, expected in ((wrong, kernels._plain), (kernels._on_cpu, kernels._on_cpu)):
        kernels.lse_kernel.cache_clear()
        monkeypatch.setattr(kernels, "_flash", flash)
        chosen = kernels.lse_kernel(device, torch.float32, 8)
        assert chosen is expected, "a kernel whose log-sum-exp is in another base was taken"
        assert furthest(chosen(*samples)[1], kernels._plain(*samples)[1]) <= 1e-5
    kernels.lse_kernel.cache_clear()


def test_a_card_that_is_full_for_a_moment_does_not_choose_the_kernel(monkeypatch):
    """The plain formula would stay until the server starts anew, and needs gigabytes where a kernel needs none."""

    def full(*qkv):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args: self)
    monkeypatch.setattr(kernels, "_flash", full)
    kernels.lse_kernel.cache_clear()
    with pytest.raises(torch.OutOfMemoryError):
        kernels.lse_kernel(torch.device("meta"), torch.float32, 8)
    monkeypatch.setattr(kernels, "_flash", kernels._on_cpu)
    assert kernels.lse_kernel(torch.device("meta"), torch.float32, 8) is kernels._on_cpu
    kernels.lse_kernel.cache_clear()
    model = make_transformer()
    install(model)
    mixes = iter((lambda q, k, v: q, full))  # torch's own first, then the backend that is tried
    monkeypatch.setattr(kernels, "_candidates", lambda device: ["_native_math"])
    monkeypatch.setattr(kernels, "dispatch_attention_fn", lambda *qkv: next(mixes)(*qkv))
    with pytest.raises(torch.OutOfMemoryError):
        kernels.pick_backend(model, torch.device("cpu"))


# --- inside the transformers ----------------------------------------------------------------------------------------

MODELS = {"flux": make_transformer, "longcat": make_longcat}
KEYS = [(5, 0.3), (8, 1.0), (6, 0.6)]


@torch.inference_mode()
def forward(model, text=5, **options):
    generator = torch.Generator().manual_seed(4)
    if hasattr(model, "time_text_embed"):
        options["pooled_projections"] = torch.ones(1, POOLED)
    txt = torch.randn(1, 5, TEXT_WIDTH, generator=generator)[:, :text]
    return model(
        hidden_states=torch.randn(1, 14, 4 * CHANNELS, generator=generator), encoder_hidden_states=txt,
        timestep=torch.tensor([0.6]), img_ids=torch.cat([IMG_IDS, grid_ids(2, 3, 1)]), txt_ids=torch.zeros(text, 3),
        return_dict=False, **options,
    )[0]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_without_weights_the_processors_are_diffusers_own(name):
    plain, model = MODELS[name](), MODELS[name]()
    weighing = install(model)
    expected = forward(plain)
    assert torch.equal(forward(model), expected)
    with weighing([(5, 1.0), (0, 0.5), (14, 1.0)]):
        assert torch.equal(forward(model), expected), "weights of 1 cost something"


@pytest.mark.parametrize("name", MODELS)
def test_merged_equals_masked_in_every_layer(name):
    model = MODELS[name]()
    weighing = install(model)
    plain = forward(model)
    out = {}
    for merge in (False, True):
        weighing.merge = merge
        with weighing(KEYS):
            out[merge] = forward(model)
    with weighing(mask=group_bias(KEYS)):
        masked = forward(model)
    assert furthest(out[False], out[True]) <= 1e-5
    assert furthest(out[False], masked) <= 1e-5, "groups and mask weigh other keys"
    assert furthest(out[False], plain) > 1e-3, "the weights do not reach attention"
    assert torch.equal(forward(model), plain), "weights stay on after their block"


def test_flux_weighs_as_through_its_own_keyword():
    model = make_transformer()
    through = forward(model, joint_attention_kwargs={"attention_mask": group_bias(KEYS)})
    with install(model)(KEYS):
        assert furthest(forward(model), through) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("merge", [False, True])
def test_a_vanishing_weight_equals_dropped_text_in_every_layer(name, merge):
    model = MODELS[name]()
    weighing = install(model)
    weighing.merge = merge
    with weighing([(5, 1e-30), (14, 1.0)]):
        gone = forward(model)
    assert furthest(gone, forward(model, text=0)) <= 1e-5
    with weighing([(0, 0.5), (8, 1.0), (6, 0.5)]):
        assert bool(forward(model, text=0).isfinite().all())


def test_another_model_has_no_processor():
    with pytest.raises(ValueError, match="no attention processor for Linear"):
        install(torch.nn.Linear(1, 1))


def test_on_a_cpu_the_backend_is_torchs_own():
    model = make_transformer()
    install(model)
    assert kernels.pick_backend(model, torch.device("cpu")) == "native"


def test_a_backend_that_fails_is_passed_over(monkeypatch):
    """Flash attention 3 is not installed and cuDNN has no CPU: both are tried, and nothing is left set."""
    model = make_transformer()
    install(model)
    before = forward(model)
    monkeypatch.setattr(kernels, "_candidates", lambda device: ["_flash_3", "_native_cudnn"])
    assert kernels.pick_backend(model, torch.device("cpu")) == "native"
    assert torch.equal(forward(model), before)
    monkeypatch.setattr(kernels, "_candidates", lambda device: ["_flash_3", "_native_math"])
    assert kernels.pick_backend(model, torch.device("cpu")) == "_native_math"
    assert {p._attention_backend.value for p in model.attn_processors.values()} == {"_native_math"}
    assert furthest(forward(model), before) <= 1e-5


def test_a_backend_that_mixes_otherwise_is_passed_over(monkeypatch):
    """It runs, but what it gives is not attention."""
    model, real, calls = make_transformer(), kernels.dispatch_attention_fn, []
    install(model)

    def wrong(*given):
        calls.append(given)
        return real(*given) * (1 if len(calls) == 1 else 2)

    monkeypatch.setattr(kernels, "dispatch_attention_fn", wrong)
    monkeypatch.setattr(kernels, "_candidates", lambda device: ["_native_math"])
    assert kernels.pick_backend(model, torch.device("cpu")) == "native"
    assert len(calls) == 2
    assert {p._attention_backend for p in model.attn_processors.values()} == {None}
