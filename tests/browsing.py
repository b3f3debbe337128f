"""What a visitor does on the page in a real browser, and pictures to upload; the fixtures are in shared_fixtures.py."""

import io
import json
import struct
import time
import zlib
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from squeeze.models.profiles import ASSETS

EXAMPLES = sorted((ASSETS / "examples").glob("*.png"))
EXAMPLE = EXAMPLES[0]
ENDED = '.status:is([data-state="done"], [data-state="failed"])'
IN_LINE = ".status[data-state=busy] .line:has-text('in line')"
HANDLERS = """names => gradio_config.dependencies
    .filter(({api_name}) => names.some((name) => String(api_name).startsWith(name))).map(({id}) => id)"""
CALM = """() => new Promise((done) => {
    let left = 5
    const next = () => left-- ? requestAnimationFrame(next) : done()
    next()
})"""
STATES = """() => {
    window.states = new Set()
    const note = () => states.add(document.querySelector('.status').dataset.state)
    new MutationObserver(note).observe(document.querySelector('#status'), {subtree: true, childList: true})
}"""
ALIVE = (
    "#reference input[type=file]", "#examples button", "#prompt textarea", "#generate", "#view *", "#timeline .chip",
    "#film *", "#status .line", "#preset label.selected", "#balance-3 input", "#advanced > button", "#more [role=tab]",
    "#history *", "#generate[aria-keyshortcuts]",
)  # fmt: skip
STOP = "document.querySelector('#stop').click()"  # which does nothing where the run is over
FORGET = "localStorage.clear(), sessionStorage.clear()"
WINDOW = {"width": 1280, "height": 720}
SLOW = 60_000  # milliseconds until a wait is a failure; a busy machine needs seconds


def visited(browser):
    """A browser of a visitor's own."""
    return browser.new_context(viewport=WINDOW)


def opened(address, context):
    """The page in a new tab."""
    page = listened(context.new_page())
    enter(page, address)
    return page


def listened(page):
    """A tab that notes what its console complains of, and which runs come to rest."""
    page.set_default_timeout(SLOW)
    page.written, page.ends = [], []
    page.on("console", lambda said: page.written.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.written.append(str(error)))
    page.on("requestfinished", lambda asked: rest(page) if of(asked) in page.ends else None)
    return page


def enter(page, address):
    """Opens the page in a tab."""
    page.goto(address)
    alive(page)
    page.ends = page.evaluate(HANDLERS, ["made", "ended"])
    page.rests = page.before = 0  # runs that have come to rest, all and those before the latest press


def of(asked):
    """Which handler of the page a request without a queue is for; None for any other."""
    path = urlsplit(asked.url).path  # a page that was opened by a link asks with its query
    return asked.post_data_json["fn_index"] if path.endswith("/run/predict") else None


def rest(page):
    page.rests += 1


@contextmanager
def answered(page, name):
    """Until the page shows what a handler without a queue has answered to what is done inside; `name` is the beginning
    of its function's."""
    ids = page.evaluate(HANDLERS, [name])
    with page.expect_request_finished(lambda asked: of(asked) in ids):
        yield
    calm(page)


def calm(page):
    """Five frames: within three of them, what has just appeared under a tab or a fold is given its old value again."""
    page.evaluate(CALM)


def alive(page):
    """Until the page is ready for a visitor: gradio loads each kind of part on its own, and they come in any order."""
    page.wait_for_function("parts => parts.every(part => document.querySelector(part))", arg=list(ALIVE))


def reload(page):
    """The page anew, as another visit; gradio complains of the stream that ends with the old one, and of its messages
    that were on their way just then: it has forgotten what they change."""
    before = len(page.written)
    page.reload()
    alive(page)
    page.wait_for_function("window.squeezeNew")  # what was set is back
    calm(page)
    forgotten = "Unexpected client exception TypeError: Cannot read properties of undefined"
    page.written[before:] = [text for text in page.written[before:] if forgotten not in text]
    forgive(page)


def forgive(page):
    """Takes away what gradio complains of where a page is left whose stream still goes."""
    ends = ("AbortError", "Connection errored out")
    page.written[:] = [text for text in page.written if not any(end in text for end in ends)]


def pick(page, place=0):
    """Takes an example, where there may be a picture already."""
    with answered(page, "pick"):
        page.click(f"#examples button >> nth={place}")
    page.wait_for_selector("#reference img")


def remove(page, name=""):
    """Empties a box, and waits until what was said of its picture is gone."""
    page.click(f"#reference{name} button[aria-label='Remove Image']")
    page.wait_for_selector(f"#looked{name} .check", state="detached")


def ask(page, prompt="in the snow, seen from behind", steps=None):
    """Fills in a whole request."""
    pick(page)
    page.fill("#prompt textarea", prompt)
    if steps:
        set_steps(page, steps)


def set_steps(page, steps):
    set_slider(page, "steps", steps)
    page.wait_for_function("n => document.querySelectorAll('.timeline .steps i').length === n", arg=steps)


def set_slider(page, name, value):
    """Opens Advanced where it is closed."""
    if not page.is_visible(f"#{name}"):
        page.click("#advanced > button")
        page.wait_for_selector(f"#{name}")
        calm(page)
    for _ in range(50):
        page.fill(f"#{name} input[type=number]", str(value))
        page.keyboard.press("Tab")
        page.wait_for_timeout(50)
        if page.input_value(f"#{name} input[type=range]") == str(value):
            return
    pytest.fail(f"the slider {name} does not take {value}")


def start(page, press="#generate"):
    """Presses a button, or does what else is given; what comes to rest from now on is this run. The status line cannot
    tell: gradio leaves it as it is where a run says in the end what the one before it said."""
    if isinstance(press, str):
        page.wait_for_selector(f"{press}:enabled")
    page.before = page.rests
    page.click(press) if isinstance(press, str) else press()


def drawn(page):
    """One whole run; the source of its picture."""
    start(page)
    said = ended(page)
    assert said.startswith("Done in"), f"the run ended with: {said}"
    return page.get_attribute(".view img", "src")


def filled(page, steps):
    """Waits until a run has done so many steps."""
    page.wait_for_selector(f".timeline[data-busy=true] .steps i.on >> nth={steps - 1}", state="attached")


def rested(page):
    """Waits until the run that was started last has ended in one way or another."""
    until = time.monotonic() + SLOW / 1000
    while page.rests == page.before:
        assert time.monotonic() < until, f"the run does not end; the page says {line(page)!r}"
        page.wait_for_timeout(25)
    page.wait_for_selector("#generate:enabled")


def ended(page):
    """The status line after the run."""
    rested(page)
    page.wait_for_selector(ENDED)
    return line(page)


def line(page):
    return page.inner_text("#status .line")


def sliders(page):
    """The balances, as the sliders show them."""
    return tuple(float(page.input_value(f"#balance-{stage} input[type=number]")) for stage in (1, 2, 3))


def chosen(page):
    return page.inner_text("#preset label.selected")


def cells(page):
    """The steps of the stages, as the timeline shows them."""
    return tuple(page.locator(f".timeline .stage-{stage} .steps i").count() for stage in (1, 2, 3))


def chips(page):
    """The balances, as the timeline shows them."""
    return tuple(float(text) for text in page.locator(".timeline .chip").all_text_contents())


def tab(page, name):
    page.click(f"#more [role=tab]:has-text('{name}')")
    calm(page)


def shown_recipe(page):
    """The recipe under the tab Recipe."""
    tab(page, "Recipe")
    return json.loads(page.input_value("#recipe-json textarea"))


def paste(page, text):
    """A recipe's JSON, pasted and used."""
    tab(page, "Recipe")
    page.fill("#recipe-text textarea", text)
    page.click("#use-recipe")


def drop(page, path):
    """A PNG or JSON with a recipe, dropped."""
    tab(page, "Recipe")
    page.wait_for_selector("#recipe-file input[type=file]", state="attached")
    page.set_input_files("#recipe-file input[type=file]", path)


# --- pictures -------------------------------------------------------------------------------------------------------


def png(width, height, body):
    """A PNG of one bit per pixel around a compressed body."""

    def chunk(kind, inside):
        return struct.pack(">I", len(inside)) + kind + inside + struct.pack(">I", zlib.crc32(kind + inside))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def bomb():
    """30,000 x 30,000 pixels in half a megabyte."""
    packer, rows = zlib.compressobj(1), bytes(3751 * 1000)
    return png(30_000, 30_000, b"".join(packer.compress(rows) for _ in range(30)) + packer.flush())


def noise(mode="RGB"):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 120, 3), dtype=np.uint8)).convert(mode)


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
