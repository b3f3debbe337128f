"""The filmstrip of a run in a real browser: it is scrubbed, branched from, and a branch sets every control."""

import io
import urllib.request
from dataclasses import replace

from browsing import (
    ask,
    cells,
    chips,
    chosen,
    drawn,
    ended,
    filled,
    set_steps,
    shown_recipe,
    sliders,
    start,
    tab,
)
from PIL import Image

from squeeze.ui.page import build


def test_the_film_is_scrubbed_and_a_frame_branched_from(page):
    ask(page, steps=6)
    final = drawn(page)
    frames = page.locator(".frame")
    sources = frames.locator("img").evaluate_all("all => all.map(img => img.src)")
    assert frames.count() == 6

    words = page.get_attribute("#view img", "alt")
    assert words.startswith("The finished picture")

    def shows(source):
        page.wait_for_function("src => document.querySelector('#view img').src === src", arg=source)
        label = words if source == final else frames.nth(sources.index(source)).get_attribute("aria-label")
        assert page.get_attribute("#view img", "alt") == label, "the picture is named as another"

    frames.nth(1).hover()
    shows(sources[1])
    page.mouse.move(2, 2)
    shows(final)
    page.evaluate("document.activeElement.blur()")
    for key, place in (("ArrowRight", 0), ("ArrowRight", 1), ("End", 5), ("ArrowLeft", 4), ("Home", 0)):
        page.keyboard.press(key)
        shows(sources[place])
    page.evaluate("document.activeElement.blur()")
    shows(final)
    frames.nth(5).click()
    page.wait_for_selector(".status .line:has-text('Nothing follows the last step')")
    assert page.is_disabled("#branch")
    assert page.locator(".frame[aria-pressed=true]").count() == 0
    frames.nth(2).click()
    page.wait_for_selector("#branch:enabled:has-text('after step 3')")
    page.wait_for_timeout(600)  # no double click
    frames.nth(2).click()
    page.wait_for_selector(".status .line:has-text('Ready when you are')")
    assert page.is_disabled("#branch")
    page.wait_for_timeout(600)
    frames.nth(2).dblclick()
    page.wait_for_selector("#branch:enabled:has-text('after step 3')")
    page.wait_for_timeout(300)
    assert frames.nth(2).get_attribute("aria-pressed") == "true", "a double click took back what it chose"
    set_steps(page, 4)  # the branch is of six steps all the same, and then the page says so
    page.click("#preset label:has(input[value=identity])")
    start(page, "#branch")
    assert ended(page).startswith("Done in")
    branch = page.get_attribute(".view img", "src")
    assert branch != final
    assert shown_recipe(page)["earlier"] == [[3, 0, 0.5, 1]]
    tab(page, "History")
    page.wait_for_selector(".past >> nth=1")
    titles = [page.get_attribute(f".past >> nth={place}", "title") for place in (0, 1)]
    assert [title.endswith("branched after step 3") for title in titles] == [True, False]
    assert (int(page.input_value("#steps input[type=range]")), sum(cells(page))) == (6, 6)
    assert drawn(page) == branch, "Generate after a branch draws another picture"
    tab(page, "Compare")
    page.wait_for_selector("#compare img >> nth=1")
    old = sides(page)
    assert [*map(pixels, old)] == [pixels(final), pixels(branch)], "a picture drawn again is compared with itself"
    set_steps(page, 3)
    newest = drawn(page)
    page.wait_for_function(
        "old => [...document.querySelectorAll('#compare img')].some(img => !old.includes(img.src))", arg=old
    )
    assert {*map(pixels, sides(page))} == {pixels(branch), pixels(newest)}, "two other pictures are compared"


def test_the_film_grows_with_the_run_and_what_is_pointed_at_stays(page):
    ask(page, steps=60)
    start(page)
    filled(page, 12)
    frames = page.locator(".frame")
    page.wait_for_function("document.querySelectorAll('.frame').length >= 10")
    frames.nth(2).hover()
    src = frames.nth(2).locator("img").get_attribute("src")
    page.wait_for_function("src => document.querySelector('#view img').src === src", arg=src)
    steps = page.locator(".timeline .steps i.on").count()
    filled(page, steps + 5)
    assert page.get_attribute("#view img", "src") == src, "the live preview took its place"
    page.evaluate("document.querySelectorAll('.frame')[1].click()")  # the film scrolls on under a mouse
    assert frames.nth(1).get_attribute("aria-pressed") == "false", "it looks chosen, and cannot be branched from"
    assert page.is_disabled("#branch")
    assert page.get_attribute(".status", "data-state") == "busy", "the page no longer says how far the run is"
    page.mouse.move(2, 2)
    assert ended(page).startswith("Done in")
    assert frames.count() == 60
    assert frames.nth(59).get_attribute("aria-label") == "Step 60 of 60, Identity"
    assert page.get_attribute("#view img", "alt").startswith("The finished picture")


def sides(page):
    return page.locator("#compare img").evaluate_all("all => all.map(img => img.src)")


def pixels(address):
    with urllib.request.urlopen(address) as file:
        return Image.open(io.BytesIO(file.read())).convert("RGB").tobytes()


def test_only_pictures_of_few_pixels_show_them(models, page):
    for size, classes in ((64, ["coarse"]), (1024, [])):
        blocks = build(replace(models, profile=replace(models.profile, size=size))).blocks.values()
        named = [part.elem_classes for part in blocks if part.elem_id in ("desk", "more")]
        assert [[name for name in names if name] for names in named] == [classes] * 2, f"{size} pixels"
    page.evaluate("for (const part of document.querySelectorAll('#desk, #more')) part.classList.add('coarse')")
    ask(page, steps=2)
    drawn(page)
    parts = (".view img", ".slot img", ".frame img", ".past img")
    looks = [page.eval_on_selector(part, "img => getComputedStyle(img).imageRendering") for part in parts]
    assert looks == ["pixelated"] * 4
    page.evaluate("for (const part of document.querySelectorAll('.coarse')) part.classList.remove('coarse')")
    looks = [page.eval_on_selector(part, "img => getComputedStyle(img).imageRendering") for part in parts]
    assert looks == ["auto"] * 4, "the nearest pixel of a large picture is shown"


def test_a_branch_sets_every_control_and_generate_draws_it_again(page):
    ask(page, "on the beach", steps=6)
    page.fill("#cfg input[type=number]", "3.1")
    page.click("#late-text label:has(input[value=keep])")
    page.fill("#eta input[type=number]", "0.3")
    drawn(page)
    toy = page.get_attribute("#looked img", "src")
    page.click("#examples button >> nth=1")
    page.wait_for_function("src => document.querySelector('#looked img').src !== src", arg=toy)
    page.fill("#prompt textarea", "in the snow, with a red hat")
    page.fill("#cfg input[type=number]", "1.5")
    page.click("#late-text label:has(input[value=drop])")
    page.click("#uncond label:has(input[value=full])")
    page.fill("#eta input[type=number]", "1")
    set_steps(page, 4)
    page.fill("#seed input", "99")
    page.keyboard.press("Tab")
    assert page.is_checked("#random input")
    page.click(".frame >> nth=2")
    page.wait_for_selector("#branch:enabled:has-text('after step 3')")
    page.click("#preset label:has(input[value=identity])")
    start(page, "#branch")
    assert ended(page).startswith("Done in")
    branch, recipe = page.get_attribute(".view img", "src"), shown_recipe(page)
    now = {
        "prompt": page.input_value("#prompt textarea"), "cfg": float(page.input_value("#cfg input[type=range]")),
        "steps": int(page.input_value("#steps input[type=range]")), "seed": int(page.input_value("#seed input")),
        "uncond": page.input_value("#uncond input:checked"), "late_text": page.input_value("#late-text input:checked"),
        "eta": float(page.input_value("#eta input[type=range]")),
        "balance": list(sliders(page)), "stage_steps": list(cells(page)),
    }  # fmt: skip
    assert now == {name: recipe[name] for name in now}, "a control is not the branched run's"
    assert (now["prompt"], now["cfg"], now["uncond"], now["late_text"]) == ("on the beach", 3.1, "lean", "keep")
    assert now["eta"] == 0.3
    assert page.get_attribute("#looked img", "src") == toy, "the subject is not the branched run's"
    assert not page.is_checked("#random input"), "Generate would draw another seed"
    assert drawn(page) == branch, "Generate after a branch draws another picture"


def test_the_preset_that_helps_against_a_copy_is_set_from_the_status_line(page):
    """The hint itself is put there: whether a model copies is not the page's to decide."""
    ask(page, steps=6)
    drawn(page)
    page.click(".frame >> nth=2")
    page.wait_for_selector("#branch:enabled:has-text('after step 3')")
    page.click("#preset label:has(input[value=both])")
    start(page, "#branch")
    assert ended(page).startswith("Done in")
    page.wait_for_selector(".timeline .branch:not(:empty)")
    for preset, balance in (("both", (0.5, 0.5, 0.5)), ("meaning", (0, 0, 0)), ("paper", (0, 0.5, 1))):
        offer = f'<button type="button" class="offer" data-preset="{preset}">{preset}</button>'
        page.evaluate("offer => document.querySelector('.status .line').insertAdjacentHTML('beforeend', offer)", offer)
        page.click(f".offer[data-preset={preset}]")
        page.wait_for_selector(f"#preset label.selected:has(input[value={preset}])")
        page.wait_for_function(f"document.querySelectorAll('.timeline .chip')[2].textContent == '{balance[2]:.2f}'")
        page.wait_for_selector(".timeline .branch:empty", state="attached")  # what held before the branch is gone too
        page.wait_for_timeout(200)
        assert (sliders(page), chips(page), chosen(page)) == (balance, balance, preset)
