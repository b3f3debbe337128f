"""What was set outlives a page that is loaded anew, and a visit a connection that was lost for a moment."""

import asyncio
import json
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from browsing import ask, drawn, ended, line, noise, opened, reload, set_steps, start, visited
from serving import free_port

BACK = ".status .line:has-text('The page was loaded anew')"
SET = """() => [
    document.querySelector('#prompt textarea').value, document.querySelector('#preset .selected').innerText,
    document.querySelector('.timeline .sum').innerText, document.querySelector('#looked .seen img').src,
]"""


class Cable:
    """The way between a browser and a server, which can be cut for a while."""

    def __init__(self, to):
        self.to, self.port, self.whole, self.ends = to, free_port(), True, set()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(asyncio.start_server(self.join, "127.0.0.1", self.port), self.loop).result()

    async def join(self, reader, writer):
        if not self.whole:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.to)
        self.ends |= {writer, back}
        await asyncio.gather(self.carry(reader, back), self.carry(there, writer))

    async def carry(self, reader, writer):
        with suppress(OSError):
            while part := await reader.read(2**16):
                writer.write(part)
                await writer.drain()
        writer.close()
        self.ends.discard(writer)

    def cut(self):
        self.whole = False
        self.loop.call_soon_threadsafe(lambda: [end.transport.abort() for end in self.ends])

    def mend(self):
        self.whole = True

    async def end(self):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.loop.call_soon(self.loop.stop)


@pytest.fixture
def cable(server):
    cable = Cable(int(server.rsplit(":", 1)[1]))
    yield cable
    asyncio.run_coroutine_threadsafe(cable.end(), cable.loop).result()


def own(page, folder):
    """A request with a picture, steps, borders and balances of its own."""
    noise().save(folder / "own.png")
    page.set_input_files("#reference input[type=file]", folder / "own.png")
    page.wait_for_selector("#looked .check")
    page.fill("#prompt textarea", "in the snow, facing left")
    set_steps(page, 60)
    page.click("#preset label:has-text('both')")
    page.focus(".timeline .edge >> nth=0")
    page.keyboard.press("ArrowRight")


def test_what_was_set_is_back_after_a_reload(page, tmp_path):
    reload(page)
    assert line(page) == "Ready when you are.", "nothing was set, and something came back"
    own(page, tmp_path)
    before = page.evaluate(SET)
    reload(page)
    page.wait_for_selector(BACK)
    page.wait_for_selector("#looked .check")
    assert page.evaluate(SET) == before
    set_steps(page, 2)
    drawn(page)
    assert not page.written


def test_a_picture_that_the_server_has_deleted_does_not_come_back(page, tmp_path):
    own(page, tmp_path)
    file = page.evaluate("JSON.parse(sessionStorage.getItem('squeeze-set')).values[0].path")
    Path(file).unlink()
    reload(page)
    page.wait_for_selector(BACK)
    assert page.input_value("#prompt textarea") == "in the snow, facing left"
    page.wait_for_selector("#reference img", state="detached")
    assert page.locator("#reference img").count() == page.locator("#looked .check").count() == 0
    page.written.clear()  # the browser says there that the file is gone


def test_rubbish_in_its_place_does_no_harm(page):
    page.wait_for_function("window.squeezeNew")
    like = {"address": page.url, "fresh": page.evaluate("squeezeNew")}
    for rubbish in ("{", "null", '{"values": 1}', json.dumps(like | {"values": 1}), json.dumps(like | {"values": []})):
        page.evaluate("rubbish => sessionStorage.setItem('squeeze-set', rubbish)", rubbish)
        reload(page)
    assert line(page) == "Ready when you are."
    ask(page, steps=2)
    drawn(page)


def test_what_another_version_of_the_page_kept_stays_away(page):
    page.wait_for_function("window.squeezeNew")
    page.fill("#prompt textarea", "in the snow")
    page.wait_for_function("sessionStorage.getItem('squeeze-set')")
    kept = json.loads(page.evaluate("sessionStorage.getItem('squeeze-set')"))
    kept["fresh"] = kept["fresh"].replace("lean", "full")
    page.evaluate("kept => sessionStorage.setItem('squeeze-set', kept)", json.dumps(kept))
    reload(page)
    page.wait_for_function("window.squeezeNew")
    assert page.input_value("#prompt textarea") == ""


def test_a_connection_lost_during_a_run_costs_nothing_that_was_set(browser, cable, tmp_path):
    context = visited(browser)
    page = opened(f"http://127.0.0.1:{cable.port}", context)
    own(page, tmp_path)
    before = page.evaluate(SET)
    start(page)
    page.wait_for_selector(".timeline .steps i.on", state="attached")
    cable.cut()
    page.wait_for_selector("[data-testid=toast-body]:has-text('Connection to the server was lost')")
    cable.mend()
    page.wait_for_selector(BACK)
    page.wait_for_selector("#looked .check")
    assert page.evaluate(SET) == before
    context.close()


def test_a_connection_lost_at_rest_loses_no_run(browser, cable):
    context = visited(browser)
    page = opened(f"http://127.0.0.1:{cable.port}", context)
    ask(page, steps=3)
    drawn(page)
    cable.cut()
    page.wait_for_timeout(500)  # the server hears of it
    cable.mend()
    page.click(".frame >> nth=0")
    page.wait_for_selector("#branch:enabled")
    start(page, "#branch")
    assert ended(page).startswith("Done in")
    context.close()
