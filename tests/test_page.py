"""The page in a real browser, as a visitor meets it: a whole run, the layout, mistakes, uploads."""

import urllib.request

import numpy as np
from browsing import (
    STATES,
    ask,
    bomb,
    calm,
    cells,
    chips,
    chosen,
    ended,
    filled,
    noise,
    pick,
    remove,
    saved,
    set_steps,
    shown_recipe,
    sliders,
    start,
)
from PIL import Image

from squeeze.balance import PRESETS
from squeeze.models.profiles import PROFILES
from squeeze.recipe import read_png

PROFILE = PROFILES["plush"]


# --- a whole run ----------------------------------------------------------------------------------------------------


def test_a_run_from_example_to_download(page, files, tmp_path):
    before = set(files.rglob("squeeze-*.png"))
    ask(page, "on the beach, facing left, with a red hat, cyberpunk robot")
    page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => {
            const img = document.querySelector('.view[data-state=running] img'); if (img) seen.add(img.src) })
            .observe(document.querySelector('#view'), {childList: true, subtree: true, attributes: true}) }"""
    )
    places = [page.locator(part).bounding_box() for part in ("#view", "#timeline", "#foot", "#tune")]
    start(page)
    said = ended(page)
    assert said.startswith("Done in"), f"the run ended with: {said}"
    moved = [page.locator(part).bounding_box() for part in ("#view", "#timeline", "#foot", "#tune")]
    assert moved == places, "parts of the page moved or grew during the run"
    previews = page.evaluate("seen.size")
    assert previews >= 2, f"{previews} previews were shown; are they yielded step by step? Is the velocity 0?"
    of = (page.locator(".timeline .steps i").count(), page.locator(".timeline .steps i.on").count())
    assert of == (PROFILE.steps,) * 2, f"(cells, filled cells) of the timeline are {of}"
    pictures = page.locator(".slot img").evaluate_all("all => all.map(img => img.src)")
    assert len(set(pictures)) == 3, f"{len(set(pictures))} different pictures of the three stages"
    unknown = page.inner_text("#status .unknown")
    assert "cyberpunk, robot" in unknown, f"unknown words are named as {unknown!r}"
    page.click(".frame >> nth=1")
    page.wait_for_selector(".view img[data-last]")  # a frame stands in the picture's place
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "got.png")
    page.click(".frame >> nth=1")
    recipe = read_png(tmp_path / "got.png")
    assert download.value.suggested_filename == f"squeeze-{recipe['seed']}.png"
    assert set(files.rglob("squeeze-*.png")) == before, "the download ends with a file of the server"
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
        start(page, lambda: page.press("#prompt textarea", "Enter"))
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
        for stage, b in enumerate(PRESETS[name], 1):
            page.wait_for_function(f"document.querySelector('#balance-{stage} input').value == {b}")
        assert sliders(page) == PRESETS[name], f"preset {name}"
    page.focus("#preset input:checked")
    page.keyboard.press("ArrowRight")  # one choice of several: the arrows go through it
    page.wait_for_selector("#preset label.selected:has(input[value=both])")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('#balance-2 input').value == 0")
    page.wait_for_selector("#preset label.selected:has(input[value=meaning])")
    calm(page)
    page.focus("#balance-2 input[type=range]")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#preset label.selected:has(input[value=custom])")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#preset label.selected:has(input[value=meaning])")


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_no_picture_and_no_prompt_get_a_sentence(page):
    start(page)
    assert "no picture of the subject" in ended(page)
    page.wait_for_selector(".toast-body:has-text('no picture of the subject')")
    pick(page)
    page.wait_for_selector(".status[data-state=idle] .line:has-text('Ready')")  # what was said no longer holds
    page.fill("#prompt textarea", " \n ")
    start(page)
    page.wait_for_selector(".status .line:has-text('The prompt is empty')")
    page.wait_for_selector("#generate:enabled")
    page.fill("#prompt textarea", "in the snow")
    start(page)
    page.wait_for_selector(".status[data-state=done]")


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


def test_a_picture_dropped_onto_another_takes_its_place_and_beside_the_boxes_it_does_nothing(idle, tmp_path):
    (tmp_path / "first.png").write_bytes(saved(noise(), "PNG"))
    (tmp_path / "second.png").write_bytes(transparent())
    browser = idle.context.new_cdp_session(idle)  # a visitor's own hand: what a page makes up keeps its files longer

    def drop(where, name):
        at = idle.locator(where).first.bounding_box()
        middle = {"x": at["x"] + at["width"] / 2, "y": at["y"] + at["height"] / 2}
        data = {"items": [], "files": [str(tmp_path / name)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            browser.send("Input.dispatchDragEvent", {"type": kind, "data": data, **middle})

    drop("#reference", "first.png")
    idle.wait_for_selector("#looked .check")
    before = len(idle.context.pages), idle.input_value("#prompt textarea")
    drop("#prompt textarea", "second.png")
    drop("#reference", "second.png")
    idle.wait_for_selector("#looked:has-text('transparent')")
    assert idle.locator("#reference img").count() == 1
    after = len(idle.context.pages), idle.input_value("#prompt textarea")
    assert after == before, "the browser took the file that was dropped onto the prompt"


def test_unusual_pictures_work(page, tmp_path):
    page.fill("#prompt textarea", "in the snow")
    set_steps(page, 1)
    for name, make in RIGHT.items():
        (tmp_path / name).write_bytes(make())
        page.set_input_files("#reference input[type=file]", tmp_path / name)
        page.wait_for_function("document.querySelector('#reference img')?.naturalWidth > 0")  # a browser can show it
        page.wait_for_selector("#looked .check")
        start(page)
        said = ended(page)
        assert said.startswith("Done in"), f"{name}: {said}"
        remove(page)
        page.wait_for_selector("#reference img", state="detached")


def test_an_upload_is_looked_at_though_the_one_before_still_is(idle, tmp_path):
    page = idle
    noise().resize((3000, 3000)).save(tmp_path / "slow.png")
    (tmp_path / "quick.png").write_bytes(transparent())
    page.set_input_files("#reference input[type=file]", tmp_path / "slow.png")
    page.click("#reference button[aria-label='Remove Image']")
    page.set_input_files("#reference input[type=file]", tmp_path / "quick.png")
    page.wait_for_selector("#looked:has-text('transparent')")


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
    page.wait_for_selector("#looked .check")  # what is pasted is looked at as an upload is


def test_a_picture_from_the_camera(idle):
    idle.click("#reference button[aria-label='Capture from camera']")
    idle.click("#reference button:has-text('Click to Access Webcam')")
    idle.wait_for_function("document.querySelector('#reference video')?.videoWidth > 0")
    idle.click("#reference button[aria-label='capture photo']")
    idle.wait_for_selector("#reference img")
    idle.wait_for_selector("#looked .check")


# --- slider, preset, timeline and steps -----------------------------------------------------------------------------


def agreed(page, balance, counts, preset):
    """Waits until every part shows this, and a little longer: nothing may move on by itself."""
    page.wait_for_selector(f"#preset label.selected:has(input[value={preset}])")
    page.wait_for_function(f"document.querySelectorAll('.timeline .chip')[2].textContent == '{balance[2]:.2f}'")
    page.wait_for_function(f"document.querySelectorAll('.timeline .stage-1 .steps i').length == {counts[0]}")
    page.wait_for_timeout(200)
    assert (sliders(page), chips(page), cells(page), chosen(page)) == (balance, balance, counts, preset)
    assert int(page.input_value("#steps input[type=range]")) == sum(counts)


def test_slider_preset_timeline_and_steps_agree(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/run/" in request.url else None)
    set_steps(page, 25)
    counts = (12, 9, 4)
    agreed(page, (0, 0.5, 1), counts, "paper")
    page.click("#preset label:has(input[value=gentle])")
    agreed(page, (0, 0.5, 0.75), counts, "gentle")
    page.focus("#balance-3 input[type=range]")
    page.keyboard.press("ArrowLeft")
    agreed(page, (0, 0.5, 0.7), counts, "custom")
    page.press(".timeline .stage-3 .level", "End")
    agreed(page, (0, 0.5, 1), counts, "paper")
    page.press(".timeline .edge >> nth=0", "ArrowRight")
    agreed(page, (0, 0.5, 1), (13, 8, 4), "paper")
    page.click("#preset label:has(input[value=meaning])")
    agreed(page, (0, 0, 0), (13, 8, 4), "meaning")
    set_steps(page, 25)
    agreed(page, (0, 0, 0), (13, 8, 4), "meaning")  # the same number moves no border
    set_steps(page, 10)
    few = cells(page)
    agreed(page, (0, 0, 0), few, "meaning")
    page.press(".timeline .edge >> nth=0", "PageUp")
    page.press(".timeline .edge >> nth=0", "Delete")
    agreed(page, (0, 0, 0), few, "meaning")
    set_steps(page, 25)
    agreed(page, (0, 0, 0), counts, "meaning")
    assert len(asked) < 20, f"{len(asked)} requests: the parts feed each other"


def test_what_is_typed_into_a_slider_is_within_its_bounds_at_once(page):
    """Gradio brings it there only when the box is left, and tells nobody."""
    set_steps(page, 25)
    page.press(".timeline .edge >> nth=0", "ArrowRight")  # borders moved by hand follow as well

    def typed(name, text):  # at once: keys that come faster than a person's gradio itself loses
        page.fill(f"#{name} input[type=number]", text)
        page.keyboard.press("Tab")

    for text, b, preset in (("7", 1, "custom"), ("-1", 0, "custom"), ("0.5", 0.5, "paper"), ("", 0, "custom")):
        typed("balance-2", text)
        agreed(page, (0, b, 1), (13, 8, 4), preset)
    for text, number in (("150", 100), ("0", 1), ("12", 12), ("", 1)):
        typed("steps", text)
        page.wait_for_function(f"document.querySelectorAll('.timeline .steps i').length === {number}")
        agreed(page, (0, 0, 1), cells(page), "custom")


def test_moved_borders_are_the_recipes_and_what_is_changed_during_a_run_stays(page):
    ask(page, steps=40)
    page.press(".timeline .edge >> nth=1", "ArrowRight")
    moved = cells(page)
    start(page)
    filled(page, 2)
    page.click("#preset label:has(input[value=gentle])")
    assert ended(page).startswith("Done in")
    recipe = shown_recipe(page)
    assert (recipe["stage_steps"], recipe["balance"]) == (list(moved), [0, 0.5, 1])
    agreed(page, (0, 0.5, 0.75), moved, "gentle")


def test_a_picture_chosen_during_a_run_leaves_the_status_line_to_the_run(page):
    ask(page, steps=100)
    start(page)
    filled(page, 3)
    page.evaluate(STATES)
    pick(page, 1)
    page.wait_for_function("states.size")
    assert set(page.evaluate("[...states]")) <= {"busy", "done"}, "the page no longer says how far the run is"
