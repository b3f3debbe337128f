"""The balance sweep as a picture: what lies further right has followed the prompt better."""

from xml.etree import ElementTree

import pytest

from squeeze.cli import main
from squeeze.evaluation import tables
from squeeze.evaluation.curve import COLOURS, as_svg

SVG = "{http://www.w3.org/2000/svg}"


def row(balance, prompt, identity):
    near = {"prompt_mean": prompt, "identity_mean": identity, "proportions_off": 0.3}
    within = {f"{key}_interval": value and [value - 0.02, value + 0.02] for key, value in near.items()}
    return {"asked": {"balance": balance}} | near | within


ROWS = [
    row([0, 0.5, 1], 0.9, 0.5),
    row([1, 0.5, 1], 0.3, 0.7),
    row([0.5, 0.5, 1], 0.6, 0.6),
    row([0, 0, 1], 0.95, 0.4),
    row([0, 0.5, 0], 0.92, 0.3),
]


def test_each_stage_is_a_line_in_the_order_of_its_balance():
    lines = list(ElementTree.fromstring(as_svg(ROWS)).iter(f"{SVG}polyline"))
    assert [line.get("stroke") for line in lines] == list(COLOURS)
    corners = [[tuple(map(float, corner.split(","))) for corner in line.get("points").split()] for line in lines]
    assert [len(line) for line in corners] == [3, 2, 2]
    (paper, both, identity), *_ = corners
    assert paper in corners[1], "the paper's preset lies on every line"
    assert paper in corners[2]
    assert identity[0] < both[0] < paper[0], "less of the prompt lies left"
    assert identity[1] < both[1] < paper[1], "more of the identity lies above"
    halfway = [(a + b) / 2 for a, b in zip(paper, identity, strict=True)]
    assert both == pytest.approx(halfway, abs=0.2)


def test_everything_lies_within_the_picture():
    drawn = ElementTree.fromstring(as_svg(ROWS))
    width, height = map(float, drawn.get("viewBox").split()[2:])
    for line in drawn.iter(f"{SVG}line"):
        assert all(0 <= float(line.get(f"x{end}")) <= width for end in (1, 2))
        assert all(0 <= float(line.get(f"y{end}")) <= height for end in (1, 2))


def test_rows_without_an_interval_are_left_out():
    """Of one case there is a mean, of none not even that."""
    lone = ROWS[0] | {"prompt_mean_interval": None, "identity_mean_interval": None}
    for rows in ([lone], [lone | {"prompt_mean": None, "identity_mean": None}], []):
        assert not list(ElementTree.fromstring(as_svg(rows)).iter(f"{SVG}circle"))


def test_the_command_writes_it(tmp_path, monkeypatch, capsys):
    more = {"name": "one", "joint": 0.4, "joint_interval": None, "near_copies": 0.0, "near_copies_interval": None}
    more |= {"renders_distance": 30.0, "renders_distance_interval": None}
    more["copy_paste"] = {
        "azimuth_difference": 80.0, "azimuth_interval": None, "recall": 0.1, "recall_interval": None
    }  # fmt: skip
    monkeypatch.setattr(tables, "run_table", lambda *_, **__: iter([one | more for one in ROWS]))
    assert main(["evaluate", "table", "sweep", "--curve", str(tmp_path / "curve.svg")]) == 0
    assert (tmp_path / "curve.svg").read_text() == as_svg(ROWS)
    assert capsys.readouterr().out.count("| one |") == 5
