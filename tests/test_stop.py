"""Stopping, leaving and sharing the device, in the browser: nobody waits for what nobody wants any more."""

import time
from itertools import product

from browsing import ask, drawn, ended, filled, line, reload, rested, set_steps, shown_recipe, start, tab


def test_stop_frees_the_device_and_the_page(page):
    ask(page, steps=100)
    start(page)
    filled(page, 5)
    page.click("#stop")
    page.wait_for_selector(".status[data-state=stopped]")
    rested(page)
    done = page.locator(".timeline .steps i.on").count()
    assert done < 90, f"Stop came after {done} of 100 steps"
    page.wait_for_selector(".frame")
    assert page.locator(".frame").count() in (done, done + 1), "the film is not what was drawn"
    set_steps(page, 2)
    began = time.monotonic()
    drawn(page)
    assert page.locator(".timeline .steps i").count() == 2, "the cells are still the stopped run's"
    assert time.monotonic() - began < 5, (
        "after Stop the next run took long: does the stopped one still hold the device?"
    )


def test_what_was_drawn_before_stop_can_be_branched_from(page):
    ask(page, steps=60)
    start(page)
    filled(page, 5)
    page.click("#stop")
    page.wait_for_selector(".status[data-state=stopped]")
    rested(page)
    page.click(".frame >> nth=2")
    page.wait_for_selector("#branch:enabled")
    page.click("#preset label:has(input[value=identity])")
    start(page, "#branch")
    assert ended(page).startswith("Done in")
    recipe = shown_recipe(page)
    assert recipe["earlier"] == [[3, 0, 0.5, 1]]
    assert (recipe["balance"], recipe["steps"]) == ([1, 1, 1], 60)


def test_stop_at_once_and_stop_too_late(page):
    ask(page, steps=100)
    page.click("#generate")
    page.click("#stop")  # as soon as it can be pressed
    page.wait_for_selector(".status[data-state=stopped]")
    rested(page)
    set_steps(page, 3)
    page.evaluate(  # in the browser, since no test is as quick as the last step
        """() => { window.late = new Promise(done => new MutationObserver((_, seen) => {
            if (document.querySelectorAll('.timeline .steps i.on').length !== 3) return;
            seen.disconnect(); document.querySelector('#stop').click(); done();
        }).observe(document.querySelector('#timeline'), {subtree: true, attributes: true, childList: true})) }"""
    )
    start(page)
    page.evaluate("late")
    rested(page)
    page.wait_for_selector("#stop:disabled")
    page.wait_for_timeout(300)
    finished = page.locator('.view[data-state="done"]').count() == 1
    assert line(page).startswith("Done in" if finished else "Stopped"), line(page)
    drawn(page)


STATE = """() => ({generate: !document.querySelector('#generate').disabled,
    stop: !document.querySelector('#stop').disabled,
    line: document.querySelector('#status .line').textContent})"""
RIGHT = f"""() => {{ const now = ({STATE})(), rest = /^(Stopped|Done)/.test(now.line)
    return now.generate ? !now.stop && rest : rest ? false : now.stop || now.line.startsWith('Stopping') }}"""


def test_generate_at_once_after_stop_leaves_the_page_in_order(page):
    """The second press comes before, with or after the word that the run has stopped."""
    ask(page, steps=60)
    for pause, before in product((0, 1, 2, 4, 8, 15, 30, 60), (0, 5, 80)):
        start(page)
        page.wait_for_selector("#stop:enabled")
        page.wait_for_timeout(before)
        page.evaluate(
            """pause => new Promise(done => { document.querySelector('#stop').click()
                setTimeout(() => { document.querySelector('#generate').click(); done() }, pause) })""",
            pause,
        )
        page.wait_for_timeout(100)
        page.wait_for_function(RIGHT)
        if page.is_enabled("#stop"):  # the second press was heard
            page.click("#stop")
        page.wait_for_selector("#generate:enabled")
        page.wait_for_function(RIGHT)
        page.wait_for_timeout(150)
        said = f"pressed {pause} ms after a Stop at {before} ms, the page says {page.evaluate(STATE)}"
        assert page.evaluate(RIGHT), said
    set_steps(page, 2)
    drawn(page)


def test_a_double_click_and_enter_during_a_run_start_one_run(page):
    ask(page, steps=40)
    start(page, lambda: page.dblclick("#generate"))
    filled(page, 3)
    page.press("#prompt textarea", "Enter")
    assert ended(page).startswith("Done in")
    page.wait_for_selector(".past")
    page.wait_for_timeout(500)
    assert page.is_enabled("#generate"), "a second run has begun"
    assert page.locator(".past").count() == 1, "one press made two pictures"


def test_a_reload_in_the_middle_of_a_run_ends_it(page):
    ask(page, steps=100)
    start(page)
    filled(page, 5)
    reload(page)
    ask(page, steps=2)
    began = time.monotonic()
    drawn(page)
    assert time.monotonic() - began < 5, "the run of the page before the reload still holds the device"
    assert page.locator(".frame").count() == 2


def test_two_tabs_of_one_browser_have_runs_of_their_own(visit):
    first = visit()
    ask(first, steps=3)
    drawn(first)
    second = visit()
    assert second.locator(".frame").count() == 0, "a tab shows the film of another"
    second.wait_for_selector(".past")
    assert second.locator(".past img").count() == 0, "a tab shows the pictures of another"
    ask(second, steps=4)
    drawn(second)
    first.click(".frame >> nth=0")
    first.wait_for_selector("#branch:enabled")
    start(first, "#branch")
    assert ended(first).startswith("Done in"), "the run of one tab was taken for another's"
    assert first.locator(".frame").count() == 3


def test_a_closed_tab_frees_the_device(visit):
    first, second = visit(), visit(own=True)
    ask(first, steps=100)
    ask(second, steps=2)
    start(first)
    filled(first, 4)
    counted = [(time.monotonic(), first.locator(".timeline .steps i.on").count())]
    start(second)
    filled(first, counted[0][1] + 8)
    counted.append((time.monotonic(), first.locator(".timeline .steps i.on").count()))
    (before, some), (now, more) = counted
    per_step = (now - before) / (more - some)
    remaining = per_step * (100 - more)
    first.close()
    closed = time.monotonic()
    second.wait_for_selector(".timeline .steps i.on", state="attached")
    waited = time.monotonic() - closed
    print(
        f"\nclosed tab to the next visitor's first step: {waited:.2f} s; a step {per_step:.3f}, left {remaining:.1f} s"
    )
    second.wait_for_selector(".status[data-state=done]")
    assert waited < remaining * 0.6 + 0.2, (
        f"the next visitor's first step came {waited:.2f} s after the tab was closed, with {remaining:.2f} s left. "
        f"Is the handler still a generator that frees the device in `finally`?"
    )


def test_frames_of_an_older_run_cannot_be_branched_from_while_another_goes(page):
    ask(page, steps=3)
    drawn(page)
    set_steps(page, 60)
    start(page)
    filled(page, 37)  # the film shows the first stage
    page.evaluate("document.querySelector('.frame').click()")  # the film scrolls on under a mouse
    assert page.locator(".frame[aria-pressed=true]").count() == 0, "it looks chosen"
    free = "!document.querySelector('#branch').disabled && !document.querySelector('#stop').disabled"
    assert not page.evaluate(free), "a branch is offered while a run goes"
    ended(page)
    assert page.locator(".frame[aria-pressed=true]").count() == 0
    tab(page, "History")
    page.wait_for_selector(".past >> nth=1")
