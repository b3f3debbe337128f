"""A closed tab is really heard: the visit is forgotten, also in the middle of a run. The page runs in this process."""

import threading

import pytest
from browsing import SLOW, opened, set_steps
from conftest import free_port
from tiny import random_picture

from squeeze.ui.page import build, launch
from squeeze.ui.visits import Visits


@pytest.fixture
def heard(monkeypatch):
    """The store of visits of the next page that is built, and an event that is set once a visit was forgotten."""
    made, left = [], threading.Event()
    first, leave = Visits.__init__, Visits.leave

    def init(self, *arguments):
        first(self, *arguments)
        made.append(self)

    def forget(self, session):
        leave(self, session)
        left.set()

    monkeypatch.setattr(Visits, "__init__", init)
    monkeypatch.setattr(Visits, "leave", forget)
    return made, left


def test_a_closed_tab_forgets_the_visit(models, browser, heard, tmp_path):
    (made, left), blocks = heard, build(models)
    random_picture(0).save(tmp_path / "toy.png")
    address = launch(blocks, "127.0.0.1", free_port())
    try:
        for steps in (2, 100):  # after its run, and in the middle of one
            left.clear()
            page = opened(address, browser.new_context())
            page.set_input_files("#reference input[type=file]", tmp_path / "toy.png")
            page.wait_for_selector("#looked .check")
            page.fill("#prompt textarea", "a toy")
            set_steps(page, steps)
            page.wait_for_function(f"document.querySelectorAll('.timeline .steps i').length == {steps}")
            page.click("#generate")
            page.wait_for_selector(".timeline .steps i.on >> nth=1", state="attached")
            assert len(made[0]._visits) == 1
            page.context.close()
            assert left.wait(SLOW / 1000), "the page does not hear that a tab was closed"
            assert not made[0]._visits, "a visit outlives its tab"
    finally:
        blocks.close()
