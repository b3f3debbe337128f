"""Results on disk: each comes back, a damaged one is none, and no two runs in one folder."""

import json
from pathlib import Path

import pytest

from squeeze.evaluation.records import EvaluationError, Records


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_result_comes_back_as_it_was(tmp_path: Path):
    records = Records(tmp_path)
    assert records.read("dog/00_0") is None
    records.write("dog/00_0", {"prompt": "ein Häschen 🐰", "dino_i": 0.123456})
    assert records.read("dog/00_0") == {"prompt": "ein Häschen 🐰", "dino_i": 0.123456}
    assert files(tmp_path) == {"cases/dog/00_0.json"}, "something beside the result was left"


@pytest.mark.parametrize("rubbish", ["", "{", "[1]", "\x00"])
def test_a_damaged_result_is_none(tmp_path: Path, rubbish: str):
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "a.json").write_text(rubbish)
    assert Records(tmp_path).read("a") is None


def test_one_run_a_folder(tmp_path: Path):
    records = Records(tmp_path)
    records.claim({"profile": "plush", "revision": "one", "seeds": 4})
    records.claim({"profile": "plush", "revision": "one", "seeds": 4})
    with pytest.raises(EvaluationError) as caught:
        records.claim({"profile": "plush", "revision": "two", "seeds": 4})
    assert 'revision "one" there, "two" now' in str(caught.value)
    assert "seeds" not in str(caught.value), "what is the same is no reason"
    with pytest.raises(EvaluationError, match="cfg nothing there, 3 now"):
        records.claim({"profile": "plush", "revision": "one", "seeds": 4, "cfg": 3})
    assert json.loads((tmp_path / "run.json").read_text())["revision"] == "one"


def test_results_of_nobody_knows_whom(tmp_path: Path):
    records = Records(tmp_path)
    records.claim({"seeds": 4})
    records.write("a", {})
    for damage in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        damage(tmp_path / "run.json")
        with pytest.raises(EvaluationError, match="nobody knows"):
            records.claim({"seeds": 4})
