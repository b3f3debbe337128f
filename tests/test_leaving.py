"""What is left is really forgotten: the visit of a closed tab, also in the middle of a run; kept runs; old files. The
page runs in this process."""

import threading
import time

import pytest
from browsing import SLOW, drawn, ended, opened, pick, set_steps, start
from measure_page import contents
from serving import caller, free_port
from tiny import random_picture

from squeeze.ui.bounds import trim
from squeeze.ui.page import SESSIONS, build, launch
from squeeze.ui.visits import Visits


@pytest.fixture
def heard(monkeypatch):
    """The store of visits of the next page that is built, and an event that is set once a visit was forgotten."""
    made, left = [], threading.Event()
    first, leave = Visits.__init__, Visits.leave

    def init(self, *arguments):
        first(self, *arguments)
        made.append(self)

    def forget(self, session, unused=0):
        more = leave(self, session, unused)
        if not more:
            left.set()
        return more

    monkeypatch.setattr(Visits, "__init__", init)
    monkeypatch.setattr(Visits, "leave", forget)
    return made, left


def asking(address, browser, folder, steps):
    """A visitor's page with a whole request filled in."""
    random_picture(0).save(folder / "toy.png")
    page = opened(address, browser.new_context())
    page.set_input_files("#reference input[type=file]", folder / "toy.png")
    page.wait_for_selector("#looked .check")
    page.fill("#prompt textarea", "a toy")
    set_steps(page, steps)
    return page


def test_a_branch_on_a_run_that_is_gone_gets_a_sentence(models, browser, heard, tmp_path):
    (made, _), blocks = heard, build(models)
    try:
        page = asking(launch(blocks, "127.0.0.1", free_port()), browser, tmp_path, steps=3)
        drawn(page)
        page.click(".frame >> nth=0")
        page.wait_for_selector("#branch:enabled")
        made[0]._visits.clear()  # as the bounds do where others need the room
        start(page, "#branch")
        assert "no longer kept" in ended(page)
        assert page.is_disabled("#branch")
        drawn(page)
        assert not page.written
        page.context.close()
    finally:
        blocks.close()


def test_files_are_deleted_when_they_are_old(models, monkeypatch, tmp_path):
    """Uploads, examples, pictures: the bound is what an hour brings."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    monkeypatch.setattr("squeeze.ui.bounds.OLDEST", 2)
    monkeypatch.setattr("squeeze.ui.bounds.EVERY", 0.1)
    blocks = build(models)
    try:
        caller(launch(blocks, "127.0.0.1", free_port()))(prompt="a toy", steps=2)
        assert contents(tmp_path / "files"), "the test looks in the wrong place"
        until = time.monotonic() + SLOW / 1000
        while left := list((tmp_path / "files").rglob("*")):
            assert time.monotonic() < until, f"these stay for ever: {left}"
            time.sleep(0.1)
    finally:
        blocks.close()


def test_no_file_of_a_page_is_forgotten(models, browser, monkeypatch, tmp_path):
    """An upload, an example, a crop, two pictures and their comparison are all on the list of what gets too old."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    blocks = build(models)
    try:
        page = asking(launch(blocks, "127.0.0.1", free_port()), browser, tmp_path, steps=2)
        drawn(page)
        pick(page)
        page.click("#looked .crop")
        page.focus(".cropping .edge >> nth=0")
        page.keyboard.press("PageDown")
        before = page.get_attribute("#looked .seen img >> nth=0", "src")
        page.click(".cropping .use")
        page.wait_for_function("src => document.querySelector('#looked .seen img').src !== src", arg=before)
        drawn(page)
        assert len(contents(tmp_path / "files")) > 4
        trim(blocks, 0, 0)
        assert not contents(tmp_path / "files"), "these stay for ever"
        page.context.close()
    finally:
        blocks.close()


def test_a_visit_does_not_grow_with_every_picture(models, browser, monkeypatch, tmp_path):
    monkeypatch.setattr("squeeze.ui.bounds.EVERY", 0.5)
    blocks = build(models)
    try:
        page = asking(launch(blocks, "127.0.0.1", free_port()), browser, tmp_path, steps=3)
        for _ in range(2):
            drawn(page)
        assert blocks.app.state_holder.capacity == SESSIONS
        states, until = list(blocks.app.state_holder.session_data.values()), time.monotonic() + SLOW / 1000
        assert states
        while copies := [set(state.blocks_config.blocks) - set(blocks.blocks) for state in states if state]:
            if not any(copies):
                break
            assert time.monotonic() < until, f"gradio keeps copies of components: {copies}"
            page.wait_for_timeout(100)
        drawn(page)
        assert not page.written
        page.context.close()
    finally:
        blocks.close()


def test_a_closed_tab_forgets_the_visit(models, browser, heard, monkeypatch, tmp_path):
    monkeypatch.setattr("squeeze.ui.page.AWAY", 0.5)
    (made, left), blocks = heard, build(models)
    address = launch(blocks, "127.0.0.1", free_port())
    try:
        for steps in (2, 100):  # after its run, and in the middle of one
            left.clear()
            page = asking(address, browser, tmp_path, steps)
            page.wait_for_function(f"document.querySelectorAll('.timeline .steps i').length == {steps}")
            page.click("#generate")
            page.wait_for_selector(".timeline .steps i.on >> nth=1", state="attached")
            assert len(made[0]._visits) == 1
            page.context.close()
            assert left.wait(SLOW / 1000), "the page does not hear that a tab was closed"
            assert not made[0]._visits, "a visit outlives its tab"
    finally:
        blocks.close()
