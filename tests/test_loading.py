"""Weights that are missing, damaged, or of different models are refused with the folder's name and the remedy."""

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CHANNELS, copy_with_other_weights, make_aggregation, make_vae, randomised, tiny_profile

from squeeze.models import loading
from squeeze.models.aggregation import Aggregation
from squeeze.models.loading import LoadError, load
from squeeze.models.profiles import PROFILES
from squeeze.models.sources import revision


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy of the tiny weights to break, and the function that tells what loading it says."""
    copy = shutil.copytree(folder, tmp_path / "copy")

    def said():
        with pytest.raises(LoadError) as refused:
            load(tiny_profile(copy))
        return str(refused.value)

    return copy, said


def test_everything_is_placed_and_in_evaluation_mode(models):
    for module in (models.mllm.model, models.aggregation, models.dit.model, models.vae.model):
        assert not module.training
        assert {weight.device for weight in module.parameters()} == {torch.device("cpu")}
        assert {weight.dtype for weight in module.parameters()} == {torch.float32}
    assert models.revision == revision(models.profile.folder)


def test_the_shipped_weights_load_and_are_those_of_their_record():
    folder = PROFILES["plush"].folder
    noted = json.loads((folder / "training.json").read_text())["revision"]
    assert load(PROFILES["plush"]).revision == noted, "training.json is of other weights than lie beside it"
    sizes = [path.stat().st_size for path in folder.rglob("*.safetensors")]
    assert max(sizes) < 15_000_000, "a file that git should not hold"
    assert sum(sizes) < 30_000_000, "more than a clone should bring"


def test_a_vae_without_a_preview_map_gets_one(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "vae" / "preview.safetensors").unlink()
    first, again = (load(tiny_profile(copy)).preview for _ in range(2))
    assert first.weight.shape == (192, CHANNELS, 3, 3)
    assert torch.equal(first.weight, again.weight), "another map at every start"


def test_no_folder_at_all(tmp_path):
    with pytest.raises(LoadError, match=r"no folder .*nowhere.*train plush"):
        load(tiny_profile(tmp_path / "nowhere"))


@pytest.mark.parametrize("part", ["mllm", "framing", "aggregation", "transformer", "vae"])
def test_a_missing_part(damaged, part):
    copy, said = damaged
    shutil.rmtree(copy / part)
    message = said()
    assert "missing" in message
    assert str(copy / part) in message


FILES = [
    "mllm/model.safetensors",
    "mllm/config.json",
    "mllm/tokenizer.json",
    "mllm/tokenizer_config.json",
    "mllm/preprocessor_config.json",
    "framing/diffusion_pytorch_model.safetensors",
    "framing/config.json",
    "aggregation/diffusion_pytorch_model.safetensors",
    "aggregation/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/preview.safetensors",
]
FITTED = ("vae/preview.safetensors", "gone")  # a VAE may come without one


@pytest.mark.parametrize(
    ("file", "how"), [pair for pair in product(FILES, ["gone", "cut", "rubbish", "hollow"]) if pair != FITTED]
)
def test_a_damaged_file(damaged, file, how):
    copy, said = damaged
    path = copy / file
    if how == "gone":
        path.unlink()
    elif how == "hollow":
        path.write_text("{}")
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if how == "cut" else b"\0rubbish" * 50)
    message = said()
    assert str(path.parent) in message, message
    assert "Restore" in message
    assert "\n" not in message, "one sentence, not a traceback"


@pytest.mark.parametrize("content", ["{", "[]", '{"thresholds": 1}'])
def test_a_damaged_record(damaged, content):
    copy, said = damaged
    (copy / "training.json").write_text(content)
    assert "training.json is damaged" in said()


def test_weights_for_pictures_of_another_size(tmp_path):
    copy = Path(shutil.copytree(PROFILES["plush"].folder, tmp_path / "small"))
    small = PROFILES["plush"].at(64)
    (copy / "training.json").write_text(json.dumps({"thresholds": {"shift": small.shift}}))
    with pytest.raises(LoadError, match=r"another size than 128 x 128 pixels: their schedule's shift is -0\.000"):
        load(PROFILES["plush"], folder=copy)
    load(small, folder=copy)


@pytest.mark.parametrize(
    "file",
    [
        "framing/diffusion_pytorch_model.safetensors",
        "aggregation/diffusion_pytorch_model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "mllm/model.safetensors",
    ],
)
def test_a_weight_too_few(damaged, file):
    copy, said = damaged
    state = load_file(copy / file)
    name = sorted(state)[-1]
    del state[name]
    save_file(state, copy / file, metadata={"format": "pt"})
    message = said()
    assert "missing keys" in message, "a missing weight would be drawn at random"
    assert str((copy / file).parent) in message


def test_parts_of_different_models(damaged):
    copy, said = damaged
    shutil.rmtree(copy / "aggregation")
    config = make_aggregation().config
    sizes = {name: config[name] for name in ("width", "pooled_width", "heads", "refiner_heads", "mlp_ratio")}
    randomised(Aggregation(layers=7, text_width=64, **sizes), 0).save_pretrained(copy / "aggregation")
    message = said()
    assert "do not belong together" in message
    assert "4" in message
    assert "7" in message, "the two numbers that differ must be named"


def test_a_preview_map_of_another_autoencoder(damaged):
    copy, said = damaged
    save_file(
        {"weight": torch.zeros(192, CHANNELS + 1, 3, 3), "bias": torch.zeros(192)}, copy / "vae" / "preview.safetensors"
    )
    assert "preview" in said()
    assert make_vae().config.latent_channels == CHANNELS


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_cuda_where_there_is_none(folder, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(LoadError, match="--device cpu"):
        load(tiny_profile(folder), device=device)


def no_kernels(monkeypatch):
    """A card that torch was not built for."""
    ones = torch.ones

    def fails(*shape, device="cpu", **how):
        if device == "cuda":
            raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device\nmore")
        return ones(*shape, device=device, **how)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.ones", fails)


def test_a_card_that_does_not_work(folder, monkeypatch):
    no_kernels(monkeypatch)
    with pytest.raises(LoadError, match=r"'cuda' is of no use here \(CUDA error: no .* device\)\. Use --device cpu\.$"):
        load(tiny_profile(folder), device="cuda")


def test_a_card_of_no_use_that_nobody_asked_for_is_left_alone(folder, monkeypatch):
    no_kernels(monkeypatch)
    with pytest.warns(UserWarning, match=r"no kernel image.*The CPU is used"):
        assert load(tiny_profile(folder), device="auto").device.type == "cpu"


@pytest.mark.parametrize(("device", "memory"), [("cuda", "auto"), ("auto", "resident")])
def test_a_full_card_that_nobody_asked_for_is_left_alone(folder, monkeypatch, device, memory):
    full = torch.device("cuda")
    monkeypatch.setattr(loading, "find_device", lambda name: torch.device("cpu") if name == "cpu" else full)
    monkeypatch.setattr(loading, "free_bytes", lambda place: 1000 if place == full else None)
    with pytest.raises(LoadError, match="No memory plan fits"):
        load(tiny_profile(folder), device=device, memory=memory)
    with pytest.warns(UserWarning, match=r"No memory plan fits.*The CPU is used"):
        assert load(tiny_profile(folder), device="auto").device.type == "cpu"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_a_machine_that_is_full_is_not_the_weights_fault(folder, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr("squeeze.models.parts.AutoencoderKL.from_pretrained", full)
    with pytest.raises(LoadError, match=r"memory was full while the weights in .*vae were read"):
        load(tiny_profile(folder))


@pytest.mark.parametrize("name", ["toaster", "hpu", "privateuseone"])
def test_a_device_nobody_knows(folder, name):
    with pytest.raises(LoadError, match=name):
        load(tiny_profile(folder), device=name)


def test_another_folder_of_the_same_layout(folder, tmp_path):
    copy = copy_with_other_weights(folder, tmp_path / "elsewhere")
    (copy / "training.json").unlink()
    loaded = load(tiny_profile(folder), folder=copy)
    assert (loaded.revision, loaded.profile.folder) == (revision(copy), copy)
    assert loaded.revision != revision(folder), "a recipe would not tell these weights from the others"
