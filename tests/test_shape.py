"""The shape of the page in a real browser: accessible in every state, light and dark, on every width; nothing moves
while a picture is drawn; the keyboard is enough."""

from pathlib import Path

import axe_playwright_python
import pytest
from browsing import (
    IN_LINE,
    STOP,
    ask,
    calm,
    drawn,
    ended,
    filled,
    line,
    pick,
    rested,
    set_steps,
    shown_recipe,
    start,
    tab,
)

from squeeze.recipe import to_text

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
APART = ["color-contrast", "link-in-text-block", "scrollable-region-focusable"]  # in which looks of one state differ
LOOKS = [("light", 1280), ("dark", 1280), ("light", 390)]
THEIRS = {  # (rule, part of the selector) that gradio writes and no parameter, style or short script can set right
    ("nested-interactive", ".toast-header"): "a toast's head folds it, and holds the button that closes it",
}
OPAQUE = "function all(e) { return !e || getComputedStyle(e).opacity === '1' && all(e.parentElement) }"
WIDTHS = (390, 768, 1280, 1440, 2560)
PARTS = (
    "#ask", "#generate", "#view", "#kept", "#timeline", "#film", "#status", "#branch", "#download", "#tune", "#more",
)  # fmt: skip


@pytest.fixture
def still(page):
    """A page with axe and without transitions: a colour that is on its way has any contrast."""
    page.emulate_media(reduced_motion="reduce")
    page.evaluate(AXE)
    return page


def look(page, state, looks=LOOKS, whole=False):
    """What axe says of the page as it stands, as sentences; of the narrow window by all rules, and of a dark one, only
    where `whole`."""
    said = []
    for mode, width in [*looks, ("dark", 390)] if whole else looks:
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=mode)
        page.wait_for_selector("body.dark" if mode == "dark" else "body:not(.dark)")
        calm(page)  # what follows the width is laid out
        every = mode == "light" and (whole or width == 1280)
        options = {"runOnly": LEVELS if every else APART, "resultTypes": ["violations"]}
        for rule in page.evaluate("options => axe.run(document, options)", options)["violations"]:
            for node in rule["nodes"]:
                where = " ".join(map(str, node["target"]))
                if not any(rule["id"] == name and part in where for name, part in THEIRS):
                    said.append(f"{state}, {mode}, {width} px: {rule['id']} at {where}: {node['failureSummary']}")
    return said


def stop(page):
    """Stops a run, where it is not over already."""
    page.evaluate(STOP)
    rested(page)


def toasted(page):
    """Until a toast is there in full."""
    page.wait_for_selector(".toast-title")
    page.wait_for_function(f"({OPAQUE})(document.querySelector('.toast-title'))")


def test_axe_finds_nothing_in_any_state(still, visit):
    page = still
    said = look(page, "empty", whole=True)
    for looks in (LOOKS[:2], LOOKS[2:]):  # a toast goes by itself, and a run ends
        start(page)
        ended(page)
        toasted(page)
        said += look(page, "failed", looks)
        page.evaluate("document.querySelector('.toast-close')?.click()")  # or it has gone by itself
        page.wait_for_selector(".toast-body", state="detached")
    ask(page, "on the beach, cyberpunk", steps=100)
    page.wait_for_selector("#looked img")
    said += look(page, "asked")
    page.click("#looked .crop")
    said += look(page, "cropping")
    page.click(".cropping .cancel")
    other = visit(own=True)  # two runs of one browser would wait for its connections
    ask(other, steps=100)
    for looks in (LOOKS[:2], LOOKS[2:]):
        start(other)
        filled(other, 1)
        start(page)
        page.wait_for_selector(IN_LINE)
        said += look(page, "in line", looks)
        stop(page)
        stop(other)
        start(page)
        filled(page, 2)
        said += look(page, "running", looks)
        stop(page)
    said += look(page, "stopped")
    set_steps(page, 4)
    drawn(page)
    said += look(page, "done", whole=True)
    page.click(".frame >> nth=1")
    page.wait_for_selector("#branch:enabled")
    page.click("#preset label:has(input[value=identity])")  # another picture, to be compared
    said += look(page, "a frame is chosen")
    start(page, "#branch")
    ended(page)
    page.click("#about > button")
    for name in ("Compare", "Recipe"):
        tab(page, name)
        page.wait_for_selector({"Compare": "#compare img >> nth=1", "Recipe": "#recipe-json"}[name])
        said += look(page, f"branched, about, {name}", whole=True)
    start(page, "#verify")
    assert ended(page).startswith("Identical")
    said += look(page, "verified")
    page.fill("#recipe-text textarea", to_text(shown_recipe(page) | {"references": ["0" * 16]}))
    page.click("#use-recipe")
    page.wait_for_selector(".status[data-state=failed] .line:has-text('The settings are back, but not the subject')")
    said += look(page, "a recipe whose subject is missing")
    assert not said, "\n".join(said)


def test_nothing_scrolls_sideways(page):
    ask(page, steps=4)
    drawn(page)
    drawn(page)
    page.click("#about > button")
    for part in ("#late-text", "#about .prose"):  # both folds are open: the number of steps was set in Advanced
        page.wait_for_selector(part)
    for name, part in {"History": ".past", "Compare": "#compare img >> nth=1", "Recipe": "#recipe-json"}.items():
        tab(page, name)
        page.wait_for_selector(part)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            inside = page.evaluate("document.documentElement.scrollWidth")
            assert inside <= width, f"{name}: the page is {inside} px wide in a window of {width} px"


def test_generate_picture_and_status_stand_on_the_first_screen(idle):
    page = idle
    for picked in (False, True):
        if picked:
            pick(page)
            page.wait_for_selector("#looked img")
        for part in ("#generate", "#view", "#timeline", "#status", "#download"):
            box = page.locator(part).bounding_box()
            assert box["y"] + box["height"] <= 720, f"{part} ends at {box['y'] + box['height']:.0f} of 720 px"


@pytest.mark.parametrize(("width", "height"), [(390, 844), (390, 664), (844, 390), (1280, 720)])
def test_generate_and_the_preview_are_both_on_the_screen_after_the_click(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    ask(page, steps=100)
    page.wait_for_selector("#looked img")
    page.evaluate("scrollTo(0, 0)")
    start(page, lambda: page.evaluate("document.querySelector('#generate').click()"))  # a mouse's click would scroll
    filled(page, 2)
    for part in ("#generate", "#view img", *([".status .line"] if height > 500 else [])):
        page.wait_for_function(
            """([part, height]) => { const {top, bottom} = document.querySelector(part).getBoundingClientRect()
                return top >= 0 && bottom <= height }""",  # where the page scrolls, it scrolls smoothly
            arg=[part, height],
        )


def test_a_page_that_shows_the_preview_is_not_scrolled_by_generate(page):
    page.emulate_media(reduced_motion="reduce")  # then it scrolls at once
    ask(page, steps=100)
    page.evaluate("scrollTo(0, 40)")
    start(page, lambda: page.evaluate("document.querySelector('#generate').click()"))
    filled(page, 2)
    assert page.evaluate("scrollY") == 40


def test_reduced_motion_is_respected(idle):
    idle.emulate_media(reduced_motion="reduce")
    pick(idle)
    moving = idle.evaluate(
        """() => [...document.querySelectorAll('*')].filter(part => {
            const style = getComputedStyle(part), animated = style.animationName !== 'none'
            return parseFloat(style.transitionDuration) > 0.01 || animated && parseFloat(style.animationDuration) > 0.01
        }).map(part => part.id || String(part.className))"""
    )
    idle.emulate_media(reduced_motion="no-preference")
    assert not moving, f"these move all the same: {moving}"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_moves_from_generate_to_the_branch_of_a_frame(still, width):
    page = still
    page.set_viewport_size({"width": width, "height": 720})
    ask(page, "on the beach, cyberpunk", steps=8)
    page.wait_for_selector("#looked img")
    places = [place(page, part) for part in PARTS]
    page.evaluate(
        """() => { window.shifts = []; new PerformanceObserver((list) => { for (const shift of list.getEntries())
            for (const {node} of shift.sources) shifts.push(node?.id || node?.className || String(node)) })
            .observe({type: 'layout-shift'}) }"""
    )
    page.evaluate("document.querySelector('#generate').click()")  # a mouse's click would scroll the button into view
    page.wait_for_selector(".status[data-state=done]")
    page.wait_for_selector("#generate:enabled")
    page.evaluate("document.querySelectorAll('.frame')[3].click()")
    page.wait_for_selector("#branch:enabled")
    page.evaluate("document.querySelector('#branch').click()")
    page.wait_for_selector(".timeline .branch:not(:empty)")
    page.wait_for_selector("#generate:enabled")
    moved = [part for part, before in zip(PARTS, places, strict=True) if place(page, part) != before]
    assert not moved, f"{', '.join(moved)} moved or grew"
    assert page.evaluate("shifts") == [], "the browser saw parts shift"


def place(page, part):
    """Top and height of a part in the document; a button's words, and so its width, may change."""
    box = page.locator(part).bounding_box()
    return round(box["y"] + page.evaluate("scrollY")), round(box["height"])


def test_the_border_of_the_comparison_moves_by_keys(page):
    ask(page, steps=2)
    drawn(page)
    drawn(page)
    tab(page, "Compare")
    page.wait_for_function(
        """() => { const images = [...document.querySelectorAll('#compare img')]
            const share = document.querySelector('#compare img.fixed')?.style.clipPath.match(/([\\d.]+)%\\)/)?.[1]
            return images.length === 2 && images.every(img => img.complete && img.naturalWidth)
                && Math.abs(share - 50) < 1 }"""
    )
    border = page.locator("#compare [role=slider]")
    border.focus()
    ways = [("ArrowRight", 51, 53), ("PageDown", 41, 43), ("Home", 0, 0), ("ArrowLeft", 0, 0), ("End", 99, 100)]
    for key, low, high in ways:
        page.keyboard.press(key)
        page.wait_for_function(
            """([low, high]) => { const share = 100 * Number(document.querySelector('#compare img.fixed').style.clipPath
                .match(/([\\d.]+)%\\)/)[1]) / 100; return low <= Math.round(share) && Math.round(share) <= high }""",
            arg=[low, high],
        )
        page.wait_for_function(
            """([low, high]) => { const told = Number(document.querySelector('#compare [role=slider]').ariaValueNow)
                return low <= told && told <= high }""",
            arg=[low, high],
        )


def test_folding_parts_say_whether_they_are_open(idle):
    for part in ("#advanced > button", "#about > button"):
        for told in ("false", "true", "false", "true"):
            idle.wait_for_selector(f"{part}[aria-expanded={told}]")
            idle.click(part)


def test_keys_start_one_run_and_stop_it(page):
    ask(page, steps=100)
    assert "Enter" in page.get_attribute("#generate", "title")
    assert "Esc" in page.get_attribute("#stop", "title")
    for where, keys in (("#prompt textarea", "Control+Enter"), ("#balance-1 input[type=range]", "Meta+Enter")):
        before = page.locator(".timeline .steps i.on").count()  # of the run before; this one is past them
        page.focus(where)
        page.keyboard.press(keys)
        filled(page, before + 2)
        page.evaluate("document.querySelector('#about').insertAdjacentHTML('beforeend', '<dialog open><button>')")
        page.focus("#about dialog button")
        page.keyboard.press("Escape")
        page.evaluate("document.querySelector('#about dialog').remove()")
        filled(page, before + 5)
        assert page.is_enabled("#stop"), "Escape in a dialog stopped the run"
        page.keyboard.press("Escape")
        page.wait_for_selector(".status[data-state=stopped]")
        page.wait_for_selector("#generate:enabled")
        page.keyboard.press("Escape")
        page.wait_for_timeout(300)
        assert line(page).startswith("Stopped"), "Escape did something though nothing runs"
    set_steps(page, 2)
    page.press("#prompt textarea", "Control+Enter")
    page.wait_for_selector(".status[data-state=done]")
    page.wait_for_selector("#generate:enabled")
    page.wait_for_timeout(500)
    assert page.locator(".past").count() == 1, "Ctrl+Enter in the prompt box started two runs"


def test_dark_and_light_follow_the_system(idle):
    page = idle
    for mode, lightest in (("light", 255), ("dark", 40), ("light", 255)):
        page.emulate_media(color_scheme=mode)
        page.wait_for_selector("body.dark" if mode == "dark" else "body:not(.dark)")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert lightest - 30 < max(paper) <= lightest, f"{mode}: the paper is {paper}"
