"""The line at the device: first come, first served, one place for each visitor, bounded, with a place and a time that
are true."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import gradio as gr
import pytest
from pressing import ANN, BOB, PARTS, whole

from squeeze.ui.line import Line, LineError

NAMES = ("ann", "bob", "cid", "dan", "eve")


def ahead(line, place):
    """What is before a place now, None when it has the device."""
    return next(line.wait(place), None)


def test_who_comes_first_is_served_first():
    line = Line()
    places = [line.enter(name, 10) for name in NAMES]
    for gone, first in enumerate(places):
        assert ahead(line, first) is None
        assert [ahead(line, one).place for one in places[gone + 1 :]] == list(range(1, len(places) - gone))
        line.leave(first)
    assert not line.busy


def test_who_leaves_the_middle_lets_those_behind_move_up():
    line = Line()
    places = [line.enter(name, 10) for name in NAMES]
    line.leave(places[2])
    assert [ahead(line, one).place for one in (places[1], places[3], places[4])] == [1, 2, 3]


def test_one_visitor_cannot_take_the_whole_line():
    line = Line()
    running = line.enter("ann", 10)
    waiting = line.enter("ann", 10)
    with pytest.raises(LineError, match=r"waiting in line already.+stop it"):
        line.enter("ann", 10)
    line.enter("bob", 10)
    line.leave(running)
    line.enter("ann", 10)  # the one that waited has its turn
    assert ahead(line, waiting) is None


def test_a_full_line_says_what_to_do():
    line = Line(room=2)
    places = [line.enter(name, 10) for name in NAMES[:3]]
    with pytest.raises(LineError, match=r"2 visitors are waiting.+Try again"):
        line.enter("dan", 10)
    line.leave(places[0])
    line.enter("dan", 10)


def test_the_time_left_is_that_of_the_forwards_ahead():
    line = Line()
    running, second, third = (line.enter(name, forwards) for name, forwards in zip(NAMES, (20, 50, 8), strict=False))
    assert ahead(line, second).seconds is None, "a time was told before any forward was timed"
    line.stepped(running, 2, 1.0)
    assert ahead(line, second).seconds == 18 * 0.5
    assert ahead(line, third).seconds == (18 + 50) * 0.5
    line.leave(running)
    assert ahead(line, third).seconds == 50 * 0.5


def test_many_threads_have_the_device_one_at_a_time():
    line, inside, seen = Line(room=100), [], []

    def visitor(name):
        place = line.enter(name, 1)
        for _ in line.wait(place):
            pass
        inside.append(name)
        seen.append(list(inside))
        time.sleep(0.001)
        inside.remove(name)
        line.leave(place)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(visitor, map(str, range(64))))
    assert [len(together) for together in seen] == [1] * 64, "two runs had the device at once"
    assert not line.busy


def test_a_full_line_reaches_page_and_api_as_a_sentence(handlers, form):
    handlers.line = Line(room=0)
    first = handlers.run(PARTS, form(), ANN)
    next(first)
    shown = []
    with pytest.raises(gr.Error, match="the line takes no more"):
        shown.extend(handlers.run(PARTS, form(), BOB))
    assert 'data-state="failed"' in shown[-1]["status"]
    asked = {"reference": form()["reference"], "prompt": "a toy", "steps": 2}
    with pytest.raises(gr.Error, match="the line takes no more"):
        next(handlers.generate(SimpleNamespace(session_hash="cid", headers={}), **asked))
    assert 'data-state="done"' in whole(first)["status"]


def test_agents_wait_each_by_itself(handlers, form):
    """They all come in one session, that of gradio's MCP server."""
    agent = SimpleNamespace(session_hash="mcp", headers={"x-gradio-user": "mcp"})
    asked = {"reference": form()["reference"], "prompt": "a toy", "steps": 2, "cfg": 1}
    runs = [handlers.generate(agent, **asked) for _ in range(3)]
    next(runs[0])
    assert [next(run)[1]["place"] for run in runs[1:]] == [1, 2]
    for run in runs:
        run.close()


def test_leaving_while_waiting_takes_nothing(handlers, form):
    asked = {"reference": form()["reference"], "prompt": "a toy", "steps": 2, "cfg": 1}
    first, waiting = (
        handlers.generate(SimpleNamespace(session_hash=name, headers={}), **asked) for name in ("ann", "bob")
    )
    next(first)
    assert next(waiting)[1]["place"] == 1
    waiting.close()
    assert handlers.visits.newest("bob") is None, "a run that never began takes one's place that is on the page"
    assert list(first)[-1][1]["steps"] == 2, "a visitor who left the line disturbed the one who was running"
    assert not handlers.line.busy


def test_a_run_that_is_closed_frees_the_device_for_the_next(handlers, form):
    first, second = (handlers.run(PARTS, form(), visitor) for visitor in (ANN, BOB))
    for _ in range(4):
        next(first)
    next(second)  # what changes at the press
    assert "next in line" in next(second)["status"]
    first.close()
    assert 'data-state="done"' in whole(second)["status"]
    assert not handlers.line.busy
