"""Many visitors at one device, in the browser: each sees its place in line and how long it takes, and has its turn."""

import re

from browsing import IN_LINE, ask, ended, filled, line, set_steps, start

NEXT = ".status .line:has-text('next in line')"


def queued(visit, count):
    """Pages of so many visitors: the first at the device, the others in line behind it in their order."""
    pages = [visit() for _ in range(count)]
    for page in pages:
        ask(page, steps=100 if page is pages[0] else 12)  # the first keeps the others waiting
    start(pages[0])
    filled(pages[0], 1)
    for page in pages[1:]:
        start(page)
        page.wait_for_selector(IN_LINE)
    return pages


def test_visitors_see_their_place_and_the_time_left_and_are_served_in_turn(visit):
    pages = queued(visit, 4)
    for page in pages[1:]:
        assert page.is_enabled("#stop")
        assert page.locator("#status").bounding_box()["height"] > 0
        assert re.search(r"in line, about \d+ s\.$", line(page)), line(page)
    order = []
    while len(order) < len(pages):
        for number, page in enumerate(pages):
            if number not in order and page.locator(".timeline .steps i.on").count():
                order.append(number)
                if number < 3:
                    pages[number + 1].wait_for_selector(f"{NEXT}, .status .line:not(:has-text('in line'))")
        pages[0].wait_for_timeout(20)
    assert order == [0, 1, 2, 3], f"served in the order {order}"
    for page in pages:
        assert ended(page).startswith("Done in")


def test_stop_while_waiting_gives_the_place_away(visit):
    pages = queued(visit, 3)
    pages[1].click("#stop")
    pages[1].wait_for_selector(".status[data-state=stopped]")
    pages[1].wait_for_selector("#generate:enabled")
    assert pages[1].locator(".frame").count() == 0
    set_steps(pages[1], 2)
    assert ended(pages[2]).startswith("Done in")
