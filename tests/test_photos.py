"""`evaluate plush --photos`: one picture a subject, judged by how sure the probe is of it."""

import json
import os
import shutil

import pytest
import torch
from PIL import Image
from tiny_metrics import write_bench

from squeeze.cli import main
from squeeze.evaluation import photos
from squeeze.evaluation.photos import Photo, summary
from squeeze.evaluation.subjects import read_bench
from squeeze.models.loading import load
from squeeze.models.profiles import find_profile
from squeeze.plush.probe import HEADS, Reading

COMMAND = ["evaluate", "plush", "--json", "--steps", "1", "--photos"]


def photo(subject: str, confidence: float) -> Photo:
    blank = Image.new("RGB", (64, 64))
    return Photo(subject=subject, prompt="in the snow", reference=blank, picture=blank, confidence=confidence)


def test_each_subject_gives_a_picture_and_the_same_every_time(tmp_path, capsys):
    data, sheets = write_bench(tmp_path / "data"), [tmp_path / "a.png", tmp_path / "b.png"]
    (data / "can" / "00.jpg").write_bytes(b"no picture")
    said = []
    for sheet in sheets:
        assert main([*COMMAND, str(data), "--sheet", str(sheet)]) == 0
        out, err = capsys.readouterr()
        said.append(json.loads(out))
        assert "can/00.jpg" in err, "the unreadable photo was not named"
    assert said[0] == said[1]
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    assert said[0]["photos"] == 3
    assert [sentence.split(":")[0] for sentence in said[0]["skipped"]] == ["can/00.jpg"], "not counted"
    assert list(said[0]["confidence"]) == ["can", "dog", "grey_sloth_plushie"]
    side = find_profile("plush").size
    with Image.open(sheets[0]) as sheet:
        assert sheet.size == (8 * (2 * side + 4), 4 * side + 10)
    shutil.rmtree(data / "can")
    assert main([*COMMAND, str(data)]) == 0
    fewer = json.loads(capsys.readouterr().out)["confidence"]
    assert fewer == {name: said[0]["confidence"][name] for name in ("dog", "grey_sloth_plushie")}, "others changed it"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--n", "24"], "--n has no use with --photos"),
        (["--out", "kept"], "--out has no use with --photos"),
        (["--balance", "0,1"], "three numbers"),
        (["--cfg", "0"], "CFG must be"),
        (["--sheet", "sheet.jpg"], "ends in .png"),
        (["--weights", "nowhere"], "there is no folder nowhere"),
        (["--photos", "nowhere"], "There is no folder nowhere"),
    ],
)
def test_mistakes_get_a_sentence(more: list[str], says: str, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, str(write_bench(tmp_path / "data")), *more]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "a mistake left something"


def test_photos_of_strange_shapes_give_toys(tmp_path, capsys):
    data = write_bench(tmp_path / "data")
    Image.new("RGB", (1, 1)).save(data / "can" / "00.jpg")
    Image.new("L", (3000, 1), 200).save(data / "dog" / "00.jpg")
    assert main([*COMMAND, str(data)]) == 0
    assert json.loads(capsys.readouterr().out)["photos"] == 3


def test_what_cannot_show_is_not_judged(tmp_path, monkeypatch):
    bench = read_bench(write_bench(tmp_path / "data"))

    class Sure:
        def read(self, pixels: torch.Tensor) -> Reading:
            sure = {name: torch.tensor([0.0 if name == "tail" else 0.9]) for name in HEADS}
            return Reading(index={}, confidence=sure, azimuth=torch.zeros(1), proportions=torch.zeros(1, 4))

    drawn = list(photos.evaluate(load(find_profile("plush")), Sure(), bench, steps=1))
    assert [one.confidence for one in drawn] == [0.9] * 3


def test_the_border_counts():
    figures = summary([photo("can", 0.8), photo("dog", 0.79), photo("cat", 1.0)])
    assert figures["sure"] == 2
    assert "2 of 3" in photos.as_markdown(figures)
    assert "| dog | 79% |" in photos.as_markdown(figures)
    assert "Skipped" not in photos.as_markdown(figures)
    some = summary([photo("can", 0.8)], ["dog/00.jpg: damaged", "cat: no photo"])
    assert "Skipped: 2\n\n- dog/00.jpg: damaged\n- cat: no photo" in photos.as_markdown(some)


@pytest.mark.skipif("DREAMBENCH_DIR" not in os.environ, reason="DREAMBENCH_DIR names no folder of real photos")
def test_real_photos_give_toys(capsys):
    assert main([*COMMAND[:3], "--photos", os.environ["DREAMBENCH_DIR"]]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["sure"] * 24 >= 20 * figures["photos"], figures
