"""The tables: the paper's thresholds at our token count, rows that differ in what they say, variants really trained."""

import json
from pathlib import Path

import pytest

from squeeze.cli import main
from squeeze.evaluation import tables
from squeeze.evaluation.tables import TABLES, scaled, train_variant
from squeeze.models.aggregation import Aggregation
from squeeze.models.profiles import PROFILES
from squeeze.pipeline import default_request, plan

PLUSH = PROFILES["plush"]


def rows(name: str):
    return TABLES[name][1](PLUSH)


@pytest.mark.parametrize(
    ("t", "tokens", "ours"), [(0.95, 16, 0.54), (0.85, 16, 0.26), (0.95, 64, 0.70), (0.85, 64, 0.41)]
)
def test_thresholds_at_equal_signal_to_noise(t: float, tokens: int, ours: float):
    assert scaled(t, tokens) == pytest.approx(ours, abs=0.006)
    assert scaled(t, 4096) == t


def test_the_papers_own_row_has_the_profiles_borders():
    default = plan(PLUSH, default_request(PLUSH, prompt="", references=()))[1]
    asked = [row.asked for row in rows("thresholds")]
    assert asked[2] == {"stage_steps": default, "cfg": 2.5}
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


def test_a_table_is_resumed_and_written(tmp_path: Path, capsys, monkeypatch):
    drawn, generate = [], tables.plush.generate
    monkeypatch.setattr(tables.plush, "generate", lambda *given: drawn.append(1) or generate(*given))
    command = ["evaluate", "table", "late_text", "--n", "2", "--out", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in first["rows"]] == ["drop", "keep"]
    assert len(drawn) == 6, "two rows of two cases and one with the facing left open"
    assert main(command) == 0
    assert len(drawn) == 6, "a finished table was drawn again"
    assert "| drop |" in capsys.readouterr().out


def test_a_variant_is_trained_once(tmp_path: Path, monkeypatch):
    row = rows("layers")[0]
    folder = train_variant(row.trained, PLUSH, tmp_path, steps=2, processes=1, seed=0)
    assert Aggregation.from_pretrained(folder / "aggregation").config["read"] == [1, 2]
    told = json.loads((folder / "training.json").read_text())
    assert [run["part"] for run in told["runs"]] == ["phase1", "phase2"]
    monkeypatch.setattr(tables.subprocess, "run", lambda *_, **__: pytest.fail("trained again"))
    assert train_variant(row.trained, PLUSH, tmp_path, steps=2, processes=1, seed=0) == folder


@pytest.mark.parametrize(
    ("flags", "says"),
    [(["--only", "no such"], "has no row"), (["--steps", "0"], "at least 1"), (["--n", "0"], "at least 1")],
)
def test_mistakes_get_a_sentence(flags: list[str], says: str, tmp_path: Path, capsys):
    assert main(["evaluate", "table", "layers", "--out", str(tmp_path), *flags]) == 2
    assert says in capsys.readouterr().err


def test_a_training_that_fails_is_said(tmp_path: Path, capsys, monkeypatch):
    class Failed:
        returncode = 1

    monkeypatch.setattr(tables.subprocess, "run", lambda *_, **__: Failed())
    assert main(["evaluate", "table", "layers", "--out", str(tmp_path), "--steps", "1"]) == 2
    assert "ended with 1" in capsys.readouterr().err
