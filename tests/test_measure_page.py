"""The measurements of the page go through, at counts that measure nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from serving import NO_CHROMIUM, chromium

SCRIPT = Path(__file__).with_name("measure_page.py")


@pytest.mark.skipif(chromium() is None and not os.environ.get("CI"), reason=NO_CHROMIUM)
def test_every_figure_is_measured(server):
    flags = ["--runs", "2", "--visitors", "2", "--pictures", "3", "--steps", "3", "--turns", "1", "--alone", server]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [row.strip("| ").split(" | ") for row in done.stdout.splitlines() if row.startswith("| ")][1:]
    of = {what: measured for what, measured, _ in rows}
    assert len(of) == 7
    delay, files, memory, tasks, stop, closed, same = of.values()
    assert re.fullmatch(r"[1-9]\d* ms \([1-9]\d* ms\)", delay), "pixels at the very moment of the step, or before it"
    assert " of 6 steps painted" in next(iter(of)), "two runs of three steps"
    assert re.match(r"[12], 0\.\d MB", files), "two runs leave a file each at most, and some"
    assert re.fullmatch(r"-?\d+\.\d MB", memory)
    assert int(tasks) < 2, "each run leaves one"
    for waited in (stop, closed):
        assert re.fullmatch(r"-?\d\.\d\d s", waited)
    assert same == "3 of 3"
