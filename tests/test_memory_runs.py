"""Whole generations under each memory plan: the same picture, a sentence on a full device, and what is cached."""

import argparse
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import furthest, make_request, on_cpu, random_picture, tiny_profile, write_adapter, write_longcat, write_paper

from squeeze.cli_models import add_models, load_models
from squeeze.events import Finished, StepDone
from squeeze.models import loading, turns
from squeeze.models.memory import GIB
from squeeze.models.sources import LoadError
from squeeze.pipeline import generate
from squeeze.request import RequestError

GENTLE = (0.1, 0.5, 0.8)  # tokens weigh between nothing and all in two of three stages


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """How to load each profile's tiny weights: the plush model's, the paper's in 8-bit, LongCat's."""
    root = tmp_path_factory.mktemp("rows")
    write_paper(root / "paper")
    write_adapter(root / "adapter")
    write_longcat(root / "longcat")
    eight_bit = replace(on_cpu("paper", root / "paper"), mllm_8bit=True)
    return {
        "paper in 8-bit": lambda **options: loading.load(eight_bit, adapter=root / "adapter", **options),
        "longcat": lambda **options: loading.load(on_cpu("longcat", root / "longcat"), **options),
    }


def drawn(models, **asked):
    """The last latent and the picture's bytes."""
    events = list(generate(models, make_request(models.profile, **{"balance": GENTLE, "previews": False} | asked)))
    latent = [event.img for event in events if isinstance(event, StepDone)][-1]
    return latent, pixels(events[-1])


def pixels(event):
    assert isinstance(event, Finished)
    return np.asarray(event.image).tobytes()


@pytest.fixture
def copies(monkeypatch):
    """Every move makes a copy, as it would between a card and the host: what is left behind cannot be used."""
    monkeypatch.setattr(turns, "_moved", lambda tensor, device: tensor.clone())


@pytest.mark.parametrize("row", ["paper in 8-bit", "longcat"])
def test_swapped_equals_resident_bit_for_bit_and_lean_nearly(rows, row, copies):
    latents = {}
    for plan in ("resident", "swap", "lean"):
        models = rows[row](memory=plan)
        for module in (models.mllm.model, models.aggregation, models.dit.model):
            for weight in module.parameters():  # sums on a CPU depend on where in a file's memory weights lie
                weight.data = weight.data.clone()
        latents[plan], picture = drawn(models)
        assert drawn(models)[1] == picture, "a second run on the same models gives another picture"
        drawn(models, prompt="in the snow")
        expected = {} if plan == "resident" else {"reading": 2, "drawing": 2}
        assert models.turns.moves == expected, "a turn was taken that was not needed, or left out"
    assert torch.equal(latents["swap"], latents["resident"])
    assert furthest(latents["lean"], latents["resident"]) <= 1e-5
    hoisted = models.hoisting.bytes()
    assert hoisted.table > 0
    assert 0 < hoisted.weights == models.plan.sizes.modulation


def test_two_runs_at_once_do_not_take_the_device_from_each_other(rows, copies):
    """In a lean plan they share MLLM, transformer and tables, step by step in turn."""
    models = rows["paper in 8-bit"](memory="lean")
    asked = [{"prompt": "on the beach", "steps": 6}, {"prompt": "in the snow", "steps": 5, "stage_steps": (2, 2, 1)}]
    alone = [drawn(models, **one)[1] for one in asked]
    models.encodings.clear()
    runs = [generate(models, make_request(models.profile, balance=GENTLE, previews=False, **one)) for one in asked]
    last = {}
    while len(last) < 2:
        for number, run in enumerate(runs):
            event = next(run, None)
            if isinstance(event, Finished):
                last[number] = pixels(event)
    assert [last[0], last[1]] == alone


# --- a device that is full ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["mllm", "transformer", "vae"])
@pytest.mark.parametrize("plan", ["resident", "lean"])
def test_a_full_device_is_said_and_the_next_request_works(folder, part, plan):
    models = loading.load(tiny_profile(folder), memory=plan)
    expected = drawn(models)
    models.encodings.clear()
    module = {"mllm": models.mllm.model, "transformer": models.dit.model, "vae": models.vae.model.decoder}[part]
    held = []

    def full(*_):
        big = torch.ones(10)
        held.append(weakref.ref(big))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = module.register_forward_pre_hook(full)
    with pytest.raises(RequestError) as caught:
        drawn(models)
    handle.remove()
    assert caught.value.code == "memory"
    smaller = "--memory swap" if plan == "resident" else "more memory is free"
    for said in ("64 × 32 pixels", "a shorter prompt", f"plan {plan}", smaller):
        assert said in str(caught.value)
    assert held[0]() is None, "the error still holds what filled the device"
    assert len(models.encodings) == 0
    again = drawn(models)
    assert torch.equal(again[0], expected[0])
    assert again[1] == expected[1]


@pytest.mark.parametrize("part", ["mllm", "transformer"])
def test_a_device_that_fails_is_said(folder, part):
    models = loading.load(tiny_profile(folder))
    module = {"mllm": models.mllm.model, "transformer": models.dit.model}[part]
    raised = [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), RuntimeError("a defect"),
    ]  # fmt: skip

    def fails(*_):
        raise raised.pop(0)

    module.register_forward_pre_hook(fails)
    with pytest.raises(RequestError) as caught:
        drawn(models)
    assert caught.value.code == "device"
    assert "failed: CUDA error: an illegal memory access was encountered. Start the program" in str(caught.value)
    with pytest.raises(RequestError) as caught:
        drawn(models)
    assert caught.value.code == "memory"
    with pytest.raises(RuntimeError, match="a defect"):
        drawn(models)


def test_too_little_memory_is_said_before_anything_is_loaded(folder, monkeypatch):
    monkeypatch.setattr(loading, "_loaded", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(loading, "free_bytes", lambda device: GIB // 10)
    with pytest.raises(LoadError, match=r"No memory plan fits on cpu: 0\.1 GiB are free, .*resident about 0\.5"):
        loading.load(tiny_profile(folder))


def test_an_unknown_plan_is_refused_before_anything_is_looked_for(tmp_path):
    with pytest.raises(LoadError, match="no memory plan 'small'"):
        loading.load(tiny_profile(tmp_path / "nowhere"), memory="small")


def test_a_device_that_fills_while_loading_is_said(folder, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(loading, "read_mllm", full)
    with pytest.raises(LoadError, match=r"plan resident does not fit on cpu after all\. Start with --memory swap"):
        loading.load(tiny_profile(folder))


def test_a_device_that_fails_while_loading_is_said(folder, monkeypatch):
    def fails(*_, **__):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with ...")

    monkeypatch.setattr("squeeze.models.parts.AutoencoderKL.from_pretrained", fails)
    with pytest.raises(LoadError, match=r"^cpu failed: CUDA error: unspecified launch failure\. Start again") as caught:
        loading.load(tiny_profile(folder))
    assert "damaged" not in str(caught.value), "the files are blamed"


def test_a_device_that_fills_while_weights_become_8_bit_is_said(rows, monkeypatch):
    """transformers keeps such an error to itself and says of every file that it cannot be converted."""
    full = []

    def convert(*_arguments, **_options):
        full.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("transformers.integrations.bitsandbytes.Bnb8bitQuantize.convert", convert)
    monkeypatch.setattr("squeeze.models.sources.refusals", lambda: len(full))
    with pytest.raises(LoadError, match=r"plan resident does not fit on cpu after all\. Start with --memory swap"):
        rows["paper in 8-bit"]()
    assert full, "nothing was quantised"


def test_the_plan_is_told_where_a_card_is_planned(folder, monkeypatch):
    told = []
    loading.load(tiny_profile(folder), report=told.append)
    assert not told, "a plan for a CPU's memory says nothing to anyone"
    monkeypatch.setattr(loading, "free_bytes", lambda device: 10 * GIB)
    models = loading.load(tiny_profile(folder), report=told.append)
    assert told == [models.plan]
    assert models.plan.as_text().startswith("Memory plan resident on cpu (estimates in GiB: 0.5 needed, 10.0 free)")


def test_the_flags_reach_the_loader_and_the_plan_is_printed_first(folder, monkeypatch):
    parser = argparse.ArgumentParser()
    add_models(parser)
    options = parser.parse_args(["--weights", str(folder), "--memory", "lean", "--compile"])
    told = []
    monkeypatch.setattr(loading, "check_compiler", told.append)  # a compiler is not needed before a first step
    models = load_models(options, tiny_profile(folder), None, told.append)
    assert told.pop(0) == torch.device("cpu")
    assert told == [models.plan.as_text()]
    assert told[0].startswith("Memory plan lean on cpu")
    assert models.dit.model.transformer_blocks[0]._compiled_call_impl is not None
    monkeypatch.setattr(loading, "_loaded", lambda *_: pytest.fail("weights were read before the plan was printed"))

    def stop(text):
        raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt, match="Memory plan lean"):
        load_models(options, tiny_profile(folder), None, stop)


@pytest.mark.skipif(not shutil.which("g++"), reason="There is no C++ compiler to compile with.")
def test_compiled_blocks_are_compiled(folder):
    plain, compiled = (loading.load(tiny_profile(folder), compiled=on).dit.model for on in (False, True))
    for model, on in ((plain, False), (compiled, True)):
        blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
        assert [block._compiled_call_impl is not None for block in blocks] == [on] * 3


# --- what is cached -------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(folder):
    """Models of their own, and how often MLLM and VAE encoded."""
    models, counts = loading.load(tiny_profile(folder)), {"mllm": 0, "vae": 0}

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    models.mllm.model.register_forward_pre_hook(count("mllm"))
    models.vae.model.encoder.register_forward_pre_hook(count("vae"))
    return models, counts


def test_a_cached_run_gives_the_bytes_of_a_fresh_one(counted, folder):
    models, counts = counted
    first, second = drawn(models), drawn(models)
    assert counts == {"mllm": 1, "vae": 1}, "the same was read twice"
    fresh = drawn(loading.load(tiny_profile(folder)))
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1] == fresh[1]


@pytest.mark.parametrize(
    ("asked", "read", "encoded"),
    [
        ({"seed": 8, "steps": 3, "stage_steps": None, "cfg": 1.0, "balance": (1.0, 1.0, 1.0)}, 1, 1),
        ({"prompt": "in the snow"}, 2, 1),
        ({"references": (random_picture(1),)}, 2, 2),
        ({"references": (random_picture(0), random_picture(0))}, 2, 3),
        ({"height": 64}, 1, 2),
    ],
)
def test_what_differs_is_read_anew_and_what_does_not_is_not(counted, folder, asked, read, encoded):
    models, counts = counted
    drawn(models)
    cached = drawn(models, **asked)
    assert counts == {"mllm": read, "vae": encoded}
    fresh = drawn(loading.load(tiny_profile(folder)), **asked)
    assert torch.equal(cached[0], fresh[0]), "something of another request was taken from the cache"
    assert cached[1] == fresh[1]
