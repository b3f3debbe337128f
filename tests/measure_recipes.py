"""Measures on this machine whether recipes bring their pictures back: python tests/measure_recipes.py

Random recipes are drawn by the API, then anew by what each picture tells of itself: its PNG dropped on the page, its
JSON pasted there, its link opened in Chromium, its command run by a shell, its client code executed. Counts the files
that come out the same, byte for byte, recipe included; exits 1 where one does not.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from browsing import EXAMPLES, SLOW, drawn, drop, opened, paste, visited
from example import random_request
from serving import FLAGS, NO_CHROMIUM, chromium, serving

from squeeze.images import open_picture
from squeeze.recipe import OPTIONS, read_png, to_text
from squeeze.recipe_forms import to_client, to_command, to_query

ROOT = Path(__file__).parents[1]
BACK = ".status .line:has-text('The recipe is back')"


def main(arguments=None):
    flags = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    flags.add_argument("--recipes", type=int, default=50)
    flags.add_argument("--steps", type=int, default=12, help="of a picture, at most")
    asked = flags.parse_args(arguments)
    if chromium() is None:
        sys.exit(NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        with serving(Path(folder)) as (address, _):
            same = measured(browser, address, Path(folder), asked.recipes, asked.steps)
        browser.close()
    print("| through | same file |", "|---|---|", sep="\n")
    for way in WAYS:
        print(f"| {way} | {same[way]} of {asked.recipes} |")
    return 0 if all(same[way] == asked.recipes for way in WAYS) else 1


def measured(browser, address, folder, recipes, steps):
    """How many of so many recipes came out the same, by way."""
    same = Counter()
    for number in range(recipes):
        path, example = first(address, number, steps)
        made, recipe = path.read_bytes(), read_png(path)
        visit = Visit(browser, address, folder)
        for way, again in WAYS.items():
            came = again(visit, path, recipe, example)
            same[way] += came == made
            if came != made:
                print(f"recipe {number} through {way}: {apart(recipe, came)}", file=sys.stderr)
        visit.context.close()
    return same


def apart(recipe, came):
    """In which fields the recipe of another file is another."""
    other = read_png(io.BytesIO(came))
    pairs = {key: (repr(value), repr(other[key])) for key, value in recipe.items()}
    return "; ".join(f"{key} {ours}, not {theirs}" for key, (ours, theirs) in pairs.items() if ours != theirs)


def first(address, number, most):
    """A random recipe's picture, by the API: the path of its PNG, and the example that it was drawn from."""
    from gradio_client import Client, handle_file

    example = EXAMPLES[number % len(EXAMPLES)]
    request = random_request(number, open_picture(example), most, most_words=200)
    given = {name: getattr(request, name) for name in OPTIONS}
    client = Client(address, verbose=False)
    return Path(client.predict(reference=handle_file(example), **given, api_name="/generate")[0]), example


# --- the ways back --------------------------------------------------------------------------------------------------


class Visit:
    """One visitor's browser, the page's address, and a folder to write to."""

    def __init__(self, browser, address, folder):
        self.context = visited(browser)
        self.address, self.folder = address, folder

    def drawn(self, path="", act=None):
        """The PNG of the page at `path` once `act` has brought a recipe back: Generate, then Download."""
        page = opened(f"{self.address}/{path}", self.context)
        if act:
            page.click("#examples button >> nth=1")  # what is on the page before must not matter
            page.wait_for_selector("#reference img")
            act(page)
        page.wait_for_selector(BACK)
        page.wait_for_selector("#reference img")
        drawn(page)
        with page.expect_download(timeout=SLOW) as download:
            page.click("#download")
        made = Path(download.value.path()).read_bytes()
        page.close()
        return made


def by_png(visit, path, recipe, example):
    return visit.drawn(act=lambda page: drop(page, path))


def by_json(visit, path, recipe, example):
    return visit.drawn(act=lambda page: paste(page, to_text(recipe)))


def by_link(visit, path, recipe, example):
    return visit.drawn(f"?{to_query(recipe)}")


def by_command(visit, path, recipe, example):
    out = visit.folder / f"squeeze-{recipe['seed']}.png"
    out.unlink(missing_ok=True)
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": paths, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # as the page has
    subprocess.run(["sh", "-c", to_command(recipe, str(example))], cwd=visit.folder, env=environment, check=True)
    return out.read_bytes()


def by_client(visit, path, recipe, example):
    said = {}
    exec(compile(to_client(recipe, visit.address, str(example)), "client code", "exec"), said)
    return Path(said["picture"]).read_bytes()


WAYS = {"PNG": by_png, "JSON": by_json, "link": by_link, "command": by_command, "client": by_client}

if __name__ == "__main__":
    sys.exit(main())
