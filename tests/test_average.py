"""The mean of several trainings: every weight is the mean, the record tells of what, and mistakes get a sentence."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny import copy_with_other_weights, make_aggregation, tiny_profile

from squeeze.cli import main
from squeeze.files import write_text
from squeeze.models.loading import load
from squeeze.models.sources import revision


@pytest.fixture
def trainings(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two models that are built alike; beside the first lies the record of its training."""
    for name in ("aggregation", "transformer", "framing", "mllm", "vae"):
        shutil.copytree(folder / name, tmp_path / "one" / name)
    write_text(tmp_path / "one" / "training.json", json.dumps({"runs": [{"part": "phase1"}], "revision": "old"}))
    return tmp_path / "one", copy_with_other_weights(tmp_path / "one", tmp_path / "other")


def weights(folder: Path) -> dict:
    return {
        f"{name} {key}": value.float()
        for name in ("aggregation", "transformer")
        for key, value in load_file(folder / name / "diffusion_pytorch_model.safetensors").items()
    }


def test_every_weight_is_the_mean_and_the_record_tells_of_what(trainings: tuple[Path, Path], tmp_path: Path):
    assert main(["average", *map(str, trainings), "--out", str(tmp_path / "mean")]) == 0
    one, other, mean = map(weights, (*trainings, tmp_path / "mean"))
    for key, value in mean.items():
        assert (value - (one[key] + other[key]) / 2).abs().max() <= 2**-8 * value.abs().max(), key
    assert any((one[key] != other[key]).any() for key in one), "they are the same, so nothing was tried"
    told = json.loads((tmp_path / "mean" / "training.json").read_text())
    assert [run["part"] for run in told["runs"]] == ["phase1", "average"]
    assert told["runs"][-1]["of"] == [revision(path) for path in trainings]
    assert told["revision"] == revision(tmp_path / "mean") == load(tiny_profile(tmp_path / "mean")).revision


@pytest.mark.parametrize("how", ["alone", "none", "rubbish", "built otherwise", "reads otherwise", "record"])
def test_what_has_no_mean(trainings: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str):
    one, other = trainings
    if how == "none":
        shutil.rmtree(other / "transformer")
    if how == "rubbish":
        (other / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"rubbish")
    if how == "built otherwise":
        make_aggregation("single_lap").save_pretrained(other / "aggregation")
    if how == "reads otherwise":
        config = other / "aggregation" / "config.json"
        told = json.loads(config.read_text())
        config.write_text(json.dumps(told | {"read": [*range(told["layers"])][::-1]}))
    if how == "record":
        (one / "training.json").write_text("[]")
    folders = [one] if how == "alone" else [one, other]
    assert main(["average", *map(str, folders), "--out", str(tmp_path / "mean")]) == 2
    said = capsys.readouterr().err
    assert {
        "alone": "A mean takes two folders or more. Name another.",
        "none": f"There is no transformer/ in {other}. Name folders that phase1 or phase2 wrote",
        "rubbish": f"The weights in {other / 'transformer'} are damaged or incomplete",
        "record": f"{one / 'training.json'} is damaged.",
        "built otherwise": f"The model in {other / 'aggregation'} is not built as the one in {one / 'aggregation'}.",
        "reads otherwise": f"The model in {other / 'aggregation'} is not built as the one in {one / 'aggregation'}.",
    }[how] in said
    assert said.count("\n") == 1
    assert not (tmp_path / "mean").exists()
