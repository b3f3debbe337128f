"""The command line as a user runs it: a PNG with its recipe, one JSON object, sentences and exit 2 for mistakes."""

import errno
import json
import math
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import make_transformer, randomised

from squeeze import cli, cli_evaluate
from squeeze.cli import main
from squeeze.evaluation import tables
from squeeze.images import content_hash, open_picture
from squeeze.models import aggregation
from squeeze.models.mllm import Mllm
from squeeze.models.sources import revision
from squeeze.recipe import read_file, read_png, to_text, write_png
from squeeze.recipe_forms import to_command

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = str(sorted((ROOT / "assets" / "examples").glob("*.png"))[0])


def generate(tmp_path: Path, *options: str, prompt: str = "on the beach", reference: str = EXAMPLE) -> int:
    given = ["--reference", reference, "--prompt", prompt, "--out", str(tmp_path / "out.png")]
    return main(["generate", *given, *options])


@pytest.fixture
def forbid_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that shows beforehand must not cost the time of a picture."""
    for place in ("squeeze.cli.load_models", "squeeze.models.loading.load"):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("models were loaded before the flags were checked"))


def test_a_slip_is_said_before_what_takes_seconds_is_imported():
    slip = (
        "import sys\nfrom squeeze.cli import main\ntry:\n    main(['generate', '--step'])\n"
        "except SystemExit:\n    print({'diffusers', 'transformers', 'gradio'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", slip], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


def test_names_that_flags_take_are_those_there_are():
    assert cli.MODES == aggregation.MODES
    assert tuple(tables.TABLES) == cli_evaluate.TABLE_NAMES


def test_a_picture_with_its_recipe_and_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert generate(tmp_path, "--steps", "3", "--seed", "7", "--balance", "gentle", "--json") == 0
    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert printed["recipe"] == read_png(tmp_path / "out.png"), "the JSON and the PNG disagree"
    assert printed["recipe"] == read_file(tmp_path / "out.json"), "the JSON beside the PNG is not its recipe"
    assert printed["recipe"]["balance"] == [0, 0.5, 0.75]
    assert printed["recipe"]["seed"] == 7
    assert sum(printed["recipe"]["stage_steps"]) == 3
    assert Image.open(tmp_path / "out.png").size == (128, 128)


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
        (["--guidance", "-1"], "Guidance must be"),
        (["--guidance", "much"], "much"),
        (["--stage-steps", "1,2,3"], "add up to 25"),
        (["--stage-steps", "25"], "three whole numbers"),
        (["--stage-steps", "a,b,c"], "three whole numbers"),
        (["--stage-steps=-1,1,25"], "three whole numbers"),
        (["--height", "65"], "Height must be a multiple of 16"),
        (["--width", "1e9"], "Width must be"),
        (["--seed", str(2**70)], "seed must be"),
        (["--seed", "-1"], "seed must be"),
        (["--late-text", "maybe"], "drop or keep"),
        (["--eta", "1.5"], "Eta must be a number from 0 to 1"),
        (["--uncond", "none"], "lean or full"),
        (["--profile", "nothing"], "plush"),
        (["--out", "/no/such/folder/out.png"], "no folder"),
        (["--out", "picture.json"], "ends in .png"),
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


@pytest.mark.parametrize("taken", ["out.png", "out.json"])
def test_a_folder_where_a_file_should_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], forbid_drawing: None, taken: str
):
    (tmp_path / taken).mkdir()
    assert generate(tmp_path) == 2
    assert f"{tmp_path / taken} is a folder" in capsys.readouterr().err
    if taken == "out.png":
        assert main(["evaluate", "plush", "--n", "1", "--sheet", str(tmp_path / taken)]) == 2
        assert f"{tmp_path / taken} is a folder" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, forbid_drawing: None
):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write wherever a test could forbid it
    assert generate(tmp_path) == 2
    assert f"Nothing can be written into {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["squeeze.cli.write_png", "pathlib.Path.write_text"])
def test_a_disk_that_is_full_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, written: str
):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(written, full)
    assert generate(tmp_path, "--steps", "1") == 2
    said = capsys.readouterr()
    assert "The disk is full" in said.err
    assert said.out == ""


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
    assert "than this profile takes: 1" in capsys.readouterr().err


@pytest.mark.usefixtures("few_renders")
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


def test_evaluate_parts_measures_each(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    viewed, view = [], Mllm.view
    monkeypatch.setattr(Mllm, "view", lambda mllm, picture: viewed.append(picture) or view(mllm, picture))
    assert main(["evaluate", "plush", "--parts", "--n", "4", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert math.isfinite(figures["vae_psnr_db"])
    told = figures["mllm_questions"]
    assert 0 <= told["all"] <= 1
    assert told["about"].keys() == {"place", "facing", "hat", "body", "belly", "pattern", "ears", "tail"}
    assert told["about"]["place"] == told["about"]["body"] == 1, "it reads these in all but one of 200 pictures"
    assert min(rate for rate in told["about"].values() if rate is not None) <= told["picture"]
    part = figures["mllm_questions_cropped"]
    assert part.keys() == told.keys()
    assert len(viewed) == 8
    assert not any(whole == cropped for whole, cropped in zip(viewed[:4], viewed[4:], strict=True))
    assert 0 <= figures["probe"]["facing_error_degrees"] <= 180
    assert 0 <= figures["probe"]["proportions_off"] < 0.25, "the shipped probe sees no proportions"


def test_who_reads_may_have_seen_enough(monkeypatch: pytest.MonkeyPatch):
    """As with `| head -1`: no traceback, neither then nor when Python ends."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "argv", ["squeeze", "--help"])
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
        with pytest.raises(SystemExit) as end:
            runpy.run_module("squeeze", run_name="__main__")
    assert end.value.code == 141


def test_a_stop_ends_with_130_and_a_checkpoint(tmp_path: Path):
    command = [sys.executable, "tests/few_samples.py", "train", "plush", "--part", "vae", "--minutes", "5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--batch", "2", "--out", str(tmp_path)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "step" in line, f"a command says what nobody needs at its start: {line}"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, "a stop should exit with 130"
    assert "Stopped" in process.stderr.read()
    assert (tmp_path / "checkpoint-vae.pt").exists(), "a stop lost the training"
    assert (tmp_path / "vae" / "config.json").exists()


# --- from a recipe --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG that the tiny models drew, with every option other than the profile has it."""
    place = tmp_path_factory.mktemp("drawn")
    options = ["--balance", "0.1,0.25,1", "--steps", "4", "--stage-steps", "1,2,1", "--cfg", "1.5", "--guidance", "3"]
    options += ["--seed", "5", "--eta", "0.5", "--uncond", "full", "--late-text", "keep"]
    options += ["--height", "128", "--width", "128"]
    assert generate(place, "--weights", str(folder), *options) == 0
    return place / "out.png"


@pytest.fixture
def made(drawn: Path, tmp_path: Path) -> Path:
    """A copy of it for each test."""
    return Path(shutil.copy(drawn, tmp_path / "made.png"))


def again(made: Path, weights: Path, *options: str, reference: str = EXAMPLE, recipe: Path | None = None) -> int:
    given = ["--reference", reference, "--weights", str(weights), "--recipe", str(recipe or made)]
    return main(["generate", *given, "--out", str(made.with_name("again.png")), *options])


def other_weights(folder: Path, tmp_path: Path) -> Path:
    """The tiny models with another transformer."""
    weights = tmp_path / "weights"
    shutil.copytree(folder, weights)
    randomised(make_transformer(), 9).save_pretrained(weights / "transformer")
    return weights


def test_every_flag_reaches_the_recipe(made: Path):
    recipe = read_png(made)
    wanted = {
        "balance": [0.1, 0.25, 1], "steps": 4, "stage_steps": [1, 2, 1], "cfg": 1.5, "seed": 5, "uncond": "full",
        "eta": 0.5, "late_text": "keep", "height": 128, "width": 128,
        "picture": content_hash(open_picture(made)),
        "guidance": 1,  # which this transformer does not read
    }  # fmt: skip
    assert {key: recipe[key] for key in wanted} == wanted


def test_a_recipe_draws_the_same_file_again(made: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert again(made, folder, "--verify") == 0
    assert capsys.readouterr().err.endswith("The picture is identical.\n"), "something differs and was named"
    assert made.with_name("again.png").read_bytes() == made.read_bytes()
    text = made.with_name("made.json")
    text.write_text(to_text(read_png(made)))
    assert again(made, folder, "--verify", recipe=text) == 0


def test_the_command_of_a_recipe_draws_the_same_file_again(made: Path, folder: Path, tmp_path: Path):
    words = shlex.split(to_command(read_png(made), EXAMPLE))[3:]
    words[words.index("--out") + 1] = str(tmp_path / "again.png")
    assert main([*words, "--weights", str(folder)]) == 0
    assert (tmp_path / "again.png").read_bytes() == made.read_bytes()


def test_other_flags_override_the_recipe(made: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert again(made, folder, "--steps", "3", "--prompt", "in the snow", "--seed", "0", "--verify") == 1
    recipe = read_png(made.with_name("again.png"))
    assert (recipe["prompt"], recipe["steps"], recipe["seed"], recipe["cfg"]) == ("in the snow", 3, 0, 1.5)
    assert sum(recipe["stage_steps"]) == 3, "the recipe's steps of the stages belong to its own number of steps"
    said = capsys.readouterr().err
    for part in ("not identical", "Not the same prompt: on the beach in the recipe, in the snow here.", "seed: 5 in"):
        assert part in said


def test_what_is_changed_holds_from_the_first_step_on(made: Path, folder: Path):
    """As on the page, where a branched picture's recipe comes back and a balance is moved."""
    branched = made.with_name("branched.json")
    branched.write_text(to_text(read_png(made) | {"earlier": [[1, 1.0, 1.0, 1.0]]}))
    for flags, earlier in (([], [[1, 1.0, 1.0, 1.0]]), (["--balance", "0,0.5,1"], []), (["--steps", "1"], [])):
        assert again(made, folder, *flags, recipe=branched) == 0
        assert read_png(made.with_name("again.png"))["earlier"] == earlier, flags


def test_other_weights_are_named(made: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    weights = other_weights(folder, tmp_path)
    assert again(made, weights, "--verify") == 1
    said = capsys.readouterr().err
    assert "The picture is not identical." in said
    there, here = revision(folder), revision(weights)
    assert f"Not the same revision of the weights: {there} in the recipe, {here} here." in said
    count, most = re.search(r"([\d,]+) of 16,384 pixels differ, by at most (\d+) of 255", said).groups()
    before, now = (np.asarray(open_picture(made.with_name(name)), int) for name in ("made.png", "again.png"))
    apart = np.abs(before - now).max(-1)
    assert (int(count.replace(",", "")), int(most)) == ((apart > 0).sum(), apart.max())


def test_other_software_is_named_though_the_picture_is_identical(
    made: Path, folder: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = read_png(made)
    write_png(open_picture(made), recipe | {"software": recipe["software"] | {"torch": "1.0"}}, made)
    assert again(made, folder, "--verify") == 0
    said = capsys.readouterr().err
    assert "The picture is identical." in said
    assert "version of torch: 1.0 in the recipe" in said


def test_a_picture_that_was_changed_under_its_recipe(made: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    recipe, picture = read_png(made), open_picture(made)
    picture.putpixel((3, 4), tuple(255 - value for value in picture.getpixel((3, 4))))
    write_png(picture, recipe, made)
    assert again(made, folder, "--verify") == 1
    said = capsys.readouterr().err
    assert "it was changed after it was written" in said
    assert "1 of 16,384 pixels differ" in said
    write_png(picture.crop((0, 0, 32, 128)), recipe, made)
    assert again(made, folder, "--verify") == 1
    assert "32 × 128 pixels in the PNG, 128 × 128 here" in capsys.readouterr().err


def test_the_wrong_reference_is_refused_by_both_hashes(made: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    other = str(sorted((ROOT / "assets" / "examples").glob("*.png"))[1])
    assert again(made, folder, reference=other) == 2
    said = capsys.readouterr().err
    assert content_hash(open_picture(EXAMPLE)) in said
    assert content_hash(open_picture(other)) in said
    assert said.count("\n") == 1
    assert not made.with_name("again.png").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"steps": 0}, "Steps must be"),
        ({"stage_steps": [9, 9, 9]}, "add up to 4"),
        ({"balance": [0, 1]}, "three numbers"),
        ({"profile": "../etc"}, "no profile named '../etc'"),
        ({"height": 4096}, "Height must be"),
        ({"late_text": "maybe"}, "drop or keep"),
        ({"version": 3}, "Update"),
        ({"seed": None}, "seed is None"),
    ],
)
def test_recipes_that_ask_for_the_impossible(
    made: Path, folder: Path, capsys: pytest.CaptureFixture[str], changed: dict, says: str
):
    made.with_name("bad.json").write_text(json.dumps(read_png(made) | changed))
    assert again(made, folder, recipe=made.with_name("bad.json")) == 2
    assert says in capsys.readouterr().err


def test_files_without_a_recipe_and_verify_without_one(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
):
    for recipe, says in ((Path(EXAMPLE), "carries no recipe"), (tmp_path / "none.png", "There is no file")):
        assert again(tmp_path / "made.png", folder, recipe=recipe) == 2
        assert says in capsys.readouterr().err
    assert generate(tmp_path, "--verify") == 2
    assert "--recipe" in capsys.readouterr().err
    assert main(["generate", "--reference", EXAMPLE, "--out", str(tmp_path / "out.png")]) == 2
    assert "The prompt is empty" in capsys.readouterr().err
