"""Shared fixtures: tiny random models, written once and loaded as the program loads its own; the page, served once,
and a browser."""

import os
from dataclasses import replace

import pytest
import torch
from browsing import FORGET, WINDOW, enter, listened, opened, remove, visited
from pictures import SIDE
from pressing import BALANCE
from serving import CAMERA, FLAGS, NO_CHROMIUM, chromium, serving
from tiny import make_request, random_picture, tiny_profile, write_models
from tiny_metrics import write_bench, write_metrics

from squeeze.checks import SENTENCES, inspect
from squeeze.evaluation import likeness
from squeeze.evaluation.metrics import load_metrics
from squeeze.models.loading import load
from squeeze.ui.handlers import Handlers
from squeeze.ui.timeline import state


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Tiny weights on disk; read-only by agreement, copy it before you damage it."""
    path = tmp_path_factory.mktemp("tiny")
    write_models(path)
    return path


@pytest.fixture(scope="session")
def models(folder):
    """The tiny models as `load` gives them."""
    return load(tiny_profile(folder))


@pytest.fixture
def request_for(models):
    """Makes a request of the tiny profile; keywords are fields of Request."""

    def make(**asked):
        return make_request(models.profile, **asked)

    return make


@pytest.fixture
def forwards(models):
    """The keyword arguments of every transformer forward of this test, in order."""
    seen = []
    handle = models.dit.model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs), with_kwargs=True)
    yield seen
    handle.remove()


# --- references looked at -------------------------------------------------------------------------------------------


@pytest.fixture
def wanting(models):
    """The tiny models with a profile that wants references of `reference` pixels."""

    def make(reference=SIDE, square=True):
        limits = replace(models.profile.limits, reference=reference)
        return replace(models, profile=replace(models.profile, square=square, limits=limits))

    return make


@pytest.fixture
def said(wanting):
    """The codes of the notices on a picture or file."""

    def say(source, box=None, **profile):
        found = inspect(wanting(**profile), source, box=box).notices
        assert [n.code for n in found] == sorted({n.code for n in found}, key=list(SENTENCES).index), "order, or twice"
        assert all("{" not in str(n) and str(n).endswith(".") for n in found), "a sentence is not filled"
        return {n.code for n in found}

    return say


# --- DreamBench in small --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """The models that score, with random weights on disk."""
    return write_metrics(tmp_path_factory.mktemp("metrics"))


@pytest.fixture(scope="session")
def metrics(checkpoints):
    return load_metrics(checkpoints, torch.device("cpu"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Subjects and prompts in the benchmark's layout; read-only by agreement."""
    return write_bench(tmp_path_factory.mktemp("data") / "dataset")


# --- the page without a browser -------------------------------------------------------------------------------------


@pytest.fixture
def handlers(models):
    return Handlers(models, [])


@pytest.fixture
def form(tmp_path):
    """A whole form as the page sends it; keywords change it."""
    random_picture(0).save(tmp_path / "toy.png")

    def make(balance=BALANCE, counts=(2, 2, 2), touched=True, earlier=(), **changed):
        filled = {
            "reference": {"path": str(tmp_path / "toy.png")}, "prompt": "a toy", "steps": 6, "cfg": 1, "seed": 7,
            "random": False, "eta": 0, "uncond": "lean", "late_text": "drop",
            "timeline": state(counts, balance, touched=touched, earlier=earlier),
        }  # fmt: skip
        return filled | changed

    return make


@pytest.fixture
def few_renders(monkeypatch):
    """Pictures are compared with so many renders that it takes no time."""
    monkeypatch.setattr(likeness, "RENDERS", 8)


# --- the page and a browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The folder of the server's uploads and pictures."""
    return tmp_path_factory.mktemp("server") / "files"


@pytest.fixture(scope="session")
def server(files):
    """The address of `python app.py`, started once."""
    with serving(files.parent) as (address, _):
        yield address
    written = (files.parent / "log").read_text()
    assert "Traceback" not in written, f"A visitor's slip printed a traceback on the server: {written[-3000:]}"


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium with a camera; without one these tests are skipped, except on CI."""
    from playwright.sync_api import sync_playwright

    if (path := chromium()) is None:
        pytest.fail(NO_CHROMIUM) if os.environ.get("CI") else pytest.skip(NO_CHROMIUM)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS + CAMERA)
        yield started
        started.close()


@pytest.fixture(scope="session")
def shared(browser):
    """The browser of all tests that are of one visitor with one tab: it has loaded the page's scripts before."""
    return visited(browser)


@pytest.fixture(scope="session")
def tab(server, shared):
    """Their tab, which stays: opening the page in it takes half of what it takes in a new one. Between tests it shows a
    file of the server, from where what pages have stored is cleared once they are left."""
    tab = listened(shared.new_page())
    tab.goto(f"{server}/theme.css")
    return tab


@pytest.fixture
def page(server, tab):
    """The page, opened anew. Afterwards nothing may have been written to its console, and nothing is left: a run ends
    with its page."""
    tab.set_viewport_size(WINDOW)
    tab.emulate_media(color_scheme="light", reduced_motion="no-preference")
    enter(tab, server)
    yield tab
    written = tab.written[:]
    tab.goto(f"{server}/theme.css")
    tab.evaluate(FORGET)
    tab.written.clear()
    assert not written, f"the browser's console says: {written}"


@pytest.fixture
def visit(server, browser, shared, tab):
    """Opens the page, or `query` of it, in another tab of the browser that all share, or in one of its `own`:
    a browser has six connections to a server, and two runs at once take them. Afterwards nothing may have been written
    to a console, and nothing is left."""
    pages = []

    def open_page(query="", own=False):
        context = visited(browser) if own else shared
        pages.append(opened(server + query, context))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close() if page.context is shared else page.context.close()
    tab.evaluate(FORGET)
    written = [text for page in pages for text in page.written]
    assert not written, f"the browser's console says: {written}"


@pytest.fixture(scope="session")
def stays(server, browser):
    """The page in a tab that stays."""
    return opened(server, visited(browser))


@pytest.fixture
def idle(stays):
    """One page for all tests that start no run, at its top and with an empty box; each sets all else that it looks at,
    and leaves no part open. Afterwards nothing may have been written to its console."""
    if stays.locator("#reference img").count():
        remove(stays)
    stays.evaluate("scrollTo(0, 0)")
    yield stays
    written = stays.written[:]
    stays.written.clear()
    assert not written, f"the browser's console says: {written}"
