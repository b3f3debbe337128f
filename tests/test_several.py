"""Several subjects on a page whose profile takes three, in the browser. The page runs in this process."""

import pytest
from browsing import drawn, ended, opened, pick, remove, set_steps, shown_recipe, start, tab
from gradio_client import Client, handle_file
from serving import free_port
from tiny import random_picture

from squeeze.images import content_hash
from squeeze.recipe_forms import to_client
from squeeze.ui.page import build, launch


@pytest.fixture(scope="module")
def address(models):
    blocks = build(models)
    yield launch(blocks, "127.0.0.1", free_port())
    blocks.close()


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """Three subjects."""
    folder = tmp_path_factory.mktemp("subjects")
    for seed in range(3):
        random_picture(seed).save(folder / f"{seed}.png")
    return [folder / f"{seed}.png" for seed in range(3)]


HASHES = [content_hash(random_picture(seed)) for seed in range(3)]


def give(page, number, file):
    name = "" if number == 1 else f"-{number}"
    page.set_input_files(f"#reference{name} input[type=file]", file)
    page.wait_for_selector(f"#looked{name} .check")


def test_boxes_appear_one_by_one_and_their_pictures_come_back(address, browser, subjects):
    page = opened(address, browser.new_context(viewport={"width": 390, "height": 844}))
    page.wait_for_selector("#reference-2")
    assert [page.is_visible(f"#reference-{number}") for number in (2, 3)] == [True, False]
    for number, file in enumerate(subjects, 1):
        give(page, number, file)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.fill("#prompt textarea", "a toy on the beach")
    set_steps(page, 3)
    source = drawn(page)
    assert shown_recipe(page)["references"] == HASHES
    remove(page, "-3")
    remove(page, "-2")
    before = page.get_attribute("#reference img", "src")
    pick(page)
    page.wait_for_function("src => document.querySelector('#reference img').src !== src", arg=before)
    tab(page, "History")
    page.click(".past")
    page.wait_for_selector("#looked-3 .check")
    assert drawn(page) == source, "Generate does not draw the recipe's picture of three subjects"
    tab(page, "Recipe")
    start(page, "#verify")
    assert ended(page).startswith("Identical")
    assert not page.written
    page.context.close()


def test_the_api_takes_more_references(address, subjects):
    client = Client(address, verbose=False)
    asked = {"prompt": "a toy", "steps": 2, "api_name": "/generate"}
    more = [handle_file(file) for file in subjects[1:]]
    _, recipe = client.predict(reference=handle_file(subjects[0]), more=more, **asked)
    assert recipe["references"] == HASHES
    again = {}
    exec(to_client(recipe, address, *map(str, subjects)), again)
    assert again["recipe"] == recipe
    for wrong, said in (
        (more * 2, "5 reference pictures, more than this profile takes: 3"),
        (["a bear"], "more could not be read"),
    ):
        with pytest.raises(Exception, match=said):
            client.predict(reference=handle_file(subjects[0]), more=wrong, **asked)


def test_a_page_of_one_subject_offers_no_second(idle):
    assert idle.locator(".reference").count() == 1
    assert idle.locator("#others").count() == 0
