"""Recipes that come back to the page: dropped, pasted, linked, from the history; and verified, in the browser."""

import json
from urllib.parse import urlencode

import pytest
from browsing import (
    HANDLERS,
    ask,
    cells,
    chips,
    chosen,
    drawn,
    drop,
    ended,
    forgive,
    line,
    noise,
    opened,
    paste,
    pick,
    reload,
    remove,
    saved,
    set_steps,
    shown_recipe,
    sliders,
    start,
    tab,
    visited,
)
from PIL import Image

from squeeze.recipe import read_file, read_png, to_text, write_png
from squeeze.recipe_forms import to_query

SAID = "The recipe is back"
OTHER = "This is not the picture the recipe was made with"
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> in the snow'


@pytest.fixture(scope="session")
def made(server, browser, tmp_path_factory):
    """A picture made on the page with nothing as the profile has it: its path and recipe, and its data URI."""
    page = opened(server, visited(browser))
    ask(page, "on the beach", steps=5)
    page.click("#preset label:has(input[value=gentle])")
    page.wait_for_function("document.querySelectorAll('.timeline .chip')[2].textContent == '0.75'")
    page.wait_for_function("document.querySelector('#balance-3 input[type=number]').value == '0.75'")
    page.press(".timeline .edge >> nth=0", "ArrowLeft")
    page.fill("#eta input[type=number]", "0.3")
    page.click("#uncond label:has(input[value=full])")
    page.click("#late-text label:has(input[value=keep])")
    page.fill("#cfg input[type=number]", "3.1")
    page.uncheck("#random input")
    page.fill("#seed input", "77")
    page.keyboard.press("Tab")
    source = drawn(page)
    with page.expect_download() as download:
        page.click("#download")
    path = tmp_path_factory.mktemp("made") / "squeeze-77.png"
    download.value.save_as(path)
    page.context.close()
    return path, read_png(path), source


def controls(page):
    """Everything a visitor can set, as recipes name it."""
    if not page.is_visible("#steps"):
        page.click("#advanced > button")
    assert chips(page) == sliders(page), "timeline and sliders show other balances"
    return {
        "prompt": page.input_value("#prompt textarea"), "balance": list(sliders(page)),
        "stage_steps": list(cells(page)), "steps": int(page.input_value("#steps input[type=range]")),
        "cfg": float(page.input_value("#cfg input[type=range]")),
        "seed": int(page.input_value("#seed input")), "eta": float(page.input_value("#eta input[type=range]")),
        "uncond": page.input_value("#uncond input:checked"),
        "late_text": page.input_value("#late-text input:checked"),
    }  # fmt: skip


def restored(page, recipe, source):
    """Every control is the recipe's, and Generate draws its picture byte for byte."""
    page.wait_for_selector(f".status .line:has-text('{SAID}')")
    page.wait_for_selector("#reference img")
    now = controls(page)
    assert now == {key: recipe[key] for key in now}
    assert not page.is_checked("#random input")
    assert chosen(page) == "gentle"
    page.wait_for_selector("#looked .check")
    assert drawn(page) == source, "Generate does not draw the recipe's picture"


# --- in -------------------------------------------------------------------------------------------------------------


def test_a_png_dropped_sets_every_control(page, made):
    path, recipe, source = made
    taking, taken = page.evaluate(HANDLERS, ["from_file"]), []
    page.on("request", lambda asked: taken.append(asked) if "/queue/join" in asked.url else None)
    drop(page, path)
    restored(page, recipe, source)
    numbers = [asked.post_data_json["fn_index"] for asked in taken]
    assert sum(number in taking for number in numbers) == 1, "the recipe was taken again after the run"


def test_json_from_a_file_and_pasted_sets_every_control(page, made, tmp_path):
    _, recipe, source = made
    (tmp_path / "recipe.json").write_text(to_text(recipe))
    drop(page, tmp_path / "recipe.json")
    restored(page, recipe, source)
    set_steps(page, 9)
    assert sum(cells(page)) == 9
    page.fill("#prompt textarea", "something else")
    paste(page, f"\n {json.dumps(recipe, indent=2)} \n")
    restored(page, recipe, source)


def test_a_link_sets_every_control_and_the_page_gives_it_back(visit, made, server):
    _, recipe, source = made
    page = visit(f"/?utm_source=mail&{to_query(recipe)}")
    restored(page, recipe, source)
    page.wait_for_selector(".past")
    page.wait_for_timeout(300)
    assert line(page).startswith("Done in"), "the link was taken again after the run"
    assert shown_recipe(page) == recipe
    assert page.input_value("#recipe-link textarea") == f"{server}/?{to_query(recipe)}"


BAD_LINKS = [
    (lambda recipe: to_query(recipe).replace("&steps=5", ""), "steps is missing"),
    (lambda recipe: to_query(recipe | {"steps": 1000}), "not 1000"),
    (lambda recipe: to_query(recipe).replace("balance=0,0.5,0.75", "balance=<b>,,"), "damaged: balance"),
    (lambda recipe: urlencode({"prompt": HOSTILE}), "incomplete"),
    (lambda recipe: "version=99&seed=1", "version 99"),
]


def test_links_that_are_wrong_get_a_sentence(page, made):
    before = controls(page)
    for make, said in BAD_LINKS:
        page.goto(f"{page.url.partition('?')[0]}?{make(made[1])}")
        page.wait_for_selector(f".status[data-state=failed] .line:has-text('{said}')")
        assert controls(page) == before, "something was set all the same"
    forgive(page)
    assert page.evaluate("window.hacked") is None
    ask(page, steps=2)
    drawn(page)


def test_a_link_whose_subject_is_not_here_asks_for_it(visit, made):
    digest = "0123456789abcdef"
    page = visit(f"/?{to_query(made[1] | {'references': [digest]})}")
    page.wait_for_selector(f".status[data-state=failed] .line:has-text('{digest}')")
    assert controls(page)["seed"] == made[1]["seed"], "the rest is set"
    assert page.locator("#reference img").count() == 0


def bad_files(recipe, folder):
    """Files that are no recipe of this page's, and what is said of each."""
    resaved = folder / "plain.png"
    resaved.write_bytes(saved(noise(), "PNG"))
    cut = folder / "cut.png"
    cut.write_bytes(write_png(noise(), recipe, folder / "whole.png").path.read_bytes()[:60])
    newer = write_png(noise(), recipe | {"version": 3}, folder / "newer.png").path
    huge = folder / "huge.json"
    huge.write_text("a" * 10_000_000)
    other = write_png(noise(), recipe | {"profile": "<i>paper</i>"}, folder / "other.png").path
    return [
        (resaved, "carries no recipe"), (cut, "could not be read as a PNG"), (newer, "version 3"),
        (huge, "a real one has less than"), (other, "profile <i>paper</i>"),
    ]  # fmt: skip


def test_files_and_texts_that_are_no_recipe_get_a_sentence(page, made, tmp_path):
    recipe = made[1]
    before = controls(page)
    for path, said in bad_files(recipe, tmp_path):
        drop(page, path)
        page.wait_for_selector(f".status[data-state=failed] .line:has-text('{said}')")
        page.wait_for_selector(f".toast-body:has-text('{said}')")
    for text, said in (
        ("/etc/passwd", "not valid JSON"), ("", "There is no recipe"), (str(made[0]), "not valid JSON"),
        ("a" * 1_000_000, "1,000,000 characters"), ("[" * 50_000, "not valid JSON"), ("[1]", "no version"),
        (json.dumps(recipe | {"extra": 1}), "does not know"), (json.dumps(recipe | {"seed": "0"}), "damaged: seed"),
        (json.dumps(recipe | {"profile": HOSTILE}), "This recipe is of profile <img"),
    ):  # fmt: skip
        paste(page, text)
        page.wait_for_selector(f".status[data-state=failed] .line:has-text('{said}')")
    page.wait_for_selector(".toast-body:has-text('This recipe is of profile <img')")
    assert page.locator(".toast-body :is(i, img, script)").count() == 0, "a toast makes elements of what it quotes"
    assert controls(page) == before, "something was set all the same"
    assert page.evaluate("window.hacked") is None
    page.fill("#recipe-text textarea", "")
    ask(page, steps=2)
    drawn(page)


def test_a_hostile_prompt_is_only_text(page, made):
    paste(page, to_text(made[1] | {"prompt": HOSTILE, "steps": 2, "stage_steps": [1, 0, 1]}))
    page.wait_for_selector(f".status .line:has-text('{SAID}')")
    assert page.input_value("#prompt textarea") == HOSTILE
    drawn(page)
    tab(page, "History")
    page.wait_for_selector(".past")
    reload(page)
    page.wait_for_selector(".past")
    page.click(".past")
    page.wait_for_selector(f".status .line:has-text('{SAID}')")
    assert page.evaluate("window.hacked") is None


def test_a_recipe_whose_subject_is_not_here_sets_the_rest(page, made, tmp_path):
    pick(page)
    picture = tmp_path / "own.png"
    Image.effect_noise((64, 64), 90).convert("RGB").save(picture)
    remove(page)
    page.set_input_files("#reference input[type=file]", picture)
    page.wait_for_selector("#looked .check")
    page.fill("#prompt textarea", "in the snow")
    set_steps(page, 2)
    source = drawn(page)
    recipe = shown_recipe(page)
    tab(page, "History")
    page.wait_for_selector(".past")
    pick(page)
    page.click(".past")  # this visit has used it
    page.wait_for_selector(f".status .line:has-text('{SAID}')")
    assert drawn(page) == source
    reload(page)  # this one has not
    page.wait_for_selector("#looked .check")  # the picture is back in its box
    remove(page)
    page.wait_for_selector(".past >> nth=1")
    page.click(".past >> nth=0")
    page.wait_for_selector(f".status[data-state=failed] .line:has-text('{recipe['references'][0]}')")
    assert controls(page)["prompt"] == "in the snow"
    assert page.locator("#reference img").count() == 0
    pick(page)  # an example is another picture too, and so is a part of it
    page.wait_for_selector(f".status .line:has-text('{OTHER}')")
    remove(page)
    noise().save(tmp_path / "other.png")
    give(page, tmp_path / "other.png", OTHER)
    remove(page)
    give(page, picture, "This is the picture the recipe was made with")
    assert drawn(page) == source
    remove(page)
    give(page, tmp_path / "other.png", "Ready when you are")  # a picture that was made here asks for no other


def give(page, picture, said):
    page.set_input_files("#reference input[type=file]", picture)
    page.wait_for_selector("#looked .check")
    page.wait_for_selector(f".status .line:has-text('{said}')")


# --- out ------------------------------------------------------------------------------------------------------------


def test_a_picture_drawn_again_leaves_the_comparison_as_it_is(page, made):
    ask(page, steps=2)
    drawn(page)
    drop(page, made[0])
    page.wait_for_selector(f".status .line:has-text('{SAID}')")
    drawn(page)

    def compared():
        return page.locator("#compare img").evaluate_all("all => all.map(img => img.src)")

    tab(page, "Compare")
    page.wait_for_selector("#compare img >> nth=1")
    before = compared()
    for press in ("#generate", "#verify"):
        tab(page, "Recipe")
        start(page, press)
        ended(page)
        tab(page, "Compare")
        page.wait_for_function("[...document.querySelectorAll('#compare img')].every(img => img.complete)")
        assert compared() == before, f"{press} compares the picture with itself"


def test_a_recipe_is_downloaded_as_json_and_verify_says_identical_or_names_what_differs(page, made, tmp_path):
    path, recipe, _ = made
    drop(page, path)
    page.wait_for_selector(f".status .line:has-text('{SAID}')")
    with page.expect_download() as download:
        page.click("#save-recipe")
    assert download.value.suggested_filename == "squeeze-77.json"
    download.value.save_as(tmp_path / "got.json")
    assert read_file(tmp_path / "got.json") == recipe
    start(page, "#verify")
    assert ended(page) == "Identical: the same picture, pixel for pixel."
    old = recipe["software"] | {"torch": "1.0"}
    paste(page, to_text(recipe | {"picture": "0" * 16, "revision": "old", "software": old}))
    page.wait_for_selector(f".status .line:has-text('{SAID}')")
    for _ in range(2):  # it stays the recipe on the page
        start(page, "#verify")
        said = ended(page)
        assert said.startswith("Not identical.")
        for words in ("revision of the weights: old in the recipe", "picture, by its content hash: 0000", "torch: 1.0"):
            assert words in said, f"{words!r} is not in {said!r}"
    assert shown_recipe(page)["revision"] == "old"
    assert page.locator(".past").count() == 0, "a picture drawn again is no new one"
