"""The page in a real browser and its API, as a visitor meets them: one server, one test per thing that can be done."""

import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze.balance import PRESETS
from squeeze.models.profiles import ASSETS, PROFILES
from squeeze.recipe import read_png, to_text
from squeeze.recipe_forms import to_client

ROOT = Path(__file__).parents[1]
PROFILE = PROFILES["plush"]
EXAMPLE = min((ASSETS / "examples").glob("*.png"))
ENDED = '.status:is([data-state="done"], [data-state="failed"])'
SLOW = 30_000  # milliseconds until a wait is a failure; a busy machine needs seconds


# --- the server and the browser -------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of `python app.py`, started once."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(log.parent / "files")}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, ROOT / "app.py", "--port", str(port)],
            cwd=log.parent,
            env=environment,
            stdout=out,
            stderr=out,
        )
    address, began = f"http://127.0.0.1:{port}", time.monotonic()
    while True:
        try:
            urllib.request.urlopen(address).close()
            break
        except OSError:
            ended = process.poll() is not None
            assert not ended, f"app.py ended at once: {log.read_text()[-2000:]}"
            assert time.monotonic() - began < 90, f"app.py does not answer after 90 s: {log.read_text()[-2000:]}"
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(10)
    written = log.read_text()
    assert "Traceback" not in written, f"A visitor's slip printed a traceback on the server: {written[-3000:]}"


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; without one these tests are skipped, except on CI."""
    from playwright.sync_api import sync_playwright

    path = "/usr/bin/chromium" if os.path.exists("/usr/bin/chromium") else shutil.which("chromium")
    if path is None:
        message = "There is no Chromium to drive the page with. Install it, for example: apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


def opened(server, browser):
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.set_default_timeout(SLOW)
    page.goto(server)
    page.wait_for_selector("#generate")
    page.wait_for_selector("#preset label.selected")  # the last part to come alive
    return page


@pytest.fixture
def visit(server, browser):
    """Opens the page in a browser of its own, as another visitor."""
    pages = []

    def open_page():
        pages.append(opened(server, browser))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()


@pytest.fixture
def page(visit):
    return visit()


@pytest.fixture(scope="session")
def idle(server, browser):
    """One page for all tests that start no run; each sets what it looks at."""
    return opened(server, browser)


def pick(page):
    page.click("#examples button >> nth=0")
    page.wait_for_selector("#reference img")


def ask(page, prompt="in the snow, seen from behind", steps=None):
    """Fills in a whole request."""
    pick(page)
    page.fill("#prompt textarea", prompt)
    if steps:
        set_steps(page, steps)


def set_steps(page, steps):
    """Opens Advanced where it is closed. A slider that has just appeared may take its old value back: look, repeat."""
    if not page.is_visible("#steps"):
        page.click("#advanced > button")
    for _ in range(50):
        page.fill("#steps input[type=number]", str(steps))
        page.keyboard.press("Tab")
        page.wait_for_timeout(50)
        if page.input_value("#steps input[type=range]") == str(steps):
            return
    pytest.fail(f"the steps slider does not take {steps}")


def start(page):
    page.click("#generate")


def ended(page):
    """The status line after the run."""
    page.wait_for_selector(ENDED)
    page.wait_for_selector("#generate:enabled")
    return line(page)


def line(page):
    return page.inner_text("#status .line")


def sliders(page):
    return tuple(float(page.input_value(f"#balance-{stage} input[type=number]")) for stage in (1, 2, 3))


def chosen(page):
    return page.inner_text("#preset label.selected")


# --- a whole run ----------------------------------------------------------------------------------------------------


def test_a_run_from_example_to_download(page, tmp_path):
    ask(page, "on the beach, facing left, with a red hat, cyberpunk robot")
    page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => {
            const img = document.querySelector('.view[data-state=running] img'); if (img) seen.add(img.src) })
            .observe(document.querySelector('#view'), {childList: true, subtree: true, attributes: true}) }"""
    )
    places = [page.locator(part).bounding_box() for part in ("#view", "#bar", "#foot", "#tune")]
    start(page)
    page.wait_for_selector(".view[data-state=running]")
    said = ended(page)
    assert said.startswith("Done in"), f"the run ended with: {said}"
    moved = [page.locator(part).bounding_box() for part in ("#view", "#bar", "#foot", "#tune")]
    assert moved == places, "parts of the page moved or grew during the run"
    previews = page.evaluate("seen.size")
    assert previews >= 2, f"{previews} previews were shown; are they yielded step by step? Is the velocity 0?"
    cells = (page.locator(".bar i").count(), page.locator(".bar i.on").count())
    assert cells == (PROFILE.steps,) * 2, f"(cells, filled cells) of the bar are {cells}"
    pictures = page.locator(".slot img").evaluate_all("all => all.map(img => img.src)")
    assert len(set(pictures)) == 3, f"{len(set(pictures))} different pictures of the three stages"
    unknown = page.inner_text("#status .unknown")
    assert "cyberpunk, robot" in unknown, f"unknown words are named as {unknown!r}"
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "got.png")
    recipe = read_png(tmp_path / "got.png")
    page.click("#advanced > button")
    shown = {"seed": int(page.input_value("#seed input")), "balance": list(sliders(page)), "steps": PROFILE.steps}
    assert shown == {key: recipe[key] for key in shown}, "the downloaded PNG's recipe is not what the page shows"
    assert str(shown["seed"]) in said, f"the seed {shown['seed']} is not in {said!r}"
    source = page.get_attribute(".view[data-state=done] img", "src")
    with urllib.request.urlopen(source) as inside:
        assert inside.read() == (tmp_path / "got.png").read_bytes(), "the shown picture is not the PNG byte for byte"


def test_enter_submits_and_a_fixed_seed_gives_the_same_picture(page):
    ask(page, steps=3)
    page.uncheck("#random input")
    page.fill("#seed input", str(2**53 - 1))
    pictures = []
    for _ in range(2):
        page.press("#prompt textarea", "Enter")
        page.wait_for_selector(".status[data-state=busy]")
        said = ended(page)
        assert said.endswith(str(2**53 - 1)), f"asked for seed 2^53 - 1, the page says {said!r}"
        pictures.append(page.get_attribute(".view img", "src"))
    assert pictures[0] == pictures[1], "one seed gave two pictures"


def test_example_prompts_fill_the_box(idle):
    idea = idle.locator("#ideas button").nth(1)
    idea.click()
    assert idle.input_value("#prompt textarea") == idea.inner_text()


def test_presets_set_the_sliders_and_sliders_the_preset(idle):
    page = idle
    assert PRESETS[chosen(page)] == sliders(page) == PROFILE.balance
    for name in ("identity", "gentle", "meaning"):
        page.click(f"#preset label:has(input[value={name}])")
        page.wait_for_function(f"document.querySelector('#balance-3 input').value == {PRESETS[name][2]}")
        assert sliders(page) == PRESETS[name], f"preset {name}"
    page.focus("#balance-2 input[type=range]")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#preset label.selected:has(input[value=custom])")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#preset label.selected:has(input[value=meaning])")


def test_generate_and_picture_stand_on_the_first_screen(idle):
    for part in ("#generate", "#view", "#bar"):
        box = idle.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 720, f"{part} ends at {box['y'] + box['height']:.0f} of 720 px"


def test_nothing_scrolls_sideways(idle):
    for opener in ("#advanced > button", "#about > button"):
        idle.click(opener)
    for width in (390, 768, 2560, 1280):
        idle.set_viewport_size({"width": width, "height": 720})
        inside = idle.evaluate("document.documentElement.scrollWidth")
        assert inside <= width, f"the page is {inside} px wide in a window of {width} px"


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_no_picture_and_no_prompt_get_a_sentence(page):
    start(page)
    assert "no picture of the subject" in ended(page)
    page.wait_for_selector(".toast-body:has-text('no picture of the subject')")
    pick(page)
    page.fill("#prompt textarea", " \n ")
    start(page)
    page.wait_for_selector(".status .line:has-text('The prompt is empty')")
    page.wait_for_selector("#generate:enabled")
    page.fill("#prompt textarea", "in the snow")
    start(page)
    page.wait_for_selector(".status[data-state=done]")


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


WRONG = {
    "words.png": (lambda: b"only words", "could not be read as a picture"),
    "phone.heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(99), "could not be read as a picture"),
    "cut.png": (lambda: saved(noise(), "PNG")[:5000], "damaged or cut short"),
    "bomb.png": (bomb, "900,000,000 pixels"),
    "heavy.png": (lambda: bytes(50_100_000), "the limit is 50 MB"),
}


def test_uploads_that_are_no_pictures_get_a_sentence(idle, tmp_path):
    for name, (make, said) in WRONG.items():
        (tmp_path / name).write_bytes(make())
        idle.set_input_files("#reference input[type=file]", tmp_path / name)
        idle.wait_for_selector(f".status[data-state=failed] .line:has-text('{name}'):has-text('{said}')")
        idle.wait_for_selector(f".toast-body:has-text('{name}')")
        idle.wait_for_selector("#reference img", state="detached")  # the box is free again


def test_a_text_file_is_refused(idle, tmp_path):
    (tmp_path / "words.txt").write_text("only words")
    idle.set_input_files("#reference input[type=file]", tmp_path / "words.txt")
    idle.wait_for_selector(".toast-body:has-text('words.txt')")


def transparent():
    picture = noise("RGBA")
    picture.putalpha(100)
    return saved(picture, "PNG")


RIGHT = {
    "transparent.png": transparent,
    "palette.png": lambda: saved(noise().quantize(16), "PNG"),
    "cmyk.jpg": lambda: saved(noise("CMYK"), "JPEG"),
    "grey16.png": lambda: saved(Image.fromarray(np.arange(60_000, dtype=np.uint16).reshape(200, 300)), "PNG"),
    "animated.gif": lambda: saved(noise(), "GIF", save_all=True, append_images=[noise().rotate(180)]),
    "scan.tiff": lambda: saved(noise(), "TIFF"),
}


def test_unusual_pictures_work(page, tmp_path):
    page.fill("#prompt textarea", "in the snow")
    set_steps(page, 1)
    for name, make in RIGHT.items():
        (tmp_path / name).write_bytes(make())
        page.set_input_files("#reference input[type=file]", tmp_path / name)
        page.wait_for_function("document.querySelector('#reference img')?.naturalWidth > 0")  # a browser can show it
        start(page)
        page.wait_for_selector(".status[data-state=busy]")
        said = ended(page)
        assert said.startswith("Done in"), f"{name}: {said}"
        page.click("#reference button[aria-label='Remove Image']")
        page.wait_for_selector("#reference img", state="detached")


def test_a_picture_from_the_clipboard(idle):
    page = idle
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async () => { const canvas = document.createElement('canvas'); canvas.width = canvas.height = 64
            canvas.getContext('2d').fillRect(9, 9, 30, 30)
            const blob = await new Promise(done => canvas.toBlob(done, 'image/png'))
            await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]) }"""
    )
    page.click("#reference button[aria-label='Paste from clipboard']")
    page.wait_for_selector("#reference img")


# --- stopping, leaving, sharing -------------------------------------------------------------------------------------


def test_stop_frees_the_device_and_the_page(page):
    ask(page, steps=100)
    start(page)
    page.wait_for_selector(".bar i.on >> nth=4", state="attached")
    page.click("#stop")
    page.wait_for_selector(".status[data-state=stopped]")
    page.wait_for_selector("#generate:enabled")
    done = page.locator(".bar i.on").count()
    assert done < 90, f"Stop came after {done} of 100 steps"
    set_steps(page, 2)
    began = time.monotonic()
    start(page)
    page.wait_for_selector(".status[data-state=done]")
    assert page.locator(".bar i").count() == 2, "the bar is still the stopped run's"
    assert time.monotonic() - began < 5, (
        "after Stop the next run took long: does the stopped one still hold the device?"
    )


def test_a_closed_tab_frees_the_device(visit):
    first, second = visit(), visit()
    ask(first, steps=100)
    ask(second, steps=2)
    start(first)
    first.wait_for_selector(".bar i.on >> nth=3", state="attached")
    counted = [(time.monotonic(), first.locator(".bar i.on").count())]
    start(second)
    first.wait_for_function(f"document.querySelectorAll('.bar i.on').length >= {counted[0][1] + 8}")
    counted.append((time.monotonic(), first.locator(".bar i.on").count()))
    (before, some), (now, more) = counted
    per_step = (now - before) / (more - some)
    remaining = per_step * (100 - more)
    first.context.close()
    closed = time.monotonic()
    second.wait_for_selector(".bar i.on", state="attached")
    waited = time.monotonic() - closed
    print(
        f"\nclosed tab to the next visitor's first step: {waited:.2f} s; a step {per_step:.3f}, left {remaining:.1f} s"
    )
    second.wait_for_selector(".status[data-state=done]")
    assert waited < remaining * 0.6 + 0.2, (
        f"the next visitor's first step came {waited:.2f} s after the tab was closed, with {remaining:.2f} s left. "
        f"Is the handler still a generator that frees the device in `finally`?"
    )


def test_the_next_run_begins_within_a_step_of_the_lock(models, tmp_path):
    """The same without browser and network: a run is closed while another waits for the device."""
    from squeeze.ui.handlers import Handlers, Parts

    handlers, parts = Handlers(models, []), Parts(**{name: name for name in Parts.__annotations__})
    path = tmp_path / "toy.png"
    noise().save(path)
    form = {"reference": {"path": str(path)}, "prompt": "a toy", "steps": 20, "cfg": 2.5, "seed": 1, "random": False}
    form |= {"meaning": 0, "both": 0.5, "identity": 1, "uncond": "lean", "late_text": "drop"}
    first, began, stepped = handlers.run(parts, dict(form)), [], []

    def second():
        for changes in handlers.run(parts, dict(form)):
            began.append(time.monotonic())
            if " class=on" in changes.get("bar", ""):
                stepped.append(time.monotonic())

    took = []
    while len(took) < 5:
        before = time.monotonic()
        if " class=on" in next(first).get("bar", ""):
            took.append(time.monotonic() - before)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second)
        while len(began) < 2:  # reading, then waiting
            time.sleep(0.01)
        first.close()
        released = time.monotonic()
        other.result()
    waited = stepped[0] - released
    print(f"\nfrom the lock's release to the next run's first step: {waited:.3f} s; a step {max(took):.3f} s")
    assert waited < 2 * max(took) + 0.2, f"{waited:.3f} s from the release to the next run's first step"
    assert not handlers.device.locked(), "the device is still held after both runs"


def test_leaving_while_waiting_takes_nothing(models, tmp_path):
    from squeeze.ui.handlers import Handlers

    handlers = Handlers(models, [])
    noise().save(tmp_path / "toy.png")
    asked = {"reference": {"path": str(tmp_path / "toy.png")}, "prompt": "a toy", "steps": 2, "cfg": 1}
    first, waiting = handlers.call(**asked), handlers.call(**asked)
    next(first)
    next(waiting)
    waiting.close()
    assert list(first)[-1][1]["steps"] == 2, "a visitor who left the queue disturbed the one who was running"
    assert not handlers.device.locked()


def caller(server):
    """A visitor of the API: calls /generate as a script does."""
    from gradio_client import Client, handle_file

    client = Client(server, verbose=False)

    def generate(**changed):
        asked = {"prompt": "in the snow", "balance": [0, 0.5, 1], "steps": 4, "cfg": 2.5, "seed": 1}
        reference = handle_file(EXAMPLE)
        return client.predict(**{"reference": reference} | asked | changed, api_name="/generate")

    return generate


@pytest.fixture(scope="session")
def call(server):
    return caller(server)


def test_the_api_gives_a_picture_and_its_recipe(call):
    path, recipe = call(seed=2**53 - 1, cfg=1)
    assert read_png(Path(path)) == recipe, "the PNG's recipe is not the one that was returned"
    assert (recipe["seed"], recipe["steps"], recipe["balance"]) == (2**53 - 1, 4, [0, 0.5, 1])


def test_the_api_takes_every_option_and_null(server, call):
    options = {
        "balance": [0.1, 1, 1.0], "steps": 5, "stage_steps": [0, 3, 2], "cfg": 1 + 1e-7, "guidance": 0.1 + 0.2,
        "uncond": "full", "late_text": "keep", "height": 64, "width": 64,
    }  # fmt: skip
    path, recipe = call(**options)
    assert {key: recipe[key] for key in options} == options
    again = {}
    exec(to_client(recipe, server, str(EXAMPLE)), again)
    assert to_text(again["recipe"]) == to_text(recipe), "the client code of a recipe gave another"
    assert Path(again["picture"]).read_bytes() == Path(path).read_bytes()
    nothing = dict.fromkeys([*options, "seed"])
    assert call(**nothing)[1]["steps"] == PROFILE.steps
    assert call(steps=4.0, stage_steps=[1.0, 1.0, 2.0])[1]["stage_steps"] == [1, 1, 2]


def test_visitors_at_once_get_what_they_get_alone(server, call):
    asked = [
        {"prompt": p, "seed": s, "steps": 12} for p, s in (("on the beach", 3), ("in the snow", 4), ("in a room", 5))
    ]
    alone = [Path(call(**one)[0]).read_bytes() for one in asked]
    visitors = [caller(server) for _ in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        paths = pool.map(lambda visitor, one: visitor(**one)[0], visitors, asked)
        together = [Path(path).read_bytes() for path in paths]
    assert len(set(alone)) == len(asked)
    assert alone == together, "a visitor's picture changed because others were there"


BAD = [
    ({"steps": 0}, "Steps must be a whole number from 1 to 100, not 0"),
    ({"steps": 1_000_000}, "not 1000000"),
    ({"steps": "many"}, "not many"),
    ({"balance": [0, 2, 1]}, "The balance of stage 2"),
    ({"balance": 2}, "three numbers"),
    ({"balance": [0, 1]}, "three numbers"),
    ({"seed": 2**70}, "The seed must be a whole number"),
    ({"cfg": 0}, "CFG must be a number"),
    ({"cfg": "much"}, "CFG must be a number"),
    ({"guidance": -1}, "Guidance must be a number"),
    ({"stage_steps": [1, 1, 1]}, "three whole numbers that add up to 4"),
    ({"stage_steps": "1,1,2"}, "three whole numbers that add up to 4"),
    ({"stage_steps": [1, 1.5, 1.5]}, "three whole numbers that add up to 4"),
    ({"stage_steps": json.loads("[" * 500 + "]" * 500)}, "three whole numbers that add up to 4"),
    ({"height": 65}, "Height must be a multiple of 16"),
    ({"width": "wide"}, "Width must be a multiple of 16"),
    ({"uncond": "none"}, "uncond must be one of lean or full"),
    ({"late_text": ["drop"]}, "late_text must be one of drop or keep"),
    ({"prompt": "a" * 10_000}, "The prompt has 10,000 characters"),
    ({"prompt": ""}, "The prompt is empty"),
    ({"reference": None}, "no picture of the subject"),
    ({"reference": "a bear"}, "no picture of the subject"),
]


@pytest.mark.parametrize(("changed", "said"), BAD, ids=lambda value: str(value)[:30])
def test_bad_api_values_get_a_sentence(call, changed, said):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as error:
        call(**changed)
    assert said in str(error.value), f"{changed}: {error.value}"


def uploaded(server):
    """The path of the example in the server's upload folder."""
    form = b'--squeeze\r\nContent-Disposition: form-data; name="files"; filename="toy.png"\r\n\r\n'
    sent = urllib.request.Request(f"{server}/gradio_api/upload", form + EXAMPLE.read_bytes() + b"\r\n--squeeze--\r\n")
    sent.add_header("Content-Type", "multipart/form-data; boundary=squeeze")
    with urllib.request.urlopen(sent) as answer:
        return json.load(answer)[0]


def heard(server, **asked):
    """What is heard of a call as curl makes it, JSON with NaN included; `asked` are arguments of /generate."""
    address = f"{server}/gradio_api/call/v2/generate"
    body = json.dumps({"prompt": "in the snow", "steps": 4} | asked).encode()
    with urllib.request.urlopen(urllib.request.Request(address, body, {"Content-Type": "application/json"})) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}") as answer:
        return answer.read().decode()


def test_a_call_without_the_client(server, call):
    """As the README shows it; a value that only sloppy JSON can carry gets a sentence, and the next request works."""
    file = {"path": uploaded(server), "meta": {"_type": "gradio.FileData"}}
    assert "event: complete" in heard(server, reference=file)
    assert "The balance of stage 2" in heard(server, reference=file, balance=[0, float("nan"), 1])
    assert "CFG must be" in heard(server, reference=file, cfg=float("nan"))
    call()


def test_a_file_of_the_server_is_no_upload(server):
    for path in (EXAMPLE, ASSETS / "readme" / "page.png", "/etc/passwd"):
        assert "no picture of the subject" in heard(server, reference={"path": str(path)}), f"the server opened {path}"
