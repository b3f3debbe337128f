"""Times of the benchmark: interleaved within their minutes, compared, and shown. Nothing is timed here: the seconds are
made up."""

import json
from pathlib import Path

import pytest
import torch

from squeeze.bench import run, timing
from squeeze.bench.rows import Row, as_dict, as_markdown, at_most, attempted, compared, timed
from squeeze.bench.scene import Bench, furthest
from squeeze.bench.sizes import SIZES

CPU = torch.device("cpu")


@pytest.fixture
def watch(monkeypatch):
    """A clock that only moves when a side runs; `side(name, seconds)` makes one, `watch.ran` are the runs in order."""

    class Watch:
        now, ran = 0.0, []

        def side(self, name, seconds):
            def work():
                self.now += seconds
                self.ran.append(name)

            return work

    watch = Watch()
    watch.ran = []
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(timing.time, name, lambda: watch.now)
    return watch


def test_sides_are_interleaved_and_the_first_runs_not_counted(watch):
    sides = {"a": watch.side("a", 1.0), "b": watch.side("b", 2.0)}
    times = timing.interleaved(sides, timing.Clock(10), CPU, rounds=2)
    assert watch.ran == ["a", "b"] * 3
    assert times == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


def test_repetitions_shrink_to_the_blocks_share(watch):
    clock = timing.Clock(1)
    clock.share(3)  # 20 seconds
    times = timing.interleaved({"a": watch.side("a", 6.0)}, clock, CPU)
    assert len(times["a"]) == 2, "18 of 20 seconds hold the warm-up and two rounds"
    assert watch.now <= clock.until
    clock.share(2)
    assert clock.until == pytest.approx(39), "half of the 42 seconds that are left"


def test_one_round_at_least_and_none_once_the_minutes_are_over(watch):
    clock = timing.Clock(1)
    clock.share(10)
    assert len(timing.interleaved({"a": watch.side("a", 20.0)}, clock, CPU)["a"]) == 1
    with pytest.raises(timing.OutOfTime, match="--minutes"):
        timing.interleaved({"a": watch.side("a", 30.0)}, clock, CPU)
    (row,) = attempted("late", run._block(Bench(SIZES["tiny"], CPU, clock, Path()), "loop"))
    assert row.value is None
    assert "1 minutes were over" in row.note


def test_measurements_of_a_block_share_what_it_may_take(watch):
    clock = timing.Clock(1)
    clock.share(2)  # 30 seconds
    clock.part(2)
    assert len(timing.interleaved({"a": watch.side("a", 4.0)}, clock, CPU)["a"]) == 2, "12 of 15 seconds"
    clock.part(1)
    assert len(timing.interleaved({"a": watch.side("a", 4.0)}, clock, CPU)["a"]) == 3, "16 of the 18 that are left"


def test_sides_that_have_run_are_not_run_for_nothing(watch):
    timing.interleaved({"a": watch.side("a", 1.0)}, timing.Clock(10), CPU, rounds=1, warm=True)
    assert watch.ran == ["a"]


def test_a_call_is_over_when_the_card_has_done_it(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append(device.type))
    timing.seconds(lambda: done.append("asked"), torch.device("cuda"))
    assert done == ["cuda", "asked", "cuda"], "what was asked before is counted, or what is still to be done is not"


def test_medians_and_quartiles_are_of_the_ratios_of_each_round():
    times = {"a": [2.0, 3.0, 8.0, 5.0, 4.0], "b": [1.0, 1.0, 2.0, 1.0, 1.0]}
    assert timing.ratio(times, "a", "b") == timing.Spread(median=4.0, low=3.0, high=4.0, count=5)
    for limit, kept in (({"most": 3.5}, False), ({"least": 3.5}, True)):
        assert compared("step", times, "a", "b", True, **limit).kept is kept
    seconds = [(row.what, row.value, row.unit) for row in timed("step", times, True)]
    assert seconds == [("step: a", 4.0, "s"), ("step: b", 1.0, "s")]
    alone = compared("step", times, "a", "b", False, least=3.5)
    assert (alone.kept, alone.goal) == (None, None), "a goal for a card cannot be missed by a CPU"
    assert "ratio only" in alone.note
    assert not list(timed("step", times, False))


def test_two_rounds_decide_nothing():
    row = compared("step", {"a": [2.0, 2.0], "b": [1.0, 1.0]}, "a", "b", True, most=1.5)
    assert (row.value, row.goal, row.kept) == (2.0, "<= 1.5", None)
    assert "Too few rounds" in row.note


def test_what_is_no_number_is_missed_and_still_json():
    row = as_dict(at_most("apart", furthest(torch.tensor([float("nan")]), torch.zeros(1)), 1e-4))
    assert (row["value"], row["kept"]) == (None, False)
    assert "No number" in json.loads(json.dumps(row, allow_nan=False))["note"]
    made = dict.fromkeys(("device", "size", "dtype", "attention", *run.LIBRARIES), "1")
    table = as_markdown({"made": made, "blocks": {"loop": {"date": "2000-01-01", "rows": [row]}}})
    assert "| loop | apart | no number |  | <= 0.0001 **missed** |" in table


def test_the_table_shows_what_was_missed_and_how_often_it_was_measured():
    made = dict.fromkeys(("device", "size", "dtype", "attention", *run.LIBRARIES), "1")
    rows = [at_most("much", 2.0, 1.0), Row(what="spread", value=1.5, unit="x", low=1.0, high=2.0, count=7)]
    blocks = {"loop": {"date": "2000-01-01", "rows": [as_dict(row) for row in rows]}}
    table = as_markdown({"made": made, "blocks": blocks})
    assert "| loop | much | 2 |  | <= 1 **missed** | measured |  |" in table
    assert "| loop | spread | 1.5 x | 1 to 2 (7) |  | measured |  |" in table
    assert "2000-01-01" in table
