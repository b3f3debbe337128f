"""The tables: the paper's thresholds at our token count, rows that differ in what they say, variants really trained."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from squeeze.cli import main
from squeeze.evaluation import plush, tables
from squeeze.evaluation.parts import load_probe
from squeeze.evaluation.records import EvaluationError
from squeeze.evaluation.tables import COLUMNS, TABLES, as_markdown, run_table, scaled, train_variant
from squeeze.models.aggregation import Aggregation
from squeeze.models.loading import load
from squeeze.models.profiles import PROFILES
from squeeze.models.sources import revision
from squeeze.pipeline import default_request, plan
from squeeze.sampling import schedule
from squeeze.training import phases

pytestmark = pytest.mark.usefixtures("few_renders")
PLUSH = PROFILES["plush"]


def rows(name: str):
    return TABLES[name][1](PLUSH)


@pytest.mark.parametrize(
    ("t", "tokens", "ours"), [(0.95, 16, 0.54), (0.85, 16, 0.26), (0.95, 64, 0.70), (0.85, 64, 0.41)]
)
def test_thresholds_at_equal_signal_to_noise(t: float, tokens: int, ours: float):
    assert scaled(t, tokens) == pytest.approx(ours, abs=0.006)
    assert scaled(t, 4096) == t


def test_a_profile_at_another_side_has_the_same_signal_to_noise():
    small = PLUSH.at(64)
    assert small.tau1 == pytest.approx(scaled(0.95, 16), abs=0.01)
    assert small.tau2 / (1 - small.tau2) == pytest.approx(PLUSH.tau2 / (1 - PLUSH.tau2) / 2)
    assert small.shift == pytest.approx(0, abs=1e-3), "twice the side is shifted by log 2"
    assert small.size == small.limits.least_size == small.limits.most_size == small.limits.reference == 64
    assert PLUSH.at(128) == PLUSH


def test_the_papers_own_row_has_the_profiles_first_border_and_an_earlier_second():
    default = plan(PLUSH, default_request(PLUSH, prompt="", references=()))[1]
    asked = [row.asked for row in rows("thresholds")]
    assert asked[2] == {"stage_steps": (12, 7, 6), "cfg": 2.5}
    assert default == (12, 9, 4)
    assert asked[0]["stage_steps"] == (PLUSH.steps, 0, 0), "tau 0, 0 is the MLLM alone"
    assert [one["cfg"] for one in asked] == [2.5, 2.5, 2.5, 2.5, 4]


@pytest.mark.parametrize("name", TABLES)
def test_rows_differ_and_can_be_told_apart(name: str):
    found = rows(name)
    assert len({row.name for row in found}) == len(found)
    assert len({json.dumps([row.asked, row.trained and row.trained.name]) for row in found}) == len(found)


def test_the_sweep_moves_one_stage_at_a_time():
    found = [row.asked["balance"] for row in rows("sweep")]
    paper = (0.0, 0.5, 1.0)
    assert all(sum(a != b for a, b in zip(one, paper, strict=True)) <= 1 for one in found)
    assert len(found) == 13


def test_variants_share_everything_but_what_is_compared():
    trained = {row.trained.name: row.trained for name in ("aggregation", "layers", "training") for row in rows(name)}
    assert {sum(share for _, share in one.parts) for one in trained.values()} == {1.0}, "not all train as long"
    assert rows("aggregation")[-1].trained == rows("layers")[-1].trained == rows("training")[-1].trained
    assert rows("training")[0].trained == rows("training")[1].trained, "the masks alone should differ"


def quick(request):
    """Two steps in place of the profile's."""
    return replace(request, steps=2, stage_steps=None)


def test_a_table_is_resumed_and_written(tmp_path: Path, capsys, monkeypatch):
    drawn, generate = [], tables.plush.generate
    monkeypatch.setattr(tables.plush, "generate", lambda *given: drawn.append(1) or generate(given[0], quick(given[1])))
    command = ["evaluate", "table", "late_text", "--n", "2", "--out", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in first["rows"]] == ["drop", "keep"]
    assert len(drawn) == 6, "two rows of two cases and one with the facing left open"
    assert main(command) == 0
    assert len(drawn) == 6, "a finished table was drawn again"
    assert "| drop |" in capsys.readouterr().out


def stand_in(folder: Path, monkeypatch, script: str):
    """Puts a program in the place of Python, which trainings are started with."""
    (folder / "python").write_text(script)
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(tables.sys, "executable", str(folder / "python"))


def test_a_variant_is_trained_once(tmp_path: Path, monkeypatch):
    """In this process; what starts another is tried where a training is stopped."""
    monkeypatch.setattr(tables, "BATCH", 2)
    monkeypatch.setattr(phases, "CHUNK", 8)
    monkeypatch.setattr(phases, "schedule", lambda steps, mu: schedule(2, mu))  # of pictures that nobody looks at
    monkeypatch.setattr(tables, "run_training", lambda command: main(command[3:]))
    row = rows("layers")[0]
    small = PLUSH.at(64)
    folder = train_variant(row.trained, small, tmp_path, steps=2, processes=1, seed=0)
    assert Aggregation.from_pretrained(folder / "aggregation").config["read"] == [1, 2]
    told = json.loads((folder / "training.json").read_text())
    assert [run["part"] for run in told["runs"]] == ["phase1", "phase2"]
    assert told["thresholds"] == {"tau1": small.tau1, "tau2": small.tau2, "shift": small.shift}
    models = load(replace(small, folder=folder), device="cpu")  # what it was trained beside is there too
    assert told["revision"] == models.revision
    assert next(plush.evaluate(models, load_probe(models.profile), 1, steps=1)).picture.size == (64, 64)
    (folder / "done").unlink()  # as if it had been stopped after its last step
    assert train_variant(row.trained, small, tmp_path, steps=2, processes=1, seed=0) == folder
    assert json.loads((folder / "training.json").read_text()) == told
    monkeypatch.setattr(tables, "run_training", lambda command: pytest.fail("trained again"))
    assert train_variant(row.trained, small, tmp_path, steps=2, processes=1, seed=0) == folder


TRAINER = f"""#!{sys.executable}
import pathlib, signal, sys, time

def stopped(*_):
    time.sleep(1)
    next(pathlib.Path("variants").iterdir()).joinpath("checkpoint-phase1.pt").touch()
    sys.exit(130)

signal.signal(signal.SIGINT, stopped)
with open("calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
while not pathlib.Path("calm").exists():
    time.sleep(0.1)
"""


@pytest.fixture
def stoppable():
    """Ctrl+C stops these tests' own process also where it was started to ignore that, in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("stoppable")
def test_a_stopped_training_keeps_its_checkpoint_and_goes_on(tmp_path: Path, monkeypatch):
    """A stand-in for Python that takes a second to write its checkpoint when it is stopped."""
    stand_in(tmp_path, monkeypatch, TRAINER)
    monkeypatch.chdir(tmp_path)
    wanted = rows("layers")[0].trained

    def stop() -> None:
        while not (tmp_path / "calls").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    with pytest.raises(KeyboardInterrupt):
        train_variant(wanted, PLUSH, tmp_path / "variants", steps=10, processes=1, seed=0)
    kept = list(tmp_path.glob("variants/*/checkpoint-phase1.pt"))
    assert len(kept) == 1, "the training was killed before it had written its checkpoint"
    (tmp_path / "calm").touch()
    assert train_variant(wanted, PLUSH, tmp_path / "variants", steps=10, processes=1, seed=0) == kept[0].parent
    first, *later = (tmp_path / "calls").read_text().splitlines()
    assert "--resume" not in first
    assert [f"--resume {kept[0].parent}" in call for call in later] == [True, True], "the training began again"


def test_variants_on_other_frozen_parts_are_not_mixed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tables, "run_training", lambda command: 0)
    wanted, other = rows("layers")[0].trained, Path(shutil.copytree(PLUSH.folder, tmp_path / "other"))
    train_variant(wanted, PLUSH, tmp_path / "variants", steps=2, processes=1, seed=0)
    weights = next((other / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b"\0")
    for profile, processes, says in ((replace(PLUSH, folder=other), 1, "vae"), (PLUSH, 2, "processes 1 there, 2 now")):
        with pytest.raises(EvaluationError, match=f"results of another run: {says}"):
            train_variant(wanted, profile, tmp_path / "variants", steps=2, processes=processes, seed=0)


def test_a_table_of_other_weights_is_refused(tmp_path: Path, capsys):
    row = tmp_path / "drawn" / "shipped" / "defaults"
    row.mkdir(parents=True)
    (row / "run.json").write_text('{"benchmark": "plush", "revision": "another"}')
    assert main(["evaluate", "table", "late_text", "--n", "2", "--out", str(tmp_path)]) == 2
    assert 'revision "another" there' in capsys.readouterr().err


@pytest.fixture
def only_folders(monkeypatch):
    """Nothing is loaded, and no picture compared: these tests look at where pictures are kept."""
    monkeypatch.setattr(tables, "load", lambda profile: SimpleNamespace(revision=revision(profile.folder)))
    monkeypatch.setattr(tables, "likeness", lambda *_: {})


@pytest.mark.usefixtures("only_folders")
def test_seeds_steps_and_sizes_have_results_of_their_own(tmp_path: Path, monkeypatch):
    def trained(command: list[str]) -> int:
        for part in ("aggregation", "transformer"):
            shutil.copytree(PLUSH.folder / part, Path(command[command.index("--out") + 1]) / part, dirs_exist_ok=True)
        return 0

    monkeypatch.setattr(tables, "run_training", trained)
    monkeypatch.setattr(tables, "measured", lambda *given: given[3].write("one", {}) or (pictures(1), pictures(1)))
    for steps, size, seed in ((10, None, 0), (10, None, 1), (20, None, 0), (10, 64, 0)):
        list(run_table("layers", PLUSH, 1, tmp_path, steps=steps, size=size, seed=seed, only="early"))
    kept = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert all((tmp_path / "drawn" / name / "defaults" / "cases" / "one.json").exists() for name in kept)
    assert kept == {f"layers_early-{how}" for how in ("10-128-0", "10-128-1", "20-128-0", "10-64-0")}


@pytest.mark.usefixtures("only_folders")
def test_rows_that_are_alike_share_their_pictures(tmp_path: Path, monkeypatch):
    folders = []
    monkeypatch.setattr(
        tables,
        "train_variant",
        lambda wanted, *_: shutil.copytree(PLUSH.folder, tmp_path / wanted.name, dirs_exist_ok=True),
    )
    monkeypatch.setattr(
        tables, "measured", lambda *given: folders.append(given[3].folder) or (pictures(1), pictures(1))
    )
    found = {(name, row["name"]): folders[-1] for name in TABLES for row in run_table(name, PLUSH, 1, tmp_path)}
    usual, both = found["conditions", "paper"], found["conditions", "both"]
    assert usual == found["late_text", "drop"] == found["sweep", "balance 0, 0.5, 1"]
    assert both not in (usual, found["training", "one phase"]), "other weights or another balance"
    assert found["aggregation", "dla"] == found["layers", "all"] == found["training", "two phases + masks"]
    told = [row.asked | {"variant": row.trained and row.trained.name} for name in TABLES for row in rows(name)]
    told = [{"late_text": "drop", "balance": PLUSH.balance, "eta": PLUSH.eta} | one for one in told]
    assert len(set(found.values())) == len({json.dumps(one, sort_keys=True) for one in told})


def test_pictures_by_other_defaults_are_not_taken(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tables, "measured", lambda *_: (pictures(1), pictures(1)))
    list(run_table("late_text", PLUSH, 1, tmp_path, only="drop"))
    with pytest.raises(EvaluationError, match=f"cfg {PLUSH.cfg} there, 7.5 now"):
        list(run_table("late_text", replace(PLUSH, cfg=7.5), 1, tmp_path, only="drop"))


def pictures(right: int, of: int = 4) -> list[plush.Drawn]:
    """What is judged of `of` cases, of which the first `right` keep their body colour and their place."""
    blank = Image.new("RGB", (8, 8))
    return [
        plush.Drawn(
            case=case, prompt="", reference=blank, picture=blank, needs_picture=False, copied=False, turned=90.0,
            off=0.5,
            right=dict.fromkeys((*plush.PROMPT, *plush.IDENTITY)) | {"body": case < right, "place": case < right},
        )
        for case in range(of)
    ]  # fmt: skip


def test_several_trainings_make_one_row_and_each_is_told(tmp_path: Path, monkeypatch):
    drawn = {seed: (pictures(right), pictures(1)) for seed, right in ((5, 1), (6, 2), (7, 1))}
    trained = []
    monkeypatch.setattr(tables, "train_variant", lambda *given: trained.append(given[-1]) or PLUSH.folder)
    monkeypatch.setattr(tables, "measured", lambda *_: drawn[trained[-1]])
    row = next(run_table("layers", PLUSH, 4, tmp_path, steps=10, seed=5, seeds=3, only="early"))
    assert [(one["seed"], one["identity_mean"]) for one in row["trainings"]] == [(5, 0.25), (6, 0.5), (7, 0.25)]
    assert row["cases"] == 12
    assert row["identity_mean"] == row["prompt_mean"] == pytest.approx(4 / 12, abs=1e-4)
    alone = plush.summary([one for told, _ in drawn.values() for one in told])
    apart = plush.summary([replace(one, case=n) for n, one in enumerate(p for told, _ in drawn.values() for p in told)])
    assert row["joint_interval"] == alone["joint_interval"]
    wide, narrow = (one["identity_mean_interval"] for one in (alone, apart))
    assert wide[1] - wide[0] > narrow[1] - narrow[0], "twelve pictures of four toys are no twelve toys"
    assert "33.3% (" in as_markdown("layers", [row])
    assert "; 3 seeds 25.0% to 50.0%)" in as_markdown("layers", [row])
    single = next(run_table("layers", PLUSH, 4, tmp_path, steps=10, seed=7, only="early"))
    assert "seeds" not in as_markdown("layers", [single])


def test_seeds_that_no_generator_takes(tmp_path: Path, capsys):
    command = ["evaluate", "table", "layers", "--out", str(tmp_path), "--seed"]
    with pytest.raises(SystemExit):
        main([*command, "9" * 23])
    assert "a whole number from 0 to 999999999" in capsys.readouterr().err
    assert main([*command, "999999998", "--seeds", "3"]) == 2
    assert "The last of 3 seeds from 999999998 is beyond 999999999." in capsys.readouterr().err


def test_a_table_has_an_interval_at_each_figure():
    within = [0.25, 0.75]
    means = (*COLUMNS.values(), "near_copies")
    row = {"name": "all"} | {key: value for name in means for key, value in ((name, 0.5), (f"{name}_interval", within))}
    row["copy_paste"] = {
        "azimuth_difference": 40.4,
        "azimuth_interval": [30.0, 50.0],
        "recall": 0.5,
        "recall_interval": within,
    }
    row |= {"renders_distance": 37.25, "renders_distance_interval": [30.0, 45.0]}
    *_, line = as_markdown("layers", [row]).splitlines()
    share = "50.0% (25.0% to 75.0%)"
    assert line == f"| all | {' | '.join([share] * 4)} | 37.2 (30.0 to 45.0) | {share} | 40° (30° to 50°) | {share} |"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--only", "no such"], "has no row"),
        (["--steps", "0"], "at least 1"),
        (["--n", "0"], "at least 1"),
        (["--processes", "5"], "must divide a batch of 64"),
        (["--curve", "curve.svg"], "draws the table `sweep`, and needs the whole of it"),
    ],
)
def test_mistakes_get_a_sentence(flags: list[str], says: str, tmp_path: Path, capsys):
    assert main(["evaluate", "table", "layers", "--out", str(tmp_path), *flags]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("--size", "64"), ("--seeds", "3")])
def test_what_is_for_variants_alone(tmp_path: Path, capsys, flag: str, value: str):
    assert main(["evaluate", "table", "sweep", flag, value, "--out", str(tmp_path)]) == 2
    assert f"{flag} is for tables that train variants, and `sweep` trains none" in capsys.readouterr().err


def test_a_training_that_fails_is_said(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(tables, "run_training", lambda command: 1)
    assert main(["evaluate", "table", "layers", "--out", str(tmp_path), "--steps", "1"]) == 2
    assert "ended with 1" in capsys.readouterr().err
