"""What visitors leave stays within bounds, and what was used last stays longest."""

import os
import platform
import socket
import time
import urllib.request
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from measure_page import memory
from serving import free_port

from squeeze.ui import bounds
from squeeze.ui.page import build, launch

HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="toy.png"\r\nContent-Type: image/png\r\n\r\n'


def write(path, size):
    path.write_bytes(bytes(size))
    time.sleep(0.02)  # times of change tell files apart by their clock's ticks
    return str(path)


def test_what_was_used_longest_ago_goes_first(tmp_path):
    kept, *files = (write(tmp_path / name, 40_960) for name in ("example", "a", "b", "c", "d"))
    os.utime(files[0])
    gone = str(tmp_path / "deleted by another")
    page = SimpleNamespace(
        blocks={1: SimpleNamespace(keep_in_cache={kept}), 2: SimpleNamespace()},
        temp_file_sets=[{*files[:3], gone, kept}, {files[0], files[3]}],
        GRADIO_CACHE=str(tmp_path),
    )
    assert bounds.trim(page, 200_000, 60) == 0
    assert len(list(tmp_path.iterdir())) == 5
    assert bounds.trim(page, 100_000, 60) == 2 * (40_960 + bounds.FOLDER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d", "example"]
    assert page.temp_file_sets == [{files[0], gone, kept}, {files[0], files[3]}], "deleted files are still on the list"


def test_what_is_old_goes_with_its_folder(tmp_path):
    files = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        files.append(write(tmp_path / name / "toy.png", 1))
    (tmp_path / "a" / "of another").touch()
    page = SimpleNamespace(blocks={}, temp_file_sets=[set(files)], GRADIO_CACHE=str(tmp_path / "none"))
    time.sleep(0.3)
    os.utime(files[2])
    bounds.trim(page, 10**9, 0.25)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "c", "of another", "toy.png"]


def test_many_small_files_count_with_the_room_they_take(tmp_path):
    files = [write(tmp_path / str(number), 1) for number in range(5)]
    page = SimpleNamespace(blocks={}, temp_file_sets=[set(files)], GRADIO_CACHE=str(tmp_path / "none"))
    assert bounds.trim(page, 3 * bounds.FOLDER, 60) > bounds.FOLDER
    assert len(list(tmp_path.iterdir())) < 4


def test_uploads_that_broke_off_count_and_go(tmp_path):
    stalled, growing, ours, others = (tmp_path / name for name in ("tmpa1b2", "tmpc3d4", "toy.png", "else"))
    for path in (stalled, growing, ours, others):
        write(path, 40_960)
    (tmp_path / "tmpfolder").mkdir()
    os.utime(stalled, (0, time.time() - bounds.STALLED - 1))
    page = SimpleNamespace(blocks={}, temp_file_sets=[{str(ours)}], GRADIO_CACHE=str(tmp_path))
    assert bounds.trim(page, 100_000, 60) == 0, "an upload that broke off was deleted before its time"
    assert bounds.trim(page, 50_000, 60) == 40_960 + bounds.FOLDER
    assert sorted(path.name for path in tmp_path.iterdir()) == ["else", "tmpa1b2", "tmpc3d4", "tmpfolder"]
    bounds.trim(page, 0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["else", "tmpc3d4", "tmpfolder"]


def test_an_upload_that_breaks_off_is_known_by_its_name(models, tmp_path, monkeypatch):
    """What gradio leaves of it is found as bounds.py looks for it."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(bounds, "STALLED", 0.2)
    monkeypatch.setattr(bounds, "OLDEST", 0.5)
    monkeypatch.setattr(bounds, "EVERY", 0.05)
    page = build(models)
    try:
        port = urlsplit(launch(page, "127.0.0.1", free_port())).port
        head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
        with socket.create_connection(("127.0.0.1", port)) as visitor:
            visitor.sendall(head + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + HEAD + bytes(3_000_000))
            until = time.monotonic() + 30
            while not (begun := [path for path in tmp_path.rglob("*") if path.is_file()]) and time.monotonic() < until:
                time.sleep(0.01)
        assert begun, "nothing of the upload came"
        while begun[0].exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not begun[0].exists(), f"{begun[0].name} stays for ever"
    finally:
        page.close()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="free memory is given back through glibc")
def test_holes_between_what_is_kept_are_given_back():
    kept, large = [], []
    for _ in range(6000):
        large.append(b"x" * 50_000)
        kept.append(b"x" * 20_000)
    large.clear()
    before = memory()
    bounds.give_back()
    assert before - memory() > 100_000_000, f"of {before / 1e6:.0f} MB too little was given back"


def test_memory_is_given_back_while_the_page_is_open(models, monkeypatch):
    monkeypatch.setattr(bounds, "EVERY", 0.01)
    given = []
    monkeypatch.setattr(bounds, "give_back", lambda: given.append(time.monotonic()))
    page = build(models)
    try:
        launch(page, "127.0.0.1", free_port())
        until = time.monotonic() + 30
        while len(given) < 2 and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        page.close()
    assert len(given) >= 2


def upload(address, size):
    request = urllib.request.Request(
        f"{address.rstrip('/')}/gradio_api/upload", HEAD + os.urandom(size) + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )  # fmt: skip
    urllib.request.urlopen(request).close()


def test_uploads_cannot_fill_the_disk(models, tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MOST", 3_100_000)
    monkeypatch.setattr(bounds, "EVERY", 0.05)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    def held():
        return sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())

    page = build(models)
    try:
        address = launch(page, "127.0.0.1", free_port())
        most = 0
        for _ in range(8):
            upload(address, 1_000_000)
            time.sleep(0.3)
            most = max(most, held())
        assert 2_000_000 < most < 4_000_000, f"{most} bytes lie there"
    finally:
        page.close()
