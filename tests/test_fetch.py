"""Pictures by address: what anybody can open is fetched as far as an upload may go; all else gets a sentence."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import safehttpx
from gradio_client import Client
from serving import free_port
from tiny import random_picture

from squeeze.ui import fetch
from squeeze.ui.page import build, launch

ROOM = 50_000  # bytes that a picture may have here


class Web(BaseHTTPRequestHandler):
    """A web server with a picture, and with what is wrong elsewhere."""

    sent = 0

    def do_GET(self):
        if self.path == "/toy.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.picture)
        elif self.path in ("/moved", "/inside", "/round"):
            self.send_response(302)
            there = {"/moved": "/toy.png", "/inside": "http://inside.example/toy.png", "/round": "/round"}
            self.send_header("Location", there[self.path])
            self.end_headers()
        elif self.path in ("/endless", "/slow"):
            self.send_response(200)
            self.end_headers()
            try:
                while Web.sent < 100 * ROOM:
                    Web.sent += self.wfile.write(bytes(1000))
                    time.sleep(0.2 if self.path == "/slow" else 0)
            except OSError:  # the other side has hung up
                pass
        else:
            self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The address of the web server, which counts as public, and of nothing else."""

    async def validate(host):
        if host != "public.example":
            raise ValueError(f"{host} is not public")
        return "127.0.0.1"

    monkeypatch.setattr(safehttpx, "async_validate_url", validate)
    monkeypatch.setattr(fetch, "MAX_BYTES", ROOM)
    monkeypatch.setattr(Web, "sent", 0)
    random_picture(0).save(tmp_path / "toy.png")
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        server.picture = (tmp_path / "toy.png").read_bytes()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://public.example:{server.server_port}"
        server.shutdown()


def fetched(url, folder, page=None):
    call = fetch.fetching(page or SimpleNamespace(upload_file_set=set()))
    with ThreadPoolExecutor(1) as apart:  # the browser's tests leave a loop running in this thread
        return apart.submit(asyncio.run, call(url, str(folder / "files"))).result()


@pytest.mark.parametrize("place", ["/toy.png", "/moved"])
def test_a_public_picture_comes_and_is_counted(web, tmp_path, place):
    page = SimpleNamespace(upload_file_set=set())
    path = fetched(web + place, tmp_path, page)
    assert Path(path).read_bytes() == (tmp_path / "toy.png").read_bytes()
    assert page.upload_file_set == {path}, "bounds.py would never delete it"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("/endless", "is larger than 0 MB"), ("/slow", "did not come within"), ("/nothing", "No picture could be"),
        ("/inside", "No picture could be"), ("/round", "No picture could be"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_gets_a_sentence_and_leaves_nothing(web, tmp_path, monkeypatch, place, says):
    monkeypatch.setattr(fetch, "SLOWEST", 0.5 if place == "/slow" else 30)
    with pytest.raises(gr.Error, match=says):
        fetched(web + place, tmp_path)
    assert Web.sent < 50 * ROOM, "it was taken whole before it was measured"
    assert not list((tmp_path / "files").iterdir())


@pytest.mark.parametrize("url", ["http://localhost/toy.png", "http://", "http://[/toy.png", "http://a b/<i>"])
def test_an_address_that_is_none_gets_a_sentence(web, tmp_path, url):
    with pytest.raises(gr.Error, match="No picture could be fetched") as caught:
        fetched(url, tmp_path)
    assert "<" not in caught.value.message


def test_the_api_takes_addresses(models, web, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    blocks = build(models)
    try:
        client = Client(launch(blocks, "127.0.0.1", free_port()), verbose=False)

        def ask(place):
            picture = {"path": web + place, "meta": {"_type": "gradio.FileData"}}
            return client.predict(reference=picture, prompt="a toy", steps=1, api_name="/generate")

        assert len(ask("/toy.png")[1]["references"]) == 1
        with pytest.raises(Exception, match="is larger than"):
            ask("/endless")
    finally:
        blocks.close()
