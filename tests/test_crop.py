"""The part of a picture that the models get, as a box of shares and as a visitor chooses it."""

import math
import re
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from browsing import drawn, pick, reload, remove, set_steps, shown_recipe, tab
from pictures import data, good, pixels, see_through
from tiny import random_picture

from squeeze.checks import LEAST_CROP, cropped, inspect
from squeeze.images import content_hash, open_picture
from squeeze.request import RequestError
from squeeze.ui.handlers import Handlers
from squeeze.ui.subjects import crop

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "box",
    [
        (0.6, 0, 0.4, 1), (0, 0.6, 1, 0.4), (0.5, 0, 0.5, 1), (0, 1, 1, 0), (-0.1, 0, 1, 1), (0, 0, 1.1, 1),
        (0, 0, 40, 30), (NAN, 0, 1, 1), (0, 0, 1, NAN), (NAN,) * 4, (0, 0, INF, 1), (-INF, 0, 1, 1), (0, 0, 1),
        (0, 0, 1, 1, 1), (), None, "0,0,1,1", 7, {}, (0, 0, True, 1), (False, 0, 1, 1), ("0", "0", "1", "1"),
        (None, 0, 1, 1), ([0], 0, 1, 1), (0, 0, 10**30, 1), [0] * 100_000,
    ],
)  # fmt: skip
def test_a_bad_box(box):
    with pytest.raises(RequestError) as caught:
        cropped(good(), box)
    assert caught.value.code == "crop"
    assert len(str(caught.value)) < 300, "the sentence repeats whatever was sent"


@pytest.mark.parametrize("box", [(0, 0, 0.01, 1), (0, 0, 1, 0.01), (0.5, 0.5, 0.5000001, 0.6), (0, 0, 1e-300, 1)])
def test_a_box_that_leaves_nothing(box):
    with pytest.raises(RequestError, match=r"leaves \d+ × \d+ pixels") as caught:
        cropped(good(), box)
    assert caught.value.code == "small_crop"


def test_a_box_is_shares_of_the_sides():
    picture = good(400, 300)
    part = cropped(picture, [0.25, 0.5, 0.75, 1])
    assert part.size == (200, 150)
    assert np.array_equal(pixels(part), pixels(picture)[150:, 100:300])
    assert cropped(picture, (0, 0, LEAST_CROP / 400, LEAST_CROP / 300)).size == (LEAST_CROP, LEAST_CROP)


@pytest.mark.parametrize("picture", [good(), random_picture(0, 1, 1)], ids=["boxes", "one pixel"])
def test_the_whole_box_changes_nothing(picture):
    for box in ((0, 0, 1, 1), [0.0, 0.0, 1.0, 1.0]):
        assert np.array_equal(pixels(cropped(picture, box)), pixels(picture))


def test_the_parts_of_a_crop_fit_together():
    picture = good(401, 299)
    left, right = (cropped(picture, box) for box in ((0, 0, 0.37, 1), (0.37, 0, 1, 1)))
    assert np.array_equal(np.concatenate([pixels(left), pixels(right)], 1), pixels(picture)), (
        "a column is lost or twice"
    )


def test_inspect_refuses_what_cropped_refuses(wanting):
    for box, code in (((1, 0, 0, 1), "crop"), ((0, 0, 0.001, 1), "small_crop")):
        with pytest.raises(RequestError) as caught:
            inspect(wanting(), data(see_through(0.3)), box=box)
        assert caught.value.code == code


# --- on the page ----------------------------------------------------------------------------------------------------


def give(page, folder):
    """Puts a subject of 400 x 300 pixels into the box; the file."""
    file = folder / "own.png"
    good().save(file)
    page.set_input_files("#reference input[type=file]", file)
    page.wait_for_selector("#looked .check")
    return file


def views_of(page):
    return page.locator("#looked .seen img").evaluate_all("all => all.map(img => img.src)")


def use(page):
    before = views_of(page)
    page.click(".cropping .use")
    page.wait_for_function("src => document.querySelector('#looked .seen img').src !== src", arg=before[0])
    assert all(one != other for one, other in zip(before, views_of(page), strict=True)), "a view stayed as it was"


def test_a_crop_by_keys_is_what_the_models_get_and_what_the_recipe_asks_for(page, tmp_path):
    own = give(page, tmp_path)
    whole = views_of(page)
    page.click("#looked .crop")
    for edge, keys in ((0, ["PageDown", "PageDown", "ArrowRight"]), (3, ["PageUp", "ArrowUp"])):
        page.focus(f".cropping .edge >> nth={edge}")
        for key in keys:
            page.keyboard.press(key)
    assert page.inner_text(".cropping .size") == "316 × 267 px"
    use(page)
    page.fill("#prompt textarea", "in the snow")
    set_steps(page, 2)
    source = drawn(page)
    recipe = shown_recipe(page)
    part = cropped(open_picture(own), (0.21, 0, 1, 0.89))
    assert recipe["references"] == [content_hash(part)]
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "made.png")
    pick(page)
    drop = "#recipe-file input[type=file]"
    page.wait_for_selector(drop, state="attached")
    page.set_input_files(drop, tmp_path / "made.png")  # this visit has used the part
    page.wait_for_selector(".status .line:has-text('The recipe is back')")
    assert drawn(page) == source
    reload(page)
    page.wait_for_selector("#looked .check")  # the part is back
    remove(page)
    tab(page, "Recipe")
    page.wait_for_selector(drop, state="attached")
    page.set_input_files(drop, tmp_path / "made.png")  # this one has not
    page.wait_for_selector(f".status[data-state=failed] .line:has-text('{recipe['references'][0]}')")
    part.save(tmp_path / "part.png")
    page.set_input_files("#reference input[type=file]", tmp_path / "part.png")
    page.wait_for_selector("#looked .check")
    assert drawn(page) == source
    assert whole[0] not in views_of(page)


def test_a_crop_is_taken_further_and_taken_back(idle, tmp_path):
    page = idle
    give(page, tmp_path)
    whole = views_of(page)
    page.click("#looked .crop")
    assert page.is_disabled(".cropping .whole")
    page.press(".cropping .edge >> nth=2", "PageUp")
    use(page)
    page.click("#looked .crop[data-cropped]")
    assert page.inner_text(".cropping .size") == "360 × 300 px", "the frame begins where it was left"
    page.press(".cropping .edge >> nth=1", "PageDown")
    page.keyboard.press("Escape")  # closes the dialog, chooses nothing
    page.click("#looked .crop")
    assert page.inner_text(".cropping .size") == "360 × 300 px"
    page.press(".cropping .edge >> nth=1", "PageDown")
    use(page)
    page.click("#looked .crop")
    assert page.inner_text(".cropping .size") == "360 × 270 px"
    page.click(".cropping .whole")
    use(page)
    assert views_of(page) == whole
    assert page.locator("#looked .crop[data-cropped]").count() == 0


def test_a_frame_is_dragged_by_mouse_and_finger(idle, tmp_path):
    page = idle
    give(page, tmp_path)
    page.click("#looked .crop")
    sheet = page.locator(".cropping .sheet").bounding_box()

    def drag(selector, across, down):
        """Drags by shares of the picture's sides, from the middle of a part."""
        box = page.locator(selector).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + across * sheet["width"], y + down * sheet["height"], steps=3)
        page.mouse.up()

    def near(width, height):
        size = [int(number) for number in re.findall(r"\d+", page.inner_text(".cropping .size"))]
        return abs(size[0] - width) <= 3 and abs(size[1] - height) <= 3

    drag(".cropping .corner[data-corner='23']", -0.5, -0.25)
    assert near(200, 225), page.inner_text(".cropping .size")
    drag(".cropping .edge >> nth=0", 0.25, 0)
    assert near(100, 225)
    drag(".frame-of-crop", 0.1, 0.1)
    assert near(100, 225), "moving the frame changed its size"
    drag(".frame-of-crop", 5, 5)
    assert near(100, 225), "the frame was pushed out of the picture"
    drag(".cropping .edge >> nth=0", 5, 0)
    width, height = re.findall(r"\d+", page.inner_text(".cropping .size"))
    assert int(width) >= LEAST_CROP, "an edge passed the one across from it"
    page.evaluate(
        """() => { const edge = document.querySelectorAll('.cropping .edge')[1], at = edge.getBoundingClientRect()
            const touch = (name, y) => edge.dispatchEvent(new PointerEvent(name, {pointerId: 7, pointerType: 'touch',
                button: 0, clientX: at.x + 4, clientY: y, bubbles: true}))
            edge.setPointerCapture = () => {}
            touch('pointerdown', at.y); touch('pointermove', at.y + 40); touch('pointerup', at.y + 40) }"""
    )
    assert int(re.findall(r"\d+", page.inner_text(".cropping .size"))[1]) < int(height), "a finger moves nothing"
    use(page)


def test_anything_may_be_sent_as_a_crop(models, tmp_path):
    good().save(tmp_path / "own.png")
    sent, digest = {"path": str(tmp_path / "own.png")}, content_hash(good())
    handlers = Handlers(models, [])
    shown, _, looked, uncropped = crop(
        handlers, SimpleNamespace(box=[0, 0, 0.5, 1], whole=digest), sent, None, (), None
    )
    assert (shown["value"].size, uncropped) == ((200, 300), (sent["path"], [0, 0, 0.5, 1]))
    assert "data-cropped" in looked
    back = crop(handlers, SimpleNamespace(box=[0, 0, 1, 1], whole=digest), None, uncropped, (), None)
    assert (back[0]["value"], back[-1]) == (sent["path"], None)
    for box in (None, [], "x", [0, 0, 2, 2], {}, [[]], 3):
        with pytest.raises(gr.Error, match="A crop must be"):
            crop(handlers, SimpleNamespace(box=box, whole=digest), sent, None, (), None)
    for whole, uncropped in ((None, None), ("0" * 16, None), ([], (str(tmp_path / "gone.png"), []))):
        with pytest.raises(gr.Error, match="Give it again"):
            crop(handlers, SimpleNamespace(box=[0, 0, 0.5, 1], whole=whole), sent, uncropped, (), None)
