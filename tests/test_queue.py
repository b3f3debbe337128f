"""Many visitors at one device, in the browser: each sees its place in line and how long it takes, has its turn, and
gives its place away by Stop."""

import re

from browsing import IN_LINE, STOP, ask, ended, filled, line, start

NEXT = ".status .line:has-text('next in line')"
FIRST_STEP = """() => { window.began = 0; new MutationObserver(() => {
    if (!began && document.querySelector('.timeline .steps i.on')) began = Date.now() })
    .observe(document.querySelector('#timeline'), {subtree: true, childList: true, attributes: true}) }"""


def wait_in_line(page):
    start(page, lambda: page.evaluate("document.querySelector('#generate').click()"))  # at once: the first is drawing
    page.wait_for_selector(IN_LINE)


def test_visitors_see_place_and_time_are_served_in_turn_and_stop_gives_the_place_away(visit):
    first, stopped, last = pages = (visit(), visit(own=True), visit(own=True))  # a browser's connections are few
    for page in pages:
        ask(page, steps=100 if page is first else 12)  # the first keeps the others waiting
        page.evaluate(FIRST_STEP)
    start(first)
    filled(first, 1)
    for page in (stopped, last):
        wait_in_line(page)
    for page in (stopped, last):
        assert page.is_enabled("#stop")
        assert page.locator("#status").bounding_box()["height"] > 0
        assert re.search(r"in line, about \d+ s\.$", line(page)), line(page)
    stopped.evaluate(STOP)
    stopped.wait_for_selector(".status[data-state=stopped]")
    stopped.wait_for_selector("#generate:enabled")
    assert stopped.locator(".frame").count() == 0
    wait_in_line(stopped)
    last.wait_for_function("began")
    stopped.wait_for_selector(f"{NEXT}, .status .line:not(:has-text('in line'))")
    for page in pages:
        assert ended(page).startswith("Done in")
    order = sorted(range(3), key=lambda number: pages[number].evaluate("began"))
    assert order == [0, 2, 1], f"served in the order {order}"
