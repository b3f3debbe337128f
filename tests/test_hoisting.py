"""Hoisted modulations: the same velocities, the weights away from the device, and no row that is another's."""

import pytest
import torch
from tiny import POOLED, TEXT_WIDTH, furthest, make_longcat, make_transformer

from squeeze.models.hoisting import Hoisted, hoist, is_modulation
from squeeze.sampling import grid_ids, schedule

TIMES = schedule(25, 1.15)[:-1]
IDS = grid_ids(2, 4)
MODELS = {
    "flux": make_transformer,
    "flux with guidance": lambda: make_transformer(guidance_embeds=True),
    "longcat": make_longcat,
}


def vectors(count=2):
    return list(torch.randn(count, 1, POOLED, generator=torch.Generator().manual_seed(1)).unbind())


@torch.inference_mode()
def forward(model, t, vec, guidance=2.0, batch=1):
    generator = torch.Generator().manual_seed(2)
    options = {}
    if hasattr(model, "time_text_embed"):
        options["pooled_projections"] = vec.to(model.dtype)
        if model.config.guidance_embeds:
            options["guidance"] = torch.full((batch,), guidance)
    return model(
        hidden_states=torch.randn(1, len(IDS), model.config.in_channels, generator=generator)
        .expand(batch, -1, -1)
        .to(model.dtype),
        encoder_hidden_states=torch.randn(1, 5, TEXT_WIDTH, generator=generator).expand(batch, -1, -1).to(model.dtype),
        timestep=torch.as_tensor(t).float().expand(batch),
        img_ids=IDS,
        txt_ids=torch.zeros(5, 3),
        return_dict=False,
        **options,
    )[0].float()


@pytest.mark.parametrize("name", MODELS)
def test_hoisted_equals_not_hoisted_over_a_schedule(name):
    plain, model = MODELS[name](), MODELS[name]()
    hoisting = hoist(model)
    hoisting.prepare(TIMES, vectors(), guidance=2.0)
    for t in TIMES:
        for vec in vectors():
            there, here = forward(plain, t, vec), forward(model, t, vec)
            assert furthest(there, here) <= 1e-5, f"another row was looked up at t = {t}"
    assert furthest(forward(plain, TIMES[0], vectors()[0]), forward(plain, TIMES[-1], vectors()[0])) > 1e-2, (
        "time says nothing: this test tests nothing"
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_row_of_a_batch_is_its_own(name):
    plain, model = MODELS[name](), MODELS[name]()
    hoist_rows = hoist(model)
    hoist_rows.prepare(TIMES[:5], vectors(), guidance=2.0)
    times, vec = torch.tensor([TIMES[3], TIMES[1]]), torch.cat(vectors())
    assert furthest(forward(plain, times, vec, batch=2), forward(model, times, vec, batch=2)) <= 1e-5


def test_in_half_precision_times_that_round_alike_still_find_their_row():
    plain, model = make_transformer().bfloat16(), make_transformer().bfloat16()
    hoist(model).prepare(schedule(100, 1.15)[:-1], vectors())
    for t in schedule(100, 1.15)[:-1:9]:
        assert furthest(forward(plain, t, vectors()[0]), forward(model, t, vectors()[0])) <= 0.05


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_leave_the_model_and_the_rest_stays(name):
    plain, model = MODELS[name](), MODELS[name]()
    hoisting = hoist(model)
    gone = {key: value for key, value in plain.state_dict().items() if is_modulation(key)}
    assert set(model.state_dict()) == set(plain.state_dict()) - set(gone), "is_modulation and hoist disagree"
    assert hoisting.bytes().weights == sum(value.nbytes for value in gone.values()) > 0
    assert hoisting.bytes().table == 0
    vecs = vectors() if hasattr(model, "time_text_embed") else []
    hoisting.prepare(TIMES, vecs)
    width = sum(value.shape[0] for key, value in gone.items() if key.endswith("bias"))
    assert hoisting.bytes().table == len(TIMES) * max(1, len(vecs)) * width * 4
    assert type(model).forward is type(plain).forward
    assert "forward" not in vars(model), "a forward was replaced"


def test_a_row_that_was_not_prepared_is_said_and_not_guessed():
    model = make_transformer(guidance_embeds=True)
    hoisting = hoist(model)
    known, unknown = vectors()
    with pytest.raises(LookupError, match="among the 0 rows"):
        forward(model, TIMES[0], known)
    hoisting.prepare(TIMES[:3], [known], guidance=2.0)
    forward(model, TIMES[1], known)
    for t, vec, guidance in ((TIMES[4], known, 2.0), (TIMES[1], unknown, 2.0), (TIMES[1], known, 2.5)):
        with pytest.raises(LookupError, match=f"t = {t:.6g} .*call prepare"):
            forward(model, t, vec, guidance)


def test_a_schedule_takes_the_place_of_the_one_before_and_is_computed_once():
    model = make_transformer()
    hoisting = hoist(model)
    hoisting.prepare(TIMES[:3], vectors())
    tables = [module.table for module in model.modules() if isinstance(module, Hoisted)]
    assert len(tables) == 5, "one double block has two, two single blocks one each, and the last norm one"
    hoisting.prepare(TIMES[:3], vectors())
    again = [module.table for module in model.modules() if isinstance(module, Hoisted)]
    assert all(a is b for a, b in zip(tables, again, strict=True)), "the same schedule was computed twice"
    hoisting.prepare(TIMES[3:5], vectors())
    forward(model, TIMES[4], vectors()[1])
    with pytest.raises(LookupError):
        forward(model, TIMES[0], vectors()[1])


def test_an_interrupted_preparation_leaves_no_wrong_rows(monkeypatch):
    model = make_transformer()
    hoisting = hoist(model)
    hoisting.prepare(TIMES[:3], vectors())
    calls = []

    def full(*args):
        calls.append(args)
        if len(calls) > 2:
            raise torch.OutOfMemoryError("full")
        return torch.nn.functional.linear(*args)

    with monkeypatch.context() as patch:
        patch.setattr("squeeze.models.hoisting.F.linear", full)
        with pytest.raises(torch.OutOfMemoryError):
            hoisting.prepare(TIMES[3:6], vectors())
    with pytest.raises(LookupError):
        forward(model, TIMES[3], vectors()[0])
    hoisting.prepare(TIMES[3:6], vectors())
    assert furthest(forward(model, TIMES[3], vectors()[0]), forward(make_transformer(), TIMES[3], vectors()[0])) <= 1e-5


def test_compiled_blocks_look_their_rows_up_too():
    plain, model = make_transformer(), make_transformer()
    hoisting = hoist(model)
    model.compile_repeated_blocks(backend="eager", dynamic=True, fullgraph=True)

    def same(times):
        hoisting.prepare(times, vectors())
        for t in times:
            for vec in vectors():
                assert furthest(forward(plain, t, vec), forward(model, t, vec)) <= 1e-5, "a row was compiled in"

    same(TIMES[:4])
    with torch._dynamo.config.patch(error_on_recompile=True):
        same(TIMES[:3])
