"""The size of the picture, on a page whose profile leaves a choice, in the browser. The page runs in this process."""

from dataclasses import replace

import pytest
from browsing import drawn, ended, opened, pick, set_slider, shown_recipe, start, tab
from serving import free_port
from tiny import on_cpu, write_longcat

from squeeze.models.loading import load
from squeeze.sampling import schedule, shift_for
from squeeze.ui.page import build, launch
from squeeze.ui.recipes import automatic


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """Of a picture of 32 px the eleventh of 100 steps lies in the second stage, of one of 128 px in the first."""
    folder = tmp_path_factory.mktemp("longcat")
    write_longcat(folder)
    small, large = (schedule(100, shift_for(side * side // 256))[10] for side in (32, 128))
    return replace(on_cpu("longcat", folder), tau1=(small + large) / 2)


@pytest.fixture(scope="module")
def address(profile):
    blocks = build(load(profile))
    yield launch(blocks, "127.0.0.1", free_port())
    blocks.close()


@pytest.fixture
def page(address, browser):
    page = opened(address, browser.new_context())
    yield page
    assert not page.written
    page.context.close()


def measures(page, width, height):
    """Waits until the finished picture is there in its size."""
    page.wait_for_function(
        """([width, height]) => { const img = document.querySelector('.view[data-state=done] img')
            return img?.complete && img.naturalWidth === width && img.naturalHeight === height }""",
        arg=[width, height],
    )


def looks(page, size):
    """Waits until the page says that the VAE gets the reference in `size`."""
    page.wait_for_selector(f"#looked .seen figure >> nth=1 >> text='{size} px'")


def shows(page, counts):
    """Waits until the timeline has so many steps in its stages."""
    shown = "[1, 2, 3].map(stage => document.querySelectorAll(`.timeline .stage-${stage} .steps i`).length)"
    page.wait_for_function(f"wanted => {shown}.join() === wanted.join()", arg=list(counts))


def test_a_size_is_drawn_and_comes_back_with_its_recipe(page):
    pick(page)
    page.fill("#prompt textarea", "a toy on the beach")
    looks(page, "64 × 64")
    set_slider(page, "width", 96)
    set_slider(page, "height", 48)
    looks(page, "96 × 48")
    source = drawn(page)
    measures(page, 96, 48)
    assert {name: shown_recipe(page)[name] for name in ("width", "height")} == {"width": 96, "height": 48}
    set_slider(page, "width", 64)
    looks(page, "64 × 48")
    tab(page, "History")
    page.click(".past")
    page.wait_for_function("document.querySelector('#width input[type=number]').value === '96'")
    looks(page, "96 × 48")
    assert drawn(page) == source, "Generate does not draw the recipe's picture"


def test_a_crop_can_still_be_changed_after_the_size(page):
    pick(page)
    page.click("#looked .crop")
    page.press(".cropping .edge >> nth=2", "PageUp")
    cut = page.inner_text(".cropping .size")
    page.click(".cropping .use")
    page.wait_for_selector("#looked .crop[data-cropped]")
    set_slider(page, "width", 96)
    looks(page, "96 × 64")
    page.click("#looked .crop[data-cropped]")
    assert page.inner_text(".cropping .size") == cut
    page.keyboard.press("Escape")


def test_the_borders_follow_the_size(page, profile):
    small, large = (automatic(profile, steps=100, width=side, height=side) for side in (32, 128))
    assert small != large, "these sizes tell nothing"
    set_slider(page, "steps", 100)
    for side, counts in ((128, large), (32, small)):
        set_slider(page, "width", side)
        set_slider(page, "height", side)
        shows(page, counts)
    set_slider(page, "steps", 99)
    shows(page, automatic(profile, steps=99, width=32, height=32))
    set_slider(page, "steps", 100)
    shows(page, small)


def test_a_size_that_cannot_be_gets_a_sentence(page):
    pick(page)
    page.fill("#prompt textarea", "a toy on the beach")
    set_slider(page, "width", 96)  # a slider that has just appeared may take its old value back
    page.fill("#width input[type=number]", "70")
    page.keyboard.press("Tab")
    start(page)
    assert ended(page) == "Width must be a multiple of 16 from 32 to 128 pixels, not 70."
