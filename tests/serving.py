"""A running page and its visitors: the server in a process of its own, Chromium, and scripts that call the API."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from browsing import EXAMPLE, EXAMPLES

from squeeze.balance import PRESETS

APP = Path(__file__).parents[1] / "app.py"
STARTS_WITHIN = 180  # seconds; a busy machine needs half of them
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a picture that moves, nobody asks
NO_CHROMIUM = "There is no Chromium to drive the page with. Install it, for example: apt-get install chromium"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(folder, script=APP, **pipes):
    """The address of a page that `script` serves at `--port`, and its process, which ends with this. Uploads and
    pictures go to `folder`/files, what it needs for a moment to `folder`/temporary, what it says to `folder`/log."""
    port, log = free_port(), folder / "log"
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(folder / "files"), "TMPDIR": str(temporary),
    }  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, script, "--port", str(port)], cwd=folder, env=environment, stderr=out,
            **{"stdout": out} | pipes,
        )  # fmt: skip
    try:
        address, began = f"http://127.0.0.1:{port}", time.monotonic()
        while not _answers(address):
            assert process.poll() is None, f"{script} ended at once: {log.read_text()[-2000:]}"
            late = f"{script} does not answer after {STARTS_WITHIN} s: {log.read_text()[-2000:]}"
            assert time.monotonic() - began < STARTS_WITHIN, late
            time.sleep(0.1)
        yield address, process
    finally:
        process.kill()  # a client that still listens would keep it from ending cleanly for seconds
        process.wait()


def _answers(address):
    try:
        urllib.request.urlopen(address).close()
    except OSError:
        return False
    return True


def chromium():
    """The path of Chromium, None where there is none."""
    return "/usr/bin/chromium" if os.path.exists("/usr/bin/chromium") else shutil.which("chromium")


def caller(address):
    """A visitor of the API: calls /generate as a script does."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)

    def generate(example=EXAMPLE, **changed):
        asked = {"prompt": "in the snow", "balance": [0, 0.5, 1], "steps": 4, "cfg": 2.5, "seed": 1}
        return client.predict(**{"reference": handle_file(example)} | asked | changed, api_name="/generate")

    return generate


def unlike(number):
    """What to ask a `caller` for, unlike what any other number below 360 asks for in more than the seed."""
    balances = list(PRESETS.values())
    return {
        "example": EXAMPLES[number % 6], "balance": list(balances[number // 6 % 5]), "cfg": (1, 2.5)[number // 30 % 2],
        "prompt": ("on the beach", "in the snow", "in a room, with a red hat")[number // 60 % 3],
        "uncond": ("lean", "full")[number // 180 % 2], "seed": number,
    }  # fmt: skip
