"""Adapters: merged is unmerged, nothing of peft is left, and each thing that does not fit has its own sentence."""

import json
import re
import shutil

import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import POOLED, TEXT_WIDTH, furthest, make_conditioning, make_identity, on_cpu, write_adapter, write_paper

from squeeze.balance import Weights
from squeeze.models.dit import Dit
from squeeze.models.loading import LoadError, load
from squeeze.models.profiles import PROFILES
from squeeze.sampling import draw_noise, grid_ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("paper")
    write_paper(path)
    write_adapter(path / "adapter")
    return path


@pytest.fixture(scope="module")
def models(folder):
    return load(on_cpu("paper", folder), adapter=folder / "adapter")


@torch.inference_mode()
def velocity(transformer):
    return Dit(transformer).velocity(
        next(draw_noise(1, 8, 16)), grid_ids(2, 4), 0.6, conditioning=make_conditioning(1), identity=make_identity(2),
        weights=Weights(mllm=1.0, vae=1.0), guidance=1.0,
    )  # fmt: skip


def test_merged_is_unmerged(folder, models):
    bare = FluxTransformer2DModel.from_pretrained(folder / "transformer").eval()
    base = velocity(bare)
    tuned = PeftModel.from_pretrained(bare, folder / "adapter" / "lora").base_model.model.eval()
    assert furthest(velocity(models.dit.model), velocity(tuned)) <= 1e-4
    assert furthest(velocity(tuned), base) > 1e-2, "the LoRA does nothing, so nothing is shown"


def test_nothing_of_peft_is_left(models):
    assert type(models.dit.model) is FluxTransformer2DModel
    names = [name for name, _ in models.dit.model.named_modules() if "lora" in name or "base_layer" in name]
    assert not names


def test_what_it_says_becomes_the_profiles(models):
    assert (models.profile.tau1, models.profile.tau2) == (0.9, 0.4), "the adapter's borders, not the row's"
    assert models.profile.licence.endswith("Adapter: CC0")
    assert "Non-Commercial" in models.profile.licence


def test_its_revision_is_part_of_the_models(folder, models, tmp_path):
    other = shutil.copytree(folder / "adapter", tmp_path / "other")
    rewrite(other, revision="another")
    assert load(on_cpu("paper", folder), adapter=other).revision != models.revision
    assert load(on_cpu("paper", folder), adapter=folder / "adapter").revision == models.revision


def test_without_one_the_profile_says_what_it_is():
    with pytest.raises(LoadError) as refused:
        load(PROFILES["paper"])
    said = str(refused.value)
    assert "needs an adapter" in said
    assert "aggregation/, lora/ and adapter.json" in said, "what one is"
    assert "training" in said, "how it is made"
    assert "--adapter DIR" in said


def test_a_profile_without_any_takes_none(folder):
    with pytest.raises(LoadError, match="takes no adapter"):
        load(PROFILES["plush"], adapter=folder / "adapter")


def rewrite(adapter, file="adapter.json", **said):
    path = adapter / file
    path.write_text(json.dumps(json.loads(path.read_text()) | said))


SIZES = ("layers", "width", "text_width", "pooled_width")
BASE = {name: vars(PROFILES["paper"].sources[name]) for name in ("mllm", "transformer")}
SAID = [
    ({"format": 2}, "format 2.*reads format 1"),
    ({"format": None}, "format None"),
    ({"base": BASE | {"mllm": {"repo": "OpenGVLab/InternVL3-2B-hf", "revision": "a"}}}, "made for .*InternVL3-2B-hf"),
    ({"base": BASE | {"transformer": {"repo": "me/flux", "revision": "a"}}}, "made for me/flux as its transformer"),
    ({"base": {"mllm": BASE["mllm"]}}, "repo and revision of its base's transformer"),
    ({"base": "FLUX"}, "repo and revision"),
    ({"layers": 29}, r"29 hidden states \(layers\), the language model has 4"),
    ({"width": 3584}, r"3584 values.*\(width\), the language model has 32"),
    ({"text_width": 4096}, rf"4096 .*\(text_width\), the transformer takes {TEXT_WIDTH}"),
    ({"pooled_width": 768}, rf"768 .*\(pooled_width\), the transformer takes {POOLED}"),
    ({"rank": 512}, r"lora has rank 3, adapter\.json says 512"),
    ({"layers": "many"}, "layers as a whole number, not 'many'"),
    ({"tau1": 1.5}, "tau1 as a number from 0 to 1, not 1.5"),
    ({"tau1": 0.3}, "tau1 0.3 below tau2 0.4"),
    ({"licence": ""}, "licence as a text"),
    ({"revision": 7}, "revision as a text"),
]


@pytest.fixture
def nothing_read(monkeypatch):
    monkeypatch.setattr("squeeze.models.loading._loaded", lambda *_: pytest.fail("gigabytes were read first"))


@pytest.mark.parametrize(
    ("said", "sentence"), SAID, ids=[next(iter(said)) + str(i) for i, (said, _) in enumerate(SAID)]
)
def test_each_mismatch_has_its_sentence(folder, tmp_path, nothing_read, said, sentence):
    copy = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    rewrite(copy, **said)
    for part, names in (("aggregation/config.json", SIZES), ("lora/adapter_config.json", ())):
        rewrite(copy, part, **{name: value for name, value in said.items() if name in names})
    refused(folder, copy, sentence)


@pytest.mark.parametrize("name", SIZES)
def test_an_aggregation_of_other_sizes_than_it_says(folder, tmp_path, nothing_read, name):
    copy = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    rewrite(copy, "aggregation/config.json", **{name: 7})
    refused(folder, copy, rf"aggregation has {name} 7, adapter\.json says \d+\. Correct")


def refused(folder, adapter, sentence):
    with pytest.raises(LoadError) as error:
        load(on_cpu("paper", folder), adapter=adapter)
    message = str(error.value)
    assert re.search(sentence, message), message
    assert str(adapter) in message, "the adapter's folder must be named"
    assert "\n" not in message


GONE = [
    "adapter.json", "lora/adapter_config.json", "lora/adapter_model.safetensors", "aggregation/config.json",
    "aggregation/diffusion_pytorch_model.safetensors", "lora", "",
]  # fmt: skip


@pytest.mark.parametrize("gone", GONE)
def test_parts_that_are_missing(folder, tmp_path, nothing_read, gone):
    copy = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    path = copy / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    refused(folder, copy, "missing")


CUT = ["adapter.json", "lora/adapter_model.safetensors", "lora/adapter_config.json", "aggregation/config.json"]


@pytest.mark.parametrize("file", CUT)
def test_parts_that_are_damaged(folder, tmp_path, nothing_read, file):
    copy = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    path = copy / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(folder, copy, "damaged|incomplete")


@pytest.mark.parametrize("what", ["too few", "too many", "of another shape"])
def test_weights_of_another_transformer(folder, tmp_path, what):
    copy = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    path = copy / "lora" / "adapter_model.safetensors"
    state = load_file(path)
    name = next(iter(state))
    if what == "too few":
        del state[name]
    elif what == "too many":
        state[name.replace("transformer_blocks.0", "transformer_blocks.7")] = state[name].clone()
    else:
        state[name] = torch.zeros(3, 7)
    save_file(state, path, metadata={"format": "pt"})
    refused(folder, copy, "does not fit")


def test_a_machine_that_is_full_is_not_the_loras_fault(folder, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr("peft.PeftModel.merge_and_unload", full, raising=False)
    refused(folder, folder / "adapter", "memory was full")
