"""`evaluate plush --photos`: one picture a subject, judged by how sure the probe is of it."""

import json
import os

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
    assert list(said[0]["confidence"]) == ["can", "dog", "grey_sloth_plushie"]
    with Image.open(sheets[0]) as sheet:
        assert sheet.size == (8 * 132, 266)
    assert main([*COMMAND, str(tmp_path / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_what_cannot_show_is_not_judged(tmp_path, monkeypatch):
    bench = read_bench(write_bench(tmp_path / "data"))

    class Sure:
        def read(self, pixels: torch.Tensor) -> Reading:
            sure = {name: torch.tensor([0.0 if name == "tail" else 0.9]) for name in HEADS}
            return Reading(index={}, confidence=sure, azimuth=torch.zeros(1))

    drawn = list(photos.evaluate(load(find_profile("plush")), Sure(), bench, steps=1))
    assert [one.confidence for one in drawn] == [0.9] * 3


def test_the_border_counts():
    figures = summary([photo("can", 0.8), photo("dog", 0.79), photo("cat", 1.0)])
    assert figures["sure"] == 2
    assert "2 of 3" in photos.as_markdown(figures)
    assert "| dog | 79% |" in photos.as_markdown(figures)


@pytest.mark.skipif("DREAMBENCH_DIR" not in os.environ, reason="DREAMBENCH_DIR names no folder of real photos")
def test_real_photos_give_toys(capsys):
    assert main([*COMMAND[:3], "--photos", os.environ["DREAMBENCH_DIR"]]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["sure"] >= 0.7 * figures["photos"], figures
