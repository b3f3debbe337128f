"""The gallery: one page that needs nothing but its folder, whose text is text."""

import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from tiny import random_picture

from squeeze.evaluation.comparison import PUBLISHED, as_markdown
from squeeze.evaluation.dreambench import Found, summary
from squeeze.evaluation.gallery import SIDE, write_gallery
from squeeze.evaluation.metrics import CHECKPOINTS, SCORES
from squeeze.evaluation.records import Records
from squeeze.evaluation.subjects import Bench, Subject

EVIL = '<img src=x onerror="window.hacked = 1">&\''
NAMES = ("dog", 'my <b>mug & "cup" 100%#')


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A gallery of two subjects with two pictures each, one of which could not be read; its folder and figures."""
    root = tmp_path_factory.mktemp("gallery")
    subjects = []
    for place, name in enumerate(NAMES):
        (root / "data" / name).mkdir(parents=True)
        (root / "pictures" / name).mkdir(parents=True)
        random_picture(place, 900, 600).save(root / "data" / name / "00.jpg")
        random_picture(5 + place, 800, 800).save(root / "pictures" / name / "00_0.png")
        random_picture(9 + place, 64, 64).save(root / "pictures" / name / "01_3.png")
        photos = (root / "data" / name / "00.jpg",)
        subjects.append(Subject(name=name, word="dog", prompts=("a dog", f"a dog {EVIL}"), photos=photos))
    source = Found(root / "pictures", Bench(subjects=tuple(subjects), skipped=(), missing=(), fingerprint="0"))
    records = Records(root / "out")
    for number, case in enumerate(source.cases):
        scores = dict.fromkeys(SCORES, 0.25 * number)
        result = {"skipped": f"broken {EVIL}"} if number == 3 else {"picture": "0", **scores}
        records.write(case.name, {"subject": case.subject.name, **result})
    figures = {
        "name": f"other {EVIL}", "possible": 4, "missing": [], "skipped_data": [],
        "metrics": {name: {"source": hub, "weights": "0"} for name, hub in CHECKPOINTS.items()},
    } | summary(source.cases, records)  # fmt: skip
    folder = root / "out" / "gallery"
    assert write_gallery(folder, source.cases, source, records, figures) == folder / "index.html"
    return folder, figures


def test_the_folder_holds_all_the_page_shows(made):
    folder, _ = made
    page = (folder / "index.html").read_text()
    targets = re.findall(r'href="#([^"]*)"', page)
    assert [page.count(f'<section id="{target}"') for target in targets] == [1, 1], "a link leads nowhere"
    shown = [unquote(unescape(address)) for address in re.findall(r'src="([^"]*)"', page)]
    assert len(shown) == 5, "two references and three scored pictures"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")} == set(shown)
    for name in shown:
        assert max(Image.open(folder / name).size) <= SIDE
    assert "http" not in page, "the page asks somebody else for something"
    assert not list(folder.rglob("*.part"))


def test_text_is_text(made):
    page = (made[0] / "index.html").read_text()
    assert EVIL not in page
    assert "<b>mug" not in page
    assert page.count("&lt;img src=x") == 4, "the system's name in title and heading, a prompt below and beside it"


def test_the_page_in_a_browser(made, browser):
    folder, _ = made
    page = browser.new_page(viewport={"width": 390, "height": 800})
    failed = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.goto(f"file://{folder / 'index.html'}")
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(img => img.complete)")
    assert page.evaluate("[...document.images].every(img => img.naturalWidth > 0)"), f"pictures are missing: {failed}"
    assert page.evaluate("[...document.images].every(img => img.alt.length > 10)")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page is wider than a phone"
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page).response["violations"]
        assert not found, [(one["id"], one["help"]) for one in found]
    page.close()


def test_the_report_names_what_was_skipped(made):
    report = as_markdown(made[1])
    assert "Skipped: 1" in report
    assert "broken" in report
    assert EVIL not in report, "file names become markup"
    assert all(f"| {name} | {row[0]:.4f}" in report for name, row in PUBLISHED.items())
    assert "Not directly comparable: 2 subjects were scored here, 30 there" in report


def test_nothing_is_claimed_of_one_subject():
    row = {"mean": 0.5, "interval": None}
    figures = {
        "name": "a", "possible": 1, "cases": 1, "asked": 1, "missing": ["b"], "skipped_data": [],
        "skipped_pictures": [],
        "metrics": {name: {"source": str(Path("x")), "weights": "0"} for name in CHECKPOINTS},
        "scores": dict.fromkeys(SCORES, row), "subjects": {"dog": {"cases": 1} | dict.fromkeys(SCORES, 0.5)},
    }  # fmt: skip
    assert "| DINO-I | 0.5000 | none for one subject |" in as_markdown(figures)
