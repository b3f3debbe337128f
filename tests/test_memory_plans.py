"""Memory plans: sizes read before loading, the largest that fits, and modules that take turns without a bit changed."""

from dataclasses import replace

import bitsandbytes
import psutil
import pytest
import torch
from tiny import make_aggregation, make_internvl, make_longcat, make_transformer, make_vae, tiny_profile
from torch import nn

from squeeze.models import memory, turns
from squeeze.models.hoisting import hoist
from squeeze.models.memory import GIB, PLANS, Sizes, choose, measure, weight_bytes
from squeeze.models.sources import LoadError, Located
from squeeze.models.turns import Turns

SIZES = Sizes(
    mllm=8 * GIB, aggregation=2 * GIB, transformer=16 * GIB, modulation=6 * GIB, vae=GIB, lora=0, table=GIB // 2,
    reading=2 * GIB, drawing=3 * GIB,
)  # fmt: skip
NEEDED = {"resident": 36.5, "swap": 26.5, "lean": 21.0}  # GiB, by hand


@pytest.mark.parametrize("name", PLANS)
def test_the_peak_of_each_plan(name):
    plan = choose(name, SIZES, "cuda:0", 80 * GIB)
    assert plan.peak == NEEDED[name] * GIB
    there = plan.there()
    together = any({"MLLM", "transformer"} <= set(parts) for parts in there.values())
    assert together == (name == "resident"), "MLLM and transformer are on the card together"
    assert plan.hoisted == ("modulation" not in there["drawing"]) == ("table" in there["drawing"]) == (name == "lean")


@pytest.mark.parametrize(
    ("free", "expected"),
    [(80, "resident"), (36.5, "resident"), (36.4, "swap"), (26.5, "swap"), (26.4, "lean"), (21, "lean")],
)
def test_auto_takes_the_first_that_fits(free, expected):
    assert choose("auto", SIZES, "cuda:0", int(free * GIB)).name == expected


def test_where_nobody_counts_everything_fits():
    assert choose("auto", SIZES, "cpu", None).name == "resident"
    assert [choose(name, SIZES, "cpu", None).name for name in PLANS] == list(PLANS)


def test_too_little_memory_is_said_with_the_numbers():
    with pytest.raises(LoadError) as none:
        choose("auto", SIZES, "cuda:0", 15 * GIB)
    for figure in ("cuda:0", "15.0 GiB are free", "resident about 36.5", "swap about 26.5", "lean about 21.0"):
        assert figure in str(none.value)
    with pytest.raises(LoadError) as one:
        choose("resident", SIZES, "cuda:0", 30 * GIB)
    assert str(one.value) == (
        "Memory plan resident needs about 36.5 GiB and 30.0 GiB are free on cuda:0. Use --memory swap, which needs "
        "about 26.5 GiB."
    )
    with pytest.raises(LoadError, match="No memory plan fits"):
        choose("lean", SIZES, "cuda:0", 15 * GIB)
    with pytest.raises(LoadError, match=r"no memory plan 'tiny'.*auto, resident, swap, lean"):
        choose("tiny", SIZES, "cuda:0", 15 * GIB)


def test_the_text_says_what_goes_where():
    text = choose("auto", SIZES, "cuda:0", 24 * GIB).as_text()
    assert text.splitlines() == [
        "Memory plan lean on cuda:0 (estimates in GiB: 21.0 needed, 24.0 free):",
        "  while reading: MLLM 8.0, aggregation 2.0, VAE 1.0, work 2.0, spare 0.5 = 13.5",
        "  while drawing: transformer 16.0, table 0.5, VAE 1.0, work 3.0, spare 0.5 = 21.0",
        "  kept in host memory: 32.0",
    ]
    everything = choose("auto", SIZES, "cuda:0", 80 * GIB).as_text()
    assert "kept in host memory" not in everything
    assert everything.splitlines()[-1] == "  in host memory while loading: 22.0"
    assert "MLLM 8.0, aggregation 2.0, transformer 16.0, modulation 6.0, VAE 1.0" in everything


@pytest.mark.parametrize(
    ("name", "lora", "needed"),
    [("swap", 0, 32), ("lean", 0, 32), ("swap", 4, 36), ("resident", 4, 26)],
)
def test_host_memory_that_can_never_hold_the_weights(name, lora, needed):
    sizes, host = replace(SIZES, lora=lora * GIB), needed * GIB
    with pytest.raises(LoadError, match=rf"plan {name} takes {needed}\.0 GiB of host memory .* Take one with more"):
        choose(name, sizes, "cuda:0", 80 * GIB, host - 1)
    plan = choose(name, sizes, "cuda:0", 80 * GIB, host)
    assert (f"in host memory while loading: {needed}.0" in plan.as_text()) == (name == "resident" or lora > 0)
    assert choose(name, sizes, "cpu", None, GIB).name == name, "nobody plans a CPU's memory"


def test_weights_that_are_only_read_need_no_host_memory():
    assert choose("resident", SIZES, "cuda:0", 80 * GIB, GIB).name == "resident"


def test_a_container_may_have_less_than_the_machine(tmp_path, monkeypatch):
    machine = psutil.virtual_memory().total
    files = {"limited": str(3 * GIB), "free": "max\n", "more": str(10**18)}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for names, expected in ((["free", "gone", "more"], machine), (["gone", "limited"], 3 * GIB)):
        monkeypatch.setattr(memory, "CGROUP_LIMITS", [tmp_path / name for name in names])
        assert memory.host_bytes() == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.host_bytes() == 3 * GIB // 2, "two processes load their weights beside one another"


# --- sizes from files -----------------------------------------------------------------------------------------------


@pytest.fixture
def parts(folder):
    """The parts of a tiny model, by name."""
    names = ("mllm", "aggregation", "transformer", "vae")
    return {name: Located(path=folder / name, origin="", restore=f"Restore {name}.") for name in names}


def loaded(module, item):
    return sum(tensor.numel() * item for tensor in module.state_dict().values())


@pytest.mark.parametrize(("dtype", "item"), [("float32", 4), ("bfloat16", 2)])
def test_sizes_are_those_of_the_loaded_parts_at_the_profiles_precision(folder, parts, dtype, item):
    sizes = measure(replace(tiny_profile(folder), dtype=dtype), parts)
    assert sizes.mllm == loaded(make_internvl(21).model, item)
    assert sizes.aggregation == loaded(make_aggregation(), item)
    assert sizes.transformer + sizes.modulation == loaded(make_transformer(), item)
    assert sizes.modulation == hoist(make_transformer()).bytes().weights * item // 4
    preview = 3 * 64 * (4 * 9 + 1) * item
    assert sizes.vae == loaded(make_vae(), item) + preview
    rest = {name: parts[name] for name in ("mllm", "transformer", "vae")}
    without = measure(tiny_profile(folder), rest)
    assert (without.aggregation, without.lora) == (0, 0)
    (weights,) = (folder / "aggregation").glob("*.safetensors")
    assert measure(tiny_profile(folder), rest | {"lora": parts["aggregation"]}).lora == weights.stat().st_size


def test_a_table_of_any_schedule_fits_its_estimate(folder, parts):
    profile = tiny_profile(folder)
    model = make_transformer()
    hoisting = hoist(model)
    vecs = list(torch.randn(3, 1, model.config.pooled_projection_dim).unbind())
    hoisting.prepare([i / profile.limits.steps for i in range(profile.limits.steps)], vecs)
    assert 0.9 <= hoisting.bytes().table / measure(profile, parts).table <= 1


def test_larger_pictures_and_references_take_more_work(folder, parts):
    profile = replace(tiny_profile(folder), size=1024)
    small, large = (measure(replace(profile, size=size), parts).drawing for size in (512, 1024))
    assert large > 3 * small
    far = replace(profile, limits=replace(profile.limits, reference=8192, references=1))
    assert measure(far, parts).drawing > measure(replace(far, at_target=True), parts).drawing, "references cost too"


def test_in_8_bit_the_language_models_layers_take_a_byte_a_number(parts):
    whole, halved = (weight_bytes(parts["mllm"].path, 2, eight_bit=on) for on in (False, True))
    model = make_internvl(21)
    linear = [part for part in model.model.language_model.layers.modules() if isinstance(part, nn.Linear)]
    saved = sum(part.weight.numel() - 4 * part.out_features for part in linear)
    assert whole - halved == saved


def test_a_damaged_configuration_is_named(folder, parts, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LoadError, match=f"The weights in {tmp_path} are damaged.*Restore vae"):
        measure(tiny_profile(folder), parts | {"vae": replace(parts["vae"], path=tmp_path)})


# --- turns ----------------------------------------------------------------------------------------------------------

CARD = torch.device("cpu")  # stands for a card: what is there is told by who copied it, see `card`


@pytest.fixture
def card(monkeypatch):
    """A card made of copies: gives the set of addresses that are on it. What was not copied there is in host memory."""
    there, alive = set(), []

    def moved(tensor, device):
        copy = tensor.clone()
        alive.append(copy)  # so that no address is used twice
        if device is CARD:
            there.add(copy.data_ptr())
        return copy

    monkeypatch.setattr(turns, "HOST", torch.device("cpu"))
    monkeypatch.setattr(turns, "_moved", moved)
    return there


def addresses(module):
    """Of everything that a module computes with, what 8-bit layers hold beside their parameters included."""
    states = [part.state for part in module.modules() if isinstance(part, bitsandbytes.nn.Linear8bitLt)]
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [tensor for state in states for tensor in (state.CB, state.SCB) if tensor is not None]
    tensors += [
        tensor
        for part in module.modules()
        for tensor in (getattr(getattr(part, "weight", None), "CB", None),)
        if tensor is not None
    ]
    return {tensor.data_ptr() for tensor in tensors if tensor.numel()}


class EightBit(nn.Module):
    """Two 8-bit layers, one with a bias, a norm and a buffer, as a language model has them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        options = {"has_fp16_weights": False, "threshold": 6.0}
        self.first = bitsandbytes.nn.Linear8bitLt(16, 32, bias=True, **options)
        self.second = bitsandbytes.nn.Linear8bitLt(32, 16, bias=False, **options)
        self.norm = nn.LayerNorm(16)
        self.register_buffer("scale", torch.full((1,), 0.5))
        self.to("cpu")  # which is what makes 8-bit layers of them

    def forward(self, x):
        return self.norm(self.second(self.first(x)) * self.scale)


@pytest.mark.parametrize("used", [False, True])
def test_modules_take_turns_and_not_a_bit_changes(card, used):
    reader, drawer = EightBit().eval(), make_longcat()
    x = torch.randn(3, 16)
    expected = EightBit().eval()(x)
    weights = {name: weight.clone() for name, weight in drawer.state_dict().items()}
    if used:
        reader(x)
    taking = Turns({"reading": [reader], "drawing": [drawer]}, CARD)
    assert not (addresses(reader) | addresses(drawer)) & card, "something was left on the card"
    for turn in range(3):
        taking.take("reading")
        assert addresses(reader) <= card, "something of the reader did not come along"
        assert not addresses(drawer) & card, "something of the drawer was left on the card"
        assert torch.equal(reader(x), expected), "what it computes has changed"
        taking.take("drawing")
        assert addresses(drawer) <= card
        assert not addresses(reader) & card, "something of the reader was left on the card"
        assert all(torch.equal(weight, weights[name]) for name, weight in drawer.state_dict().items())
        taking.take("drawing")
        assert taking.moves == {"reading": turn + 1, "drawing": turn + 1}, "it moved though it was there"
    taking.clear()
    assert not (addresses(reader) | addresses(drawer)) & card


def test_a_buffer_that_was_replaced_is_not_forgotten(card):
    """The tables of a hoisted transformer change with every schedule."""
    drawer = make_transformer()
    hoisting = hoist(drawer)
    taking = Turns({"reading": [nn.Linear(1, 1)], "drawing": [drawer]}, CARD)
    for times in ([0.9, 0.5], [0.8, 0.4], [0.8, 0.4]):
        taking.take("drawing")
        hoisting.prepare(times, [torch.ones(1, drawer.config.pooled_projection_dim)])
        tables = {name: buffer.clone() for name, buffer in drawer.named_buffers()}
        taking.take("reading")
        taking.take("drawing")
        assert all(torch.equal(buffer, tables[name]) for name, buffer in drawer.named_buffers())


def test_weights_that_moved_in_inference_mode_can_be_used_outside(card):
    linear = nn.Linear(2, 2)
    with torch.inference_mode():
        Turns({"reading": [nn.Linear(1, 1)], "drawing": [linear]}, CARD).take("drawing")
    linear(torch.ones(1, 2)).sum().backward()
    assert linear.weight.grad is not None


def test_where_the_card_is_full_everything_leaves_and_the_next_turn_works(card, monkeypatch):
    reader, drawer = EightBit().eval(), make_longcat()
    taking = Turns({"reading": [reader], "drawing": [drawer]}, CARD)
    taking.take("reading")
    moved, count = turns._moved, []

    def full(tensor, device):
        count.append(tensor)
        if device is CARD and len(count) > 5:
            raise torch.OutOfMemoryError("full")
        return moved(tensor, device)

    with monkeypatch.context() as patch:
        patch.setattr(turns, "_moved", full)
        with pytest.raises(torch.OutOfMemoryError):
            taking.take("drawing")
    assert not (addresses(reader) | addresses(drawer)) & card, "half of it was left on the card"
    taking.take("drawing")
    assert addresses(drawer) <= card


def test_a_resident_plan_moves_nothing():
    linear = nn.Linear(2, 2)
    before = addresses(linear)
    taking = Turns({}, CARD)
    taking.take("drawing")
    taking.clear()
    assert addresses(linear) == before
    assert not taking.moves
