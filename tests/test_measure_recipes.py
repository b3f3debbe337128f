"""The measurement of recipes goes through, at a count that measures little."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from serving import NO_CHROMIUM, chromium

SCRIPT = Path(__file__).with_name("measure_recipes.py")


@pytest.mark.skipif(chromium() is None and not os.environ.get("CI"), reason=NO_CHROMIUM)
def test_every_way_back_is_tried(server):
    flags = ["--recipes", "1", "--steps", "4", "--address", server]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for way in ("PNG", "JSON", "link", "command", "client"):
        assert f"| {way} | 1 of 1 |" in done.stdout
