"""The stage timeline in a real browser, on a small page of its own."""

import threading
import time
from pathlib import Path

import gradio as gr
import pytest
from browsing import calm, listened, of

from squeeze.ui import texts
from squeeze.ui.theme import theme
from squeeze.ui.timeline import progress, rest, state, timeline

COUNTS, BALANCE = (4, 5, 16), (0.0, 0.5, 1.0)
STYLE = Path(texts.__file__).with_name("style.css")
SIZE = {"width": 1000, "height": 700}


class Demo:
    """A page with the control; `heard` are the values its `input` brought, `auto` the counts Python gives back; a run
    goes beyond half of its steps once it is `released`."""

    def __init__(self):
        self.heard, self.auto, self.released = [], COUNTS, threading.Event()
        with gr.Blocks() as self.blocks:
            self.control = timeline(COUNTS, BALANCE)
            light = {"queue": False, "show_progress": "hidden"}
            self.control.input(self.hear, self.control, self.control, trigger_mode="always_last", **light)
            slider = gr.Slider(0, 1, value=0.5, step=0.05, elem_id="middle")
            self.control.input(fn=None, js="(now) => now.balance[1]", inputs=self.control, outputs=slider)
            slider.input(
                fn=None, js="(now, b) => ({...now, balance: [now.balance[0], b, now.balance[2]]})",
                inputs=[self.control, slider], outputs=self.control,
            )  # fmt: skip
            for name, answer in {
                "set": lambda: state((10, 10, 5), (0.2, 0.4, 0.65)),
                "hundred": lambda: state((16, 20, 64), BALANCE),
                "ends": lambda: state((25, 0, 0), BALANCE, touched=True),
                "three": lambda: progress(COUNTS, 3),
                "rest": rest,
            }.items():
                gr.Button(name, elem_id=name).click(answer, outputs=self.control, **light)
            gr.Button("run", elem_id="run").click(self.run, outputs=self.control, show_progress="hidden")
            gr.HTML("<div style='height: 2000px'></div>")

    def hear(self, value):
        self.heard.append(value)
        asked = not value["touched"] and value["counts"] != list(self.auto)  # an answer more would undo a quick hand
        return state(self.auto, value["balance"]) if asked else gr.skip()

    def run(self):
        for step in range(100):
            yield progress((16, 20, 64), step + 1)
            time.sleep(0.01)
            if step == 50:
                self.released.wait(60)
        yield rest()

    def launch(self):
        return self.blocks.queue().launch(
            server_name="127.0.0.1", ssr_mode=False, prevent_thread_lock=True, quiet=True, theme=theme(),
            css_paths=[STYLE],
        )[1]  # fmt: skip


@pytest.fixture(scope="module")
def demo():
    made = Demo()
    made.address = made.launch()
    yield made
    made.blocks.close()


@pytest.fixture(scope="module")
def tab(browser):
    """A tab that stays, and notes what it has asked that is not answered."""
    tab = listened(browser.new_context(viewport=SIZE, has_touch=True).new_page())
    tab.asking = set()
    tab.on("request", lambda asked: tab.asking.add(asked) if of(asked) is not None else None)
    tab.on("requestfinished", lambda asked: tab.asking.discard(asked))
    tab.on("requestfailed", lambda asked: tab.asking.discard(asked))
    return tab


@pytest.fixture
def page(demo, tab):
    """The page, opened anew; afterwards nothing may have been written to the console."""
    tab.set_viewport_size(SIZE)
    tab.goto(demo.address)
    tab.wait_for_selector(".timeline .steps i >> nth=24")
    tab.hover(".timeline .sum")  # once gradio has taken its cover off
    demo.heard.clear()
    yield tab
    written = tab.written[:]
    tab.goto("about:blank")
    tab.written.clear()
    assert not written, f"the browser's console says: {written}"


def shown(page):
    """The steps of the stages, as cells."""
    return tuple(page.locator(f".timeline .stage-{stage} .steps i").count() for stage in (1, 2, 3))


def balances(page):
    return tuple(float(text) for text in page.locator(".timeline .chip").all_text_contents())


def centre(page, selector):
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def cell(page):
    """The pixels of a step along the track."""
    cells = page.locator(".timeline .stage-3 .steps")
    return cells.bounding_box()["width"] / shown(page)[2]


def edge(number):
    return f".timeline .edge >> nth={number - 1}"


def level(stage):
    return f".timeline .stage-{stage} .level"


def pull(page, selector, right=0.0, up=0.0, let_go=True):
    x, y = centre(page, selector)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right / 2, y - up / 2, steps=3)
    page.mouse.move(x + right, y - up, steps=3)
    if let_go:
        page.mouse.up()


def heard(demo, page):
    """The last value that Python heard, once the browser has nothing more to say."""
    for _ in range(200):
        before = len(demo.heard)
        page.wait_for_timeout(100)
        calm(page)
        if demo.heard and len(demo.heard) == before and not page.asking:
            return demo.heard[-1]
    pytest.fail("Python heard of no input")


def test_a_border_follows_the_mouse_in_whole_steps(demo, page):
    pull(page, edge(1), right=3.4 * cell(page))
    assert shown(page) == (7, 2, 16)
    assert heard(demo, page) == state((7, 2, 16), BALANCE, touched=True)
    assert "Meaning 7 + Both 2 + Identity 16 = 25 steps" in page.inner_text(".timeline .sum")
    pull(page, edge(2), right=-1.6 * cell(page))
    assert shown(page) == (7, 0, 18)
    assert heard(demo, page) == state((7, 0, 18), BALANCE, touched=True)


def test_a_border_pushes_the_other_and_lets_it_come_back(demo, page):
    step = cell(page)
    pull(page, edge(1), right=8 * step, let_go=False)
    assert shown(page) == (12, 0, 13)
    page.mouse.move(*centre(page, ".timeline .axis"))
    assert shown(page) == (0, 9, 16), "what a drag pushed away comes back within the same drag"
    page.mouse.up()
    assert heard(demo, page) == state((0, 9, 16), BALANCE, touched=True)


def test_stages_without_steps_open_again(demo, page):
    page.click("#ends")
    page.wait_for_function("document.querySelectorAll('.timeline .stage-1 .steps i').length === 25")
    track = page.locator(".timeline .track").bounding_box()
    step = (track["width"] - 32) / 25
    pull(page, edge(2), right=-5 * step)
    assert shown(page) == (20, 0, 5)
    pull(page, edge(1), right=-8 * step)
    assert shown(page) == (12, 8, 5)
    assert heard(demo, page)["counts"] == [12, 8, 5]


def finger(page, start, end):
    """A finger put down, drawn to `end` and lifted."""
    session = page.context.new_cdp_session(page)
    points = [(start[0] + (end[0] - start[0]) * n / 8, start[1] + (end[1] - start[1]) * n / 8) for n in range(9)]
    for n, (x, y) in enumerate(points):
        kind = "touchMove" if n else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        page.wait_for_timeout(20)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_moves_borders_and_chips(demo, page):
    page.set_viewport_size({"width": 390, "height": 700})
    x, y = centre(page, edge(2))
    finger(page, (x, y), (x - 4 * cell(page), y))
    assert shown(page) == (4, 1, 20)
    x, y = centre(page, level(3) + " .chip")
    finger(page, (x, y), (x, y + 24))
    assert balances(page) == (0, 0.5, 0.5)
    assert page.evaluate("scrollY") == 0, "the page scrolled under a handle"
    assert heard(demo, page) == state((4, 1, 20), (0, 0.5, 0.5), touched=True)


def test_a_finger_beside_the_handles_scrolls_the_page(demo, page):
    x, y = centre(page, level(3))
    finger(page, (x + 80, y), (x + 80, y - 150))
    page.wait_for_function("scrollY > 0")
    assert (shown(page), balances(page), demo.heard) == (COUNTS, BALANCE, [])


def test_levels_follow_the_mouse_in_steps_of_a_twentieth(demo, page):
    height = page.locator(".timeline .range >> nth=0").bounding_box()["height"]
    pull(page, level(2), up=0.17 * height)
    assert balances(page) == (0, 0.65, 1)
    pull(page, level(1), up=2 * height)
    assert balances(page) == (1, 0.65, 1)
    assert heard(demo, page) == state(COUNTS, (1, 0.65, 1)), "a level leaves the borders automatic"
    page.wait_for_function("document.querySelector('#middle input').value === '0.65'")
    middle, top = centre(page, level(2) + " .chip")[1], centre(page, level(1) + " .chip")[1]
    assert round(middle - top) == round(0.35 * height), "the level does not stand where its number says"


def test_keys_move_what_has_the_focus(demo, page):
    page.focus(edge(1))
    for key, counts in {
        "ArrowRight": (5, 4, 16), "ArrowUp": (6, 3, 16), "ArrowLeft": (5, 4, 16), "PageUp": (10, 0, 15),
        "PageDown": (5, 5, 15), "End": (25, 0, 0), "Home": (0, 25, 0),
    }.items():  # fmt: skip
        page.keyboard.press(key)
        assert shown(page) == counts, key
    page.focus(level(2))
    for key, b in {
        "ArrowUp": 0.55, "ArrowLeft": 0.5, "PageUp": 0.75, "PageDown": 0.5, "ArrowDown": 0.45, "Home": 0, "End": 1
    }.items():  # fmt: skip
        page.keyboard.press(key)
        assert balances(page) == (0, b, 1), key
    for _ in range(10):
        page.keyboard.press("ArrowDown")
    assert balances(page) == (0, 0.5, 1), "of quick presses some were lost"
    assert heard(demo, page) == state((0, 25, 0), (0, 0.5, 1), touched=True)
    assert page.evaluate("scrollY") == 0, "a key moved a handle and the page too"


def test_tab_reaches_every_handle_and_shows_it(page):
    page.focus("body")
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        ring = (
            """getComputedStyle(document.activeElement.querySelector('.chip, .grip') ?? document.body).outlineStyle"""
        )
        if "Balance" in str(seen[-1]) or "Border" in str(seen[-1]):
            assert page.evaluate(ring) == "solid", f"no ring around {seen[-1]}"
    wanted = ["Balance of stage 1, Meaning", "Border between Meaning and Both", "Balance of stage 2, Both"]
    wanted += ["Border between Both and Identity", "Balance of stage 3, Identity"]
    assert [label for label in seen if label in wanted] == wanted


def test_a_double_click_delete_and_the_button_bring_the_automatic_borders_back(demo, page):
    ways = (
        lambda: page.dblclick(edge(2)),
        lambda: page.press(edge(1), "Delete"),
        lambda: page.click(".timeline .again"),
    )
    for back in ways:
        page.press(edge(1), "PageUp")
        assert heard(demo, page)["touched"]
        back()
        page.wait_for_function("document.querySelectorAll('.timeline .stage-1 .steps i').length === 4")
        assert heard(demo, page) == state((9, 0, 16), BALANCE), "Python hears that the borders are automatic again"
        assert shown(page) == COUNTS, "the control shows the counts that Python gave back"
        assert page.is_disabled(".timeline .again")


def test_what_python_or_a_slider_sets_triggers_nothing(demo, page):
    page.click("#set")
    page.wait_for_function("document.querySelectorAll('.timeline .stage-1 .steps i').length === 10")
    assert (shown(page), balances(page)) == ((10, 10, 5), (0.2, 0.4, 0.65))
    page.fill("#middle input[type=number]", "0.8")
    page.wait_for_function("document.querySelectorAll('.timeline .chip')[1].textContent === '0.80'")
    page.wait_for_timeout(300)
    assert demo.heard == [], "the control answered its own setting: page and sliders would feed each other"
    page.press(edge(1), "ArrowRight")
    assert heard(demo, page) == state((11, 9, 5), (0.2, 0.8, 0.65), touched=True), "moved from what Python set"


def test_a_screen_reader_hears_steps_and_balances(page):
    names = ("aria-valuemin", "aria-valuenow", "aria-valuemax", "aria-valuetext", "aria-disabled")

    def read_out(selector):
        return tuple(page.get_attribute(selector, name) for name in names)

    assert read_out(edge(1)) == ("0", "4", "25", "Meaning: 4 steps, Both: 5 steps", "false")
    assert read_out(edge(2)) == ("0", "9", "25", "Both: 5 steps, Identity: 16 steps", "false")
    assert read_out(level(1)) == ("0", "0", "1", "Stage 1 balance 0.00, semantics only", "false")
    assert read_out(level(2)) == ("0", "0.5", "1", "Stage 2 balance 0.50, both in full", "false")
    page.press(level(3), "PageDown")
    assert read_out(level(3)) == ("0", "0.75", "1", "Stage 3 balance 0.75, more identity", "false")
    for _ in range(3):
        page.press(edge(1), "ArrowLeft")
    assert read_out(edge(1))[3] == "Meaning: 1 step, Both: 8 steps"


def test_a_run_fills_the_cells_and_holds_the_handles(demo, page):
    page.click("#run")
    page.wait_for_selector(".timeline[data-busy=true] .steps i.on >> nth=20")
    assert sum(shown(page)) == 100, "the cells of a run are the run's"
    assert page.get_attribute(edge(1), "aria-disabled") == "true"
    page.press(edge(1), "ArrowRight")
    pull(page, level(2), up=20)
    demo.released.set()
    page.wait_for_function("document.querySelector('.timeline').dataset.busy === 'false'")
    assert (shown(page), balances(page), demo.heard) == (COUNTS, BALANCE, []), "a handle moved during the run"
    assert page.locator(".timeline .steps i.on").count() == 0, "the run was of other steps than those shown now"


def test_a_run_of_the_shown_steps_stays_filled_until_a_border_moves(page):
    page.click("#three")
    page.wait_for_selector(".timeline[data-busy=true]")
    page.click("#rest")
    page.wait_for_selector(".timeline[data-busy=false]")
    assert page.locator(".timeline .steps i.on").count() == 3
    assert page.get_attribute(".timeline [role=progressbar]", "aria-valuenow") == "3"
    page.press(level(2), "ArrowUp")
    assert page.locator(".timeline .steps i.on").count() == 3
    page.press(edge(1), "ArrowRight")
    assert page.locator(".timeline .steps i.on").count() == 0


def test_a_drag_outlives_what_comes_from_python(demo, page):
    pull(page, level(2), up=10, let_go=False)
    page.wait_for_function("document.querySelectorAll('.timeline .chip')[1].textContent === '0.70'")
    with page.expect_request_finished(lambda asked: of(asked) is not None):
        page.evaluate("document.querySelector('#set').click()")
    calm(page)
    assert (shown(page), balances(page)) == (COUNTS, (0, 0.7, 1)), "a handle was taken out of the visitor's hand"
    page.mouse.up()
    page.wait_for_timeout(300)
    assert heard(demo, page) == state(COUNTS, (0, 0.7, 1)), "Python does not know what the page shows"


def test_a_drag_ends_where_the_number_of_steps_changes(demo, page):
    pull(page, edge(1), right=2 * cell(page), let_go=False)
    page.evaluate("document.querySelector('#hundred').click()")
    page.wait_for_function("document.querySelectorAll('.timeline .stage-1 .steps i').length === 16")
    page.mouse.move(300, 300)
    page.mouse.up()
    assert shown(page) == (16, 20, 64)


def test_nothing_scrolls_sideways(page):
    page.click("#hundred")
    page.wait_for_function("document.querySelectorAll('.timeline .stage-1 .steps i').length === 16")
    for width in (390, 768, 2560):
        page.set_viewport_size({"width": width, "height": 700})
        inside = page.evaluate("document.documentElement.scrollWidth")
        assert inside <= width, f"the page is {inside} px wide in a window of {width} px"
        box = page.locator(".timeline .sum").bounding_box()
        assert box["height"] < 24 or width < 400, f"the sum breaks at {width} px"
    page.set_viewport_size({"width": 390, "height": 700})
    pull(page, edge(1), right=5 * cell(page))
    assert shown(page) == (21, 15, 64), "a hundred steps cannot be set on a phone's width"
