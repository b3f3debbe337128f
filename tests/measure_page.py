"""Measures what the page promises, on this machine: python tests/measure_page.py

How soon a step is seen in Chromium, what many runs in a row leave behind, how soon a Stop or a closed tab frees the
device, and whether visitors at once get what each gets alone. The page runs in a process of its own, which notes when
its steps end and what it holds; the clock is the machine's, so both sides read the same. Prints a table; exits 1 where
a picture changed because others were there.
"""

import argparse
import asyncio
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import GeneratorType

sys.path.insert(0, str(Path(__file__).parents[1]))

from browsing import ENDED, IN_LINE, STOP, ask, drawn, ended, filled, opened, start, visited
from serving import FLAGS, NO_CHROMIUM, caller, chromium, serving, unlike

FINISHED = 10**6  # in place of a step's number
A_RUN_LEAVES = 1  # file: the comparison's copy of the picture
A_PICTURE = 128 * 128 * 3 + 4096  # bytes at most, with its recipe

# Notes every step that is painted: the message comes after the frame in which the picture stands.
WATCH = """(finished) => {
    window.painted = []
    let last = 0
    const view = document.querySelector('#view')
    new MutationObserver(() => {
        const alt = view.querySelector('img')?.alt ?? ''
        const step = alt.startsWith('The finished') ? finished : Number(alt.match(/at step (\\d+)/)?.[1] ?? 0)
        if (step === last) return
        last = step
        requestAnimationFrame(() => {
            const {port1, port2} = new MessageChannel()
            port1.onmessage = () => painted.push([step, Date.now() / 1000])
            port2.postMessage(null)
        })
    }).observe(view, {subtree: true, childList: true, attributes: true})
}"""


def main(arguments=None):
    flags = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    flags.add_argument("--runs", type=int, default=200, help="in a row on one page")
    flags.add_argument("--visitors", type=int, default=20, help="at once")
    flags.add_argument("--pictures", type=int, default=200, help="of all visitors together")
    flags.add_argument("--steps", type=int, default=25, help="of each picture")
    flags.add_argument("--turns", type=int, default=5, help="that are measured for each way to free the device")
    flags.add_argument(
        "--alone", metavar="ADDRESS",
        help="of a page of this project that is served already, which draws each picture alone; without it one is",
    )  # fmt: skip
    flags.add_argument("--port", type=int, help=argparse.SUPPRESS)  # to serve, as this script starts itself
    asked = flags.parse_args(arguments)
    if asked.port:
        return serve(asked.port)
    if chromium() is None:
        sys.exit(NO_CHROMIUM)
    with tempfile.TemporaryDirectory() as folder:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with serving(Path(folder), Path(__file__), **pipes) as (address, process):
            with chromium_started() as browser:
                one = alone_on_a_page(browser, address, process, Path(folder) / "files", asked)
                free = freed(browser, address, asked)
            same = at_once(address, asked)
    print(table(asked, one, free, same))
    return 0 if same == asked.pictures else 1


# --- in the process of the page -------------------------------------------------------------------------------------


def serve(port):
    """The page; answers every line on stdin with what can only be known inside, as a line of JSON; before it answers
    "rest" it gives free memory back, as the page does every half minute."""
    from squeeze import pipeline
    from squeeze.models.loading import load
    from squeeze.models.profiles import find_profile
    from squeeze.ui.bounds import give_back
    from squeeze.ui.page import build, launch

    ended, denoise = [], pipeline.denoise

    def timed(*arguments):
        for moved in denoise(*arguments):
            ended.append((moved.index + 1, time.time()))
            yield moved

    pipeline.denoise = timed
    page = build(load(find_profile("plush")))
    launch(page, "127.0.0.1", port)
    for asked in sys.stdin:
        gc.collect()
        if asked.strip() == "rest":
            give_back()
        held = gc.get_objects()
        tasks = sum(issubclass(type(one), asyncio.Task) and not one.done() for one in held)
        runs = sum(type(one) is GeneratorType and one.__name__ == "generate" for one in held)
        del held  # else the next list holds this one, and so each all before it
        inside = {"ended": ended, "tasks": tasks + runs, "memory": memory()}
        print(json.dumps(inside), flush=True)
        ended.clear()
    return 0


def memory():
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- visitors -------------------------------------------------------------------------------------------------------


def look(process, asked=""):
    process.stdin.write(f"{asked}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@contextmanager
def chromium_started():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


def alone_on_a_page(browser, address, process, files, asked):
    """What one visitor's runs in a row show and leave: delays of steps, steps that had pixels of their own, growth."""
    delays, own = [], 0
    page = opened(address, visited(browser))
    ask(page, steps=asked.steps)
    page.evaluate(WATCH, FINISHED)
    for _ in range(2):  # the second fills what only a second picture needs: the comparison
        drawn(page)
    before, kept = rest(page, process), contents(files)
    for _ in range(asked.runs):
        page.evaluate("painted.length = 0")
        drawn(page)
        page.wait_for_function("finished => painted.some(([step]) => step === finished)", arg=FINISHED)
        painted, ended = page.evaluate("painted"), look(process)["ended"]
        delays += [next(at for step, at in painted if step >= number) - then for number, then in ended]
        own += sum(step != FINISHED for step, _ in painted)
    after = rest(page, process, before["tasks"])
    left = [size for path, size in contents(files).items() if path not in kept]
    page.context.close()
    return {
        "delay": statistics.median(delays), "slow": statistics.quantiles(delays, n=20)[-1], "own": own,
        "steps": len(delays), "files": len(left), "bytes": sum(left), "memory": after["memory"] - before["memory"],
        "tasks": after["tasks"] - before["tasks"],
    }  # fmt: skip


def freed(browser, address, asked):
    """Seconds to the first step of a page that is alone, and of the next in line after a Stop or a closed tab: the
    median of `asked.turns` each; and those of a step. Each run has a tab of its own, which shows no other's steps."""
    clock, visitor, other = time.monotonic, visited(browser), visited(browser)

    def visit(steps, who=visitor):
        page = opened(address, who)
        ask(page, steps=steps)
        return page

    def done(page, steps):
        """Waits for that step of the first run of a new page, also where it is over meanwhile."""
        page.wait_for_selector(f".timeline .steps i.on >> nth={steps - 1}", state="attached")

    def alone():
        """Seconds to the first step, and those of a step."""
        page, before = visit(20), clock()
        start(page)
        done(page, 1)
        first = clock() - before
        done(page, 5)
        before = clock()
        done(page, 15)
        each = (clock() - before) / 10
        ended(page)
        page.close()
        return first, each

    def after(end):
        first, second = visit(100, other), visit(asked.steps)
        start(first)
        filled(first, 2)
        start(second)
        second.wait_for_selector(f"{IN_LINE}, {ENDED}")
        if not second.is_visible(IN_LINE):  # a busy machine: the first was done before the second stood in line
            first.close()
            second.close()
            return after(end)
        before = clock()
        end(first)
        done(second, 1)
        seconds = clock() - before
        ended(second)
        second.close()
        first.close()
        return seconds

    ways = {"Stop": lambda page: page.evaluate(STOP), "closed tab": lambda page: page.close()}
    firsts, steps = zip(*(alone() for _ in range(asked.turns)), strict=True)
    measured = {"alone": statistics.median(firsts), "step": statistics.median(steps)}
    for way, end in ways.items():
        measured[way] = statistics.median(after(end) for _ in range(asked.turns))
    visitor.close()
    other.close()
    return measured


def rest(page, process, tasks=math.inf):
    """What is known inside once nothing moves any more, with the page's own look at memory done. That is after a
    second, and where more than so many tasks go on, as on a busy machine, after ten at most."""
    for _ in range(10):
        page.wait_for_timeout(1000)
        inside = look(process, "rest")
        if inside["tasks"] <= tasks:
            break
    return inside


def contents(folder):
    """The bytes of every file of a folder."""
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def at_once(address, asked):
    """How many pictures of visitors at once are byte for byte those that each gets alone."""
    callers = [caller(address) for _ in range(asked.visitors)]
    recipes = [unlike(n) | {"steps": asked.steps} for n in range(asked.pictures)]

    def visit(number):
        return {n: picture(callers[number], recipes[n]) for n in range(number, asked.pictures, asked.visitors)}

    with ThreadPoolExecutor(asked.visitors) as pool:
        together = {n: made for pictures in pool.map(visit, range(asked.visitors)) for n, made in pictures.items()}
    with tempfile.TemporaryDirectory() as folder:
        served = nullcontext((asked.alone, None)) if asked.alone else serving(Path(folder))  # which has seen none
        with served as (other, _):
            alone = caller(other)
            return sum(picture(alone, recipe) == together[n] for n, recipe in enumerate(recipes))


def picture(call, recipe):
    return Path(call(**recipe)[0]).read_bytes()


# --- the table ------------------------------------------------------------------------------------------------------


def table(asked, one, free, same):
    million = 1e6
    bound = asked.runs * A_RUN_LEAVES
    rows = [
        (
            f"from a step's end to its pixels, median (95 % within); {one['own']} of {one['steps']} steps painted",
            f"{1000 * one['delay']:.0f} ms ({1000 * one['slow']:.0f} ms)", goal("<= 150 ms", one["delay"] <= 0.15),
        ),
        (
            f"files that {asked.runs} runs in a row leave", f"{one['files']}, {one['bytes'] / million:.1f} MB",
            goal(
                f"<= {bound}, {bound * A_PICTURE / million:.1f} MB, for an hour",
                one["files"] <= bound and one["bytes"] <= bound * A_PICTURE,
            ),
        ),
        (
            "memory they add", f"{one['memory'] / million:.1f} MB", goal("<= 50 MB", one["memory"] <= 50 * million),
        ),
        ("tasks they leave", f"{one['tasks']}", goal("0", one["tasks"] <= 0)),
        *(
            (f"from a {way} to the next visitor's first step, less what it takes alone",
             f"{free[way] - free['alone']:.2f} s",
             goal(f"<= {free['step'] + 0.2:.2f} s, a step and 0.2 s", free[way] - free["alone"] <= free["step"] + 0.2))
            for way in ("Stop", "closed tab")
        ),
        (
            f"pictures of {asked.visitors} visitors at once that equal those drawn alone",
            f"{same} of {asked.pictures}", goal("all", same == asked.pictures),
        ),
    ]  # fmt: skip
    where = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} x {processor()}, load {os.getloadavg()[0]:.1f}"
    lines = [f"{asked.steps} steps a picture, {where}", "", "| what | measured | goal |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def goal(words, met):
    return words if met else f"{words}: missed"


def processor():
    known = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in known if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
