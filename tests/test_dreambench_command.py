"""The command line of a DreamBench run: what it prints and writes, what it refuses, two processes, real photos."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import copy_with_other_weights, random_picture
from tiny_metrics import contents, write_metrics

from squeeze.cli import main
from squeeze.models.profiles import PROFILES
from squeeze.models.sources import revision

ROOT = Path(__file__).resolve().parents[1]
FIRST = "Loading weights:   0%"  # what transformers writes of each model that a process loads


@pytest.fixture
def command(data, checkpoints, tmp_path):
    """The arguments of a short run with the embedded model."""
    return [
        "evaluate", "dreambench", "--data", str(data), "--profile", "plush", "--metrics", str(checkpoints),
        "--steps", "1", "--seeds", "1", "--out", str(tmp_path / "out"), "--json",
    ]  # fmt: skip


def test_same_command_same_json(command, tmp_path, capsys):
    said = []
    for _ in range(2):
        assert main([*command, "--limit", "4"]) == 0
        said.append(capsys.readouterr())
    figures = json.loads(said[0].out)
    assert said[0].out == said[1].out, "the same command printed two different results"
    assert (figures["cases"], figures["asked"], figures["possible"]) == (4, 4, 6)
    assert figures["missing"] == ["vase"]
    assert "no folder: vase." in said[0].err
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == figures
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| the paper | 0.7482 | 0.8443 | 0.3010 |" in report
    mean = figures["scores"]["dino_i"]["mean"]
    assert f"| **plush, measured here** | **{mean:.4f}** |" in report
    for why in ("came from a folder", "3 subjects were scored here, 30 there", "4 of the 6 pairs"):
        assert why in report, "the report does not say what cannot be compared"
    assert main(command) == 0, "a run with a higher limit goes on"
    assert json.loads(capsys.readouterr().out)["cases"] == 6


def test_results_of_another_run_are_refused(command, data, checkpoints, tmp_path, capsys):
    assert main([*command, "--limit", "1"]) == 0
    before = contents(tmp_path / "out")
    other = copy_with_other_weights(ROOT / "assets" / "plush", tmp_path / "other")
    darker = Path(shutil.copytree(checkpoints, tmp_path / "darker")) / "dino" / "preprocessor_config.json"
    darker.write_text(json.dumps(json.loads(darker.read_text()) | {"image_mean": [0.1, 0.1, 0.1]}))
    changed = Path(shutil.copytree(data, tmp_path / "changed"))
    random_picture(77).save(changed / "can" / "01.jpg")
    for more, says in (
        (["--weights", str(other)], f'"{revision(other)}" now'),
        (["--seeds", "2"], "seeds 1 there, 2 now"),
        (["--cfg", "1"], "cfg 2.0 there, 1 now"),
        (["--metrics", str(write_metrics(tmp_path / "metrics", seed=3))], ": metrics {"),
        (["--metrics", str(darker.parents[1])], ": metrics {"),
        (["--data", str(changed)], ': data "'),
    ):
        assert main([*command, "--limit", "1", *more]) == 2, f"{more} was mixed with other results"
        said = capsys.readouterr().err
        assert "holds the results of another run" in said
        assert says in said
    assert contents(tmp_path / "out") == before, "a refused run changed the results"


def test_a_profile_whose_defaults_have_changed_is_another_run(command, capsys, monkeypatch):
    assert main([*command, "--limit", "1"]) == 0
    monkeypatch.setitem(PROFILES, "plush", replace(PROFILES["plush"], eta=0.5))
    assert main([*command, "--limit", "2"]) == 2
    assert "eta 1.0 there, 0.5 now" in capsys.readouterr().err


def test_a_profile_nobody_knows_is_said_before_the_metrics_are_fetched(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("squeeze.evaluation.metrics.load_metrics", lambda *_: pytest.fail("the metrics were loaded"))
    assert main([*command, "--profile", "nobody"]) == 2
    assert "'nobody'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--data", "/nowhere"], "There is no folder /nowhere"),
        (["--metrics", "/nowhere"], "There is no folder /nowhere/dino"),
        (["--limit", "0"], "at least 1, not 0"),
        (["--seeds", "0"], "at least 1, not 0"),
        (["--cfg", "-1"], "CFG must be"),
        (["--balance", "0,1"], "three numbers"),
        (["--weights", "/nowhere"], "/nowhere"),
        (["--adapter", "/nowhere"], "takes no adapter"),
        (["--memory", "small"], "no memory plan 'small'"),
        (["--revision", "main"], "REPO@COMMIT, not 'main'"),
        (["--device", "cuda"], "no CUDA device"),
    ],
)
def test_mistakes_get_a_sentence(command, more, says, capsys, tmp_path):
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert main([*command, *more]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "a mistake left a folder"


def test_flags_that_draw_do_not_go_with_pictures(command, tmp_path, capsys):
    without = [*command[:4], *command[6:]]
    assert main([*without, "--pictures", str(tmp_path)]) == 2
    assert "--steps says how pictures are drawn" in capsys.readouterr().err
    photos = ["evaluate", "dreambench", "--data", "/nowhere", "--pictures", str(tmp_path)]
    for flag in (
        ["--stage-steps", "9,9,7"],
        ["--adapter", "a"],
        ["--memory", "auto"],
        ["--revision", "a@b"],
        ["--compile"],
    ):
        assert main([*photos, *flag]) == 2
        assert f"{flag[0]} says how pictures are drawn" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(without)


def test_two_processes_give_the_same_as_one(command, tmp_path, capsys):
    """They also refuse the same, both of them, before they go on to what they may do."""
    assert main(command) == 0
    alone = capsys.readouterr().err
    launch = [Path(sys.executable).with_name("accelerate"), "launch", "--multi_gpu", "--num_processes", "2"]
    both = [str(Path(__file__).with_name("two_commands.py")), str(tmp_path / "out"), str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    whole = [*launch, "--main_process_port", "0", *both, *command]
    done = subprocess.run(whole, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    started = done.stderr.count(FIRST) / alone.count(FIRST)
    assert started == 2 * 2, f"accelerate started {started / 2:g} processes"
    assert done.stderr.count("holds the results of another run: cfg 2.0 there, 1 now") == 2
    assert "Connection closed" not in done.stderr, "one process was left waiting for the other"
    json.loads(done.stdout.strip().splitlines()[-1])
    assert contents(tmp_path / "two") == contents(tmp_path / "out")


@pytest.mark.skipif("DREAMBENCH_DIR" not in os.environ, reason="DREAMBENCH_DIR names no folder of real photos")
def test_the_real_photos_through_the_embedded_model(command, tmp_path, capsys):
    assert main([*command, "--data", os.environ["DREAMBENCH_DIR"], "--limit", "3"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["cases"] == 3
    assert figures["skipped_data"] == []
    assert len(figures["subjects"]) == 3
