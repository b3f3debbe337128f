"""What the aggregation makes of hidden states: all modes, each layer normalised by itself, picture and text apart."""

import pytest
import torch
import torch.nn.functional as F
from tiny import LAYERS, PICTURE_TOKENS, POOLED, TEXT_WIDTH, WIDTH, furthest, make_aggregation, randomised

from squeeze.models.aggregation import MODES, Aggregation, LayerPool, Native

TEXT = 5
IMAGE = torch.arange(PICTURE_TOKENS + TEXT) < PICTURE_TOKENS


def states(seed=0, batch=2, length=PICTURE_TOKENS + TEXT):
    return torch.randn(batch, length, LAYERS, WIDTH, generator=torch.Generator().manual_seed(seed))


def features(seed=1, batch=2):
    return torch.randn(batch, PICTURE_TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def squeezed(model, hidden=None, image=IMAGE, vision=None, valid=None):
    return model(states() if hidden is None else hidden, image, features() if vision is None else vision, valid)


@pytest.fixture(scope="module", params=[(mode, refiner) for mode in MODES for refiner in (True, False)], ids=str)
def model(request):
    return make_aggregation(*request.param)


def test_shapes(model):
    out = squeezed(model)
    assert out.txt.shape == (2, PICTURE_TOKENS + TEXT, TEXT_WIDTH)
    assert out.vec.shape == (2, POOLED)
    assert torch.equal(out.image, IMAGE)
    assert bool(out.txt.isfinite().all())


def test_without_aggregation_the_last_state_is_kept_alone():
    out = Native()(states(), IMAGE)
    assert torch.equal(out.txt, states()[:, :, -1])
    assert out.txt.untyped_storage().nbytes() == out.txt.nbytes, "a cache would hold every layer and count one"


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, found = Aggregation.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"] + found["unexpected_keys"], found
    assert loaded.config["mode"] == model.config["mode"]
    before, after = squeezed(model), squeezed(loaded.eval())
    assert torch.equal(before.txt, after.txt)
    assert torch.equal(before.vec, after.vec)
    assert torch.equal(model.null_vec, loaded.null_vec)


def test_every_weight_is_used(model):
    out = model.requires_grad_(True)(states(), IMAGE, features())
    (out.txt.sum() + (out.txt**2).sum() + out.vec.sum()).backward()
    unused = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    model.requires_grad_(False).zero_grad()
    assert unused == ["null_vec"], f"these weights change nothing: {unused}"


def test_padding_changes_nothing(model):
    valid = torch.tensor([[True] * 9, [True] * 7 + [False] * 2])
    hidden = states()
    hidden[1, 7:] = 1e3
    together = squeezed(model, hidden, valid=valid)
    alone = squeezed(model, hidden[1:, :7], IMAGE[:7], features()[1:])
    assert furthest(together.txt[1:, :7], alone.txt) < 1e-5, "the refiner attends to padding"
    assert furthest(together.vec[1:], alone.vec) < 1e-5, "padding is averaged into the pooled vector"
    whole = squeezed(model, hidden[:1], vision=features()[:1])
    assert furthest(together.txt[:1], whole.txt) < 1e-5
    assert furthest(together.vec[:1], whole.vec) < 1e-5


def test_rows_of_a_batch_do_not_see_each_other(model):
    both = squeezed(model)
    second = squeezed(model, states()[1:], vision=features()[1:])
    assert furthest(both.txt[1:], second.txt) < 1e-5


def test_a_scaled_layer_changes_nothing(model):
    hidden = states()
    loud = hidden.clone()
    loud[:, :, LAYERS - 1] *= 1000
    loud[:, :, 1] *= 30
    assert furthest(squeezed(model, loud).txt, squeezed(model, hidden).txt) < 1e-3, (
        "an outlier layer drowns the others: each layer must be normalised by itself, before anything"
    )


def test_the_pooled_vector_is_of_the_text_alone(model):
    if len(model.refine) == 0:
        other = states()
        other[:, :PICTURE_TOKENS] = states(9)[:, :PICTURE_TOKENS]
        assert torch.equal(squeezed(model, other).vec, squeezed(model).vec), "picture tokens leak into vec"
    changed = states()
    changed[:, PICTURE_TOKENS:] = states(9)[:, PICTURE_TOKENS:]
    assert furthest(squeezed(model, changed).vec, squeezed(model).vec) > 1e-3


def test_without_text_the_pooled_vector_is_the_null_vector(model):
    out = squeezed(model, states(length=PICTURE_TOKENS), IMAGE[:PICTURE_TOKENS])
    assert torch.equal(out.vec, model.null_vec.expand(2, -1)), "the mean of no tokens"


@pytest.mark.parametrize("mode", ["single_lap", "dla"])
def test_every_layer_and_its_place_matter(mode):
    model, before = make_aggregation(mode), squeezed(make_aggregation(mode)).txt
    for layer in range(LAYERS):
        changed = states()
        changed[:, :, layer] = states(7)[:, :, layer]
        assert furthest(squeezed(model, changed).txt, before) > 1e-3, f"layer {layer} is not read"
    assert furthest(squeezed(model, states().flip(2)).txt, before) > 1e-3, "layers are not told apart"


@pytest.mark.parametrize("mode", ["last_layer", "last_layer_blend_vit"])
def test_the_last_layer_modes_read_the_last_layer_alone(mode):
    model, before = make_aggregation(mode), squeezed(make_aggregation(mode)).txt
    changed = states(7)
    changed[:, :, -1] = states()[:, :, -1]
    assert torch.equal(squeezed(model, changed).txt, before)
    assert furthest(squeezed(model, states(7)).txt, before) > 1e-3


def test_dla_shares_nothing_and_single_lap_everything():
    two, one = make_aggregation("dla", False), make_aggregation("single_lap", False)
    assert not {id(p) for p in two.image_lap.parameters()} & {id(p) for p in two.text_lap.parameters()}
    assert not hasattr(one, "text_lap")
    alike = states(length=1).expand(-1, PICTURE_TOKENS + TEXT, -1, -1)  # one state at every position
    single = squeezed(one, alike).txt
    assert furthest(single[:, :1], single[:, -1:]) < 1e-5, "single_lap treats picture and text differently"
    dual = squeezed(two, alike).txt
    assert furthest(dual[:, :1], dual[:, -1:]) > 1e-2, "dla treats picture and text alike"


@pytest.mark.parametrize(("lap", "moved"), [("image_lap", slice(0, PICTURE_TOKENS)), ("text_lap", slice(4, None))])
def test_each_lap_of_dla_reaches_its_own_tokens_alone(lap, moved):
    before, model = squeezed(make_aggregation("dla", False)).txt, make_aggregation("dla", False)
    randomised(getattr(model, lap), 77)
    changed = (squeezed(model).txt - before).abs().amax((0, 2)) > 1e-4
    expected = torch.zeros(PICTURE_TOKENS + TEXT, dtype=torch.bool)
    expected[moved] = True
    assert torch.equal(changed, expected), f"{lap} reads the wrong tokens"


def test_only_the_refiner_lets_tokens_see_each_other():
    changed = states()
    changed[:, -1] = states(9)[:, -1]
    for refiner in (False, True):
        model = make_aggregation("dla", refiner)
        seen = furthest(squeezed(model, changed).txt[:, :-1], squeezed(model).txt[:, :-1]) > 1e-4
        assert seen == refiner, "picture tokens must see the prompt through the refiner, and not without it"


def test_a_fresh_lap_is_the_mean_of_the_normalised_layers():
    fresh = LayerPool(LAYERS, WIDTH, 4, 1.5)
    hidden = 5 * states()
    mean = (F.rms_norm(hidden, (WIDTH,), eps=1e-6) + fresh.layer_embedding).mean(2)
    with torch.inference_mode():
        assert furthest(fresh(hidden), mean) < 1e-5, "a LAP must start at the mean over layers, its blocks at nothing"
    assert fresh.layer_embedding.abs().max() < 0.2, "the layer embedding must start small"


def test_a_lap_sees_each_token_by_itself():
    lap = randomised(LayerPool(LAYERS, WIDTH, 4, 1.5), 3)
    with torch.inference_mode():
        assert furthest(lap(states())[:, 3:4], lap(states()[:, 3:4])) < 1e-5


def test_the_blend_needs_vision_and_uses_it():
    model = make_aggregation("last_layer_blend_vit", False)
    with pytest.raises(ValueError, match="vision"):
        model(states(), IMAGE)
    before, after = squeezed(model).txt, squeezed(model, vision=features(5)).txt
    assert furthest(before[:, :PICTURE_TOKENS], after[:, :PICTURE_TOKENS]) > 1e-2
    assert torch.equal(before[:, PICTURE_TOKENS:], after[:, PICTURE_TOKENS:]), "vision leaks into the text tokens"
    with torch.inference_mode():
        model.blend.fill_(-50)
    plain = make_aggregation("last_layer", False)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "blend"})
    assert furthest(squeezed(model).txt, squeezed(plain).txt) < 1e-5, "without a share of vision it is the last layer"


def test_vision_of_two_references_comes_in_one_or_two_rows():
    model = make_aggregation("last_layer_blend_vit")
    image = torch.arange(2 * PICTURE_TOKENS + TEXT) < 2 * PICTURE_TOKENS
    hidden, vision = states(batch=1, length=len(image)), features(batch=2)
    rows = squeezed(model, hidden, image, vision)
    assert torch.equal(rows.txt, squeezed(model, hidden, image, vision.reshape(1, -1, WIDTH)).txt)


def test_mistakes_of_ours_are_named():
    with pytest.raises(ValueError, match="before text"):
        make_aggregation()(states(), ~IMAGE)
    with pytest.raises(ValueError, match="first_layer"):
        Aggregation(mode="first_layer")


@pytest.mark.parametrize("mode", ["single_lap", "dla"])
def test_only_the_layers_named_are_read(mode: str):
    model = randomised(
        Aggregation(
            layers=LAYERS, width=WIDTH, text_width=TEXT_WIDTH, pooled_width=POOLED, heads=4, refiner_heads=4,
            mlp_ratio=1.5, mode=mode, read=[1, 3],
        ), 2,
    )  # fmt: skip
    before = squeezed(model).txt
    for layer in range(LAYERS):
        hidden = states()
        hidden[:, :, layer] = hidden[:, :, layer].flip(-1)
        changed = not torch.equal(squeezed(model, hidden).txt, before)
        assert changed == (layer in (1, 3)), f"layer {layer} is {'' if changed else 'not '}read"


@pytest.mark.parametrize("read", [[], [LAYERS], [-1, 0]])
def test_layers_that_are_not_there_are_refused(read: list[int]):
    with pytest.raises(ValueError, match="read must name hidden states"):
        Aggregation(layers=LAYERS, width=WIDTH, heads=4, read=read)
