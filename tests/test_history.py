"""The history of a visit, in the browser: over a reload, in two tabs, cleared, and with rubbish in its place."""

from browsing import STATES, ask, drawn, ended, line, noise, opened, pick, reload, remove, set_steps, start, visited


def test_the_history_of_a_visit(page):
    ask(page, "on the beach", steps=3)
    drawn(page)
    page.wait_for_selector(".past")
    page.fill("#prompt textarea", "in the snow")
    drawn(page)
    page.wait_for_selector(".past >> nth=1")
    assert [text.strip() for text in page.locator(".past").all_inner_texts()] == ["in the snow", "on the beach"]
    assert page.locator(".past img").count() == 2
    reload(page)
    page.wait_for_selector(".past >> nth=1")
    assert page.locator(".past img").count() == 0, "pictures outlive the visit"
    page.click("#clear")
    page.wait_for_selector("#history .none")
    reload(page)
    ask(page, steps=2)
    drawn(page)
    assert page.locator(".past").count() == 1, "what was cleared is back after a reload"


def test_what_is_cleared_during_a_run_stays_cleared(page):
    ask(page, steps=2)
    drawn(page)
    page.wait_for_selector(".past")
    set_steps(page, 30)
    start(page)
    page.click("#clear")
    ended(page)
    assert page.locator(".past").count() == 1, "the history of before came back with the run's end"


def test_a_recipe_chosen_during_a_run_leaves_the_status_line_to_it(page, tmp_path):
    pick(page)
    remove(page)
    noise().save(tmp_path / "own.png")
    page.set_input_files("#reference input[type=file]", tmp_path / "own.png")
    page.wait_for_selector("#looked .check")
    page.fill("#prompt textarea", "on the beach")
    set_steps(page, 2)
    drawn(page)
    reload(page)
    ask(page, "in the snow", steps=60)
    start(page)
    page.wait_for_selector(".status .line:has-text('Step')")
    page.evaluate(STATES)
    page.click(".past")
    page.wait_for_function("document.querySelector('#prompt textarea').value == 'on the beach'")
    page.wait_for_selector("[data-testid=toast-body]:has-text('The settings are back')")
    ended(page)
    assert set(page.evaluate("[...states]")) <= {"busy", "done"}, "the page no longer says how far the run is"
    assert line(page).startswith("Done in")


def test_two_tabs_of_a_browser_share_one_history(visit):
    first = visit()
    ask(first, "on the beach", steps=2)
    second = visit()
    ask(second, "in the snow", steps=2)
    drawn(first)
    second.wait_for_selector(".past:has-text('on the beach')", state="attached")
    drawn(second)
    first.wait_for_selector(".past:has-text('in the snow')", state="attached")
    drawn(first)
    for page in (first, second, visit()):
        page.wait_for_selector(".past >> nth=2", state="attached")
        words = [text.strip() for text in page.locator(".past").all_inner_texts()]
        assert words == ["on the beach", "in the snow", "on the beach"]
    second.click("#clear")
    first.wait_for_selector("#history .none")
    first.bring_to_front()  # a tab behind another has a frame a second
    reload(first)
    ask(first, steps=2)
    drawn(first)
    assert first.locator(".past").count() == 1, "what was cleared is back after a reload"


DENIED = """Object.defineProperty(window, 'localStorage', {
    get() { throw new DOMException('denied', 'SecurityError') }, configurable: true,
})"""


def test_where_the_browser_denies_its_storage_the_history_lasts_as_long_as_the_page(server, browser):
    context = visited(browser)
    context.add_init_script(DENIED)
    page = opened(server, context)
    ask(page, steps=2)
    drawn(page)
    page.wait_for_selector(".past img")
    page.fill("#prompt textarea", "something else")
    page.click(".past")
    page.wait_for_selector(".status .line:has-text('The recipe is back')")
    reload(page)
    ask(page, steps=2)
    drawn(page)
    assert page.locator(".past").count() == 1
    assert not page.written
    context.close()


def test_rubbish_in_the_browsers_storage_does_no_harm(page):
    ask(page, steps=2)
    drawn(page)
    page.wait_for_selector(".past")
    kept = page.evaluate("Object.entries(localStorage).find(([key]) => key.includes('squeeze-history'))")
    assert kept, "the history is kept under another name"
    for rubbish in ("", "{", "null", "U2FsdGVkX19zcXVlZXpl", "<script>window.hacked=1</script>", kept[1][:-9]):
        page.evaluate("([key, value]) => localStorage.setItem(key, value)", [kept[0], rubbish])
        reload(page)
    page.written.clear()  # gradio says there that it could not read it
    assert page.evaluate("window.hacked") is None
    ask(page, steps=2)
    drawn(page)
    page.wait_for_selector(".past")
