"""DINO-I, CLIP-I, CLIP-T: answers known by hand, the token that is read, and checkpoints that cannot be loaded."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import random_picture
from tiny_metrics import write_metrics
from torch import Tensor

from squeeze.evaluation.metrics import CHECKPOINTS, COMMITS, Look, Metrics, load_metrics, score
from squeeze.images import open_picture
from squeeze.models.loading import LoadError

CPU = torch.device("cpu")


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_scores_by_hand():
    picture = Look(dino=rows([1, 0, 0]), clip=rows([0.6, 0.8]))
    photos = Look(dino=rows([1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]), clip=rows([0.8, 0.6], [0, 1], [1, 0], [0, 1]))
    assert score(picture, photos, rows([0, 1])) == {
        "dino_i": 0.0,  # of 1, 0, 0, -1
        "clip_i": pytest.approx((0.96 + 0.8 + 0.6 + 0.8) / 4),
        "clip_t": 0.8,
        "dino_i_reference": 1.0,
        "clip_i_reference": 0.96,
    }


def test_a_picture_against_itself_gives_one(metrics: Metrics):
    picture = random_picture(3)
    same = score(metrics.look([picture]), metrics.look([picture]), metrics.read("a dog"))
    assert (same["dino_i"], same["clip_i"]) == (1.0, 1.0)
    other = score(metrics.look([random_picture(4)]), metrics.look([picture]), metrics.read("a dog"))
    assert other["dino_i"] < 0.999, "another picture is not told from the same"
    assert other["clip_i"] < 0.999


def test_prompts_are_told_apart(metrics: Metrics):
    assert torch.equal(metrics.read("a dog"), metrics.read("A  DOG ")), "CLIP's tokenizer knows no case"
    assert float(metrics.read("a dog") @ metrics.read("a cat").T) < 0.999


def test_dino_reads_the_class_token_alone(checkpoints: Path):
    """With every block silenced, the class token has seen no patch: pictures differ in their patches only."""
    metrics = load_metrics(checkpoints, CPU)
    with torch.no_grad():
        for name, weight in metrics.dino.layers.named_parameters():
            if name.split(".")[-2] in ("o_proj", "fc2"):
                weight.zero_()
    two = metrics.look([random_picture(1), random_picture(2)]).dino
    assert float(two[0] @ two[1]) == pytest.approx(1), "something beside the class token is read"
    with torch.inference_mode():
        bare = metrics.dino.embeddings.cls_token + metrics.dino.embeddings.position_embeddings[:, :1]
        wanted = torch.nn.functional.normalize(metrics.dino.layernorm(bare)[0, 0], dim=-1)
    assert float(two[0] @ wanted) == pytest.approx(1), "the class token is not read after the final norm"


def test_embeddings_do_not_depend_on_company(metrics: Metrics):
    pictures = [random_picture(seed, 40 + seed, 48) for seed in range(3)]
    together = metrics.look(pictures)
    for place, picture in enumerate(pictures):
        alone = metrics.look([picture])
        assert float((alone.dino[0] - together.dino[place]).abs().max()) < 1e-12
        assert float((alone.clip[0] - together.clip[place]).abs().max()) < 1e-12


def test_processors_are_the_checkpoints_own(metrics: Metrics):
    wide = Image.new("RGB", (96, 32), "black")
    wide.paste("white", (32, 0, 64, 32))
    clip = metrics.clip_processor(images=wide, return_tensors="pt")["pixel_values"]
    assert clip.shape == (1, 3, 32, 32)
    assert float(clip.std((2, 3)).max()) < 1e-3, "CLIP sees the square in the middle, which is white"
    dino = metrics.dino_processor(images=wide, return_tensors="pt")["pixel_values"]
    assert dino.shape == (1, 3, 32, 32)
    assert float(dino[0, 0].std()) > 0.5, "DINO sees the whole picture, squeezed"
    assert float(dino[0, 0].max()) == pytest.approx((1 - 0.5) / 0.2, abs=1e-4), "not the mean and deviation of the file"


def test_a_long_prompt_is_cut(metrics: Metrics):
    long = "a dog in the snow " * 50
    assert torch.isfinite(metrics.read(long)).all()


def test_weights_are_told_apart(metrics: Metrics, tmp_path: Path):
    other = load_metrics(write_metrics(tmp_path, seed=5), CPU)
    assert other.weights["dino"] != metrics.weights["dino"]
    assert other.weights["clip"] != metrics.weights["clip"]


def test_without_a_network_a_sentence():
    with pytest.raises(LoadError) as caught:
        load_metrics(None, CPU)
    assert CHECKPOINTS["dino"] in str(caught.value)
    assert "--metrics" in str(caught.value)


def test_from_the_hub_the_pinned_commits_are_taken(
    checkpoints: Path, metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    newer = write_metrics(tmp_path / "newer", seed=5)
    for name, repo in CHECKPOINTS.items():
        root = tmp_path / "cache" / f"models--{repo.replace('/', '--')}"
        shutil.copytree(checkpoints / name, root / "snapshots" / COMMITS[name])
        shutil.copytree(newer / name, root / "snapshots" / "newer")
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text("newer")
    found = load_metrics(None, CPU)
    assert found.weights == metrics.weights
    assert found.source == CHECKPOINTS


def _drop_a_weight(folder: Path) -> None:
    path = folder / "dino" / "model.safetensors"
    weights = load_file(path)
    weights.pop("layernorm.weight")
    save_file(weights, path, metadata={"format": "pt"})


def _cut(name: str) -> object:
    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return damage


def _other_size(folder: Path) -> None:
    path = folder / "dino" / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"size": 32', '"size": 24'))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: shutil.rmtree(folder / "clip"),
        lambda folder: os.remove(folder / "clip" / "tokenizer.json"),
        lambda folder: os.remove(folder / "dino" / "preprocessor_config.json"),
        _cut("clip/model.safetensors"),
        _cut("dino/config.json"),
        _drop_a_weight,
        _other_size,
    ],
    ids=["no clip", "no tokenizer", "no processor", "cut weights", "cut config", "a weight less", "another size"],
)
def test_damaged_checkpoints(checkpoints: Path, tmp_path: Path, damage):
    folder = Path(shutil.copytree(checkpoints, tmp_path / "copy"))
    damage(folder)
    with pytest.raises(LoadError) as caught:
        load_metrics(folder, CPU)
    assert str(folder) in str(caught.value), "the sentence does not say which folder"


@pytest.mark.skipif("DREAMBENCH_DIR" not in os.environ, reason="DREAMBENCH_DIR names no folder of real photos")
def test_real_photos(metrics: Metrics):
    photos = sorted(Path(os.environ["DREAMBENCH_DIR"]).glob("*/00.jpg"))[:6]
    looks = metrics.look([open_picture(path) for path in photos])
    for one in (looks.dino, looks.clip):
        alike = one @ one.T
        assert torch.allclose(alike.diagonal(), torch.ones(len(photos), dtype=torch.float64))
        assert float((alike - torch.eye(len(photos))).max()) < 0.99999, "two photos look the same"
