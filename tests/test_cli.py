"""The command line as a user runs it: a PNG with its recipe, one JSON object, sentences and exit 2 for mistakes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from squeeze.cli import main
from squeeze.recipe import read_png

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = str(sorted((ROOT / "assets" / "examples").glob("*.png"))[0])


def generate(tmp_path: Path, *options: str, prompt: str = "on the beach", reference: str = EXAMPLE) -> int:
    given = ["--reference", reference, "--prompt", prompt, "--out", str(tmp_path / "out.png")]
    return main(["generate", *given, *options])


def test_a_picture_with_its_recipe_and_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert generate(tmp_path, "--steps", "3", "--seed", "7", "--balance", "gentle", "--json") == 0
    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert printed["recipe"] == read_png(tmp_path / "out.png"), "the JSON and the PNG disagree"
    assert printed["recipe"]["balance"] == [0, 0.5, 0.75]
    assert printed["recipe"]["seed"] == 7
    assert sum(printed["recipe"]["stage_steps"]) == 3
    assert Image.open(tmp_path / "out.png").size == (64, 64)


def test_same_command_same_bytes(tmp_path: Path):
    pictures = []
    for _ in range(2):
        assert generate(tmp_path, "--steps", "2") == 0
        pictures.append((tmp_path / "out.png").read_bytes())
    assert pictures[0] == pictures[1], "the same command drew two different pictures"


def test_unknown_words_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert generate(tmp_path, "--steps", "1", prompt="a cyberpunk toy on the beach 🤖") == 0
    assert "cyberpunk" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--steps", "0"], "Steps must be"),
        (["--steps", "1000000"], "1000000"),
        (["--steps", "ten"], "ten"),
        (["--steps", "2.5"], "2.5"),
        (["--balance", "0,0.5,2"], "stage 3"),
        (["--balance", "0,0.5"], "three numbers"),
        (["--balance", "nan,0,0"], "nan"),
        (["--balance", "much"], "much"),
        (["--cfg", "0"], "CFG must be"),
        (["--cfg", "nan"], "nan"),
        (["--seed", str(2**70)], "seed must be"),
        (["--seed", "-1"], "seed must be"),
        (["--late-text", "maybe"], "drop or keep"),
        (["--uncond", "none"], "lean or full"),
        (["--profile", "nothing"], "plush"),
        (["--out", "/no/such/folder/out.png"], "no folder"),
        (["--weights", "/no/such/weights"], "missing"),
    ],
)
def test_mistakes_get_a_sentence_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
):
    assert generate(tmp_path, *options) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert "Traceback" not in said.err
    assert said.out == "", "a mistake must leave stdout empty"
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(("prompt", "says"), [("", "empty"), (" \x00\x07 ", "empty"), ("x" * 10_000, "10,000")])
def test_bad_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: str, says: str):
    assert generate(tmp_path, prompt=prompt) == 2
    assert says in capsys.readouterr().err


def test_bad_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(Path(EXAMPLE).read_bytes()[:5000])
    for name, says in (("text.png", "could not be read"), ("cut.png", "damaged"), ("none.png", "none.png")):
        assert generate(tmp_path, reference=str(tmp_path / name)) == 2
        assert says in capsys.readouterr().err


def test_two_references_are_refused_by_a_profile_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert generate(tmp_path, "--reference", EXAMPLE) == 2
    assert "at most 1" in capsys.readouterr().err


def test_evaluate_prints_one_json_object(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    sheet = tmp_path / "sheet.png"
    assert main(["evaluate", "plush", "--n", "2", "--steps", "2", "--sheet", str(sheet), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["cases"] == 2
    assert {"place", "facing", "hat", "body", "pattern", "ears"} <= figures["rates"].keys()
    for row in figures["rates"].values():
        assert row["rate"] is None or 0 <= row["rate"] <= 1
        assert 0 < row["chance"] < 1
    assert Image.open(sheet).width > 128
    assert main(["evaluate", "plush", "--n", "0"]) == 2


def test_evaluate_parts_measures_each(capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "plush", "--parts", "--n", "4", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert math.isfinite(figures["vae_psnr_db"])
    assert 0 <= figures["mllm_questions"]["all"] <= 1
    assert 0 <= figures["probe"]["facing_error_degrees"] <= 180


def test_a_stop_ends_with_130_and_a_checkpoint(tmp_path: Path):
    command = [sys.executable, "-m", "squeeze", "train", "plush", "--part", "vae", "--minutes", "5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--batch", "2", "--out", str(tmp_path)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "step" in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, "a stop should exit with 130"
    assert "Stopped" in process.stderr.read()
    assert (tmp_path / "checkpoint-vae.pt").exists(), "a stop lost the training"
    assert (tmp_path / "vae" / "config.json").exists()
