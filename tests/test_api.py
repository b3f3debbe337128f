"""The API of a running page, as scripts call it."""

import ast
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from browsing import EXAMPLE, SLOW
from serving import caller, free_port, unlike

from squeeze.models.profiles import ASSETS, PROFILES
from squeeze.recipe import read_png, to_text
from squeeze.recipe_forms import to_client
from squeeze.ui.page import build, launch

PROFILE = PROFILES["plush"]
NO_CURL = "There is no curl to try the README's example with. Install it, for example: apt-get install curl"


@pytest.fixture(scope="session")
def call(server):
    return caller(server)


def test_the_api_gives_a_picture_and_its_recipe(call):
    path, recipe = call(seed=2**53 - 1, cfg=1)
    assert read_png(Path(path)) == recipe, "the PNG's recipe is not the one that was returned"
    assert (recipe["seed"], recipe["steps"], recipe["balance"]) == (2**53 - 1, 4, [0, 0.5, 1])


def test_the_api_takes_every_option_and_null(server, call):
    options = {
        "balance": [0.1, 1, 1.0], "steps": 5, "stage_steps": [0, 3, 2], "cfg": 1 + 1e-7, "guidance": 0.1 + 0.2,
        "eta": 0.1, "uncond": "full", "late_text": "keep", "height": 128, "width": 128,
    }  # fmt: skip
    path, recipe = call(**options)
    assert {key: recipe[key] for key in options} == options | {"guidance": PROFILE.guidance}, "this model reads none"
    again = {}
    exec(to_client(recipe, server, str(EXAMPLE)), again)
    assert to_text(again["recipe"]) == to_text(recipe), "the client code of a recipe gave another"
    assert Path(again["picture"]).read_bytes() == Path(path).read_bytes()
    nothing = dict.fromkeys([*options, "seed"])
    assert call(**nothing)[1]["steps"] == PROFILE.steps
    assert call(steps=4.0, stage_steps=[1.0, 1.0, 2.0])[1]["stage_steps"] == [1, 1, 2]


def test_the_api_streams_what_happens_and_the_result_comes_last(server):
    from gradio_client import Client, handle_file

    job = Client(server, verbose=False).submit(
        reference=handle_file(EXAMPLE), prompt="cyberpunk in the snow", steps=4, seed=1, api_name="/generate"
    )
    path, recipe = job.result()
    told = [said for _, said in job.outputs()]
    assert [said.get("event") for said in told].count("step") == 4
    assert told[-1] == recipe == read_png(Path(path))
    encoded = next(said for said in told if said.get("event") == "encoded")
    assert encoded["unknown_words"] == ["cyberpunk"]
    assert encoded["stage_steps"] == recipe["stage_steps"]


def test_the_api_reads_recipes(server, call, tmp_path):
    from gradio_client import Client, handle_file

    client = Client(server, verbose=False)
    path, recipe = call()
    assert client.predict(file=handle_file(path), api_name="/recipe") == recipe
    (tmp_path / "recipe.json").write_text(to_text(recipe))
    assert client.predict(file=handle_file(tmp_path / "recipe.json"), api_name="/recipe") == recipe
    with pytest.raises(Exception, match="carries no recipe"):
        client.predict(file=handle_file(EXAMPLE), api_name="/recipe")


def test_the_code_on_the_page_of_the_api_is_python(server, browser):
    """Gradio writes it, from the types that the endpoints tell: a text that may be something else goes unquoted."""
    page = browser.new_page()
    page.goto(server)
    page.click("text=Use via API", timeout=SLOW)
    page.wait_for_selector("text=print(result)", timeout=SLOW)
    code = re.search(r"from gradio_client import .*?print\(result\)", page.inner_text("body"), re.DOTALL)[0]
    names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    assert names == {"Client", "client", "handle_file", "result", "print"}
    page.close()


@pytest.fixture(scope="module")
def callers(server):
    """Twenty visitors."""
    return [caller(server) for _ in range(20)]


@pytest.mark.parametrize(("visitors", "each", "steps"), [(3, 2, 8), (20, 1, 2)])
def test_visitors_at_once_get_what_they_get_alone(callers, call, visitors, each, steps):
    """The longer runs overlap; the many ones fill the line at the device."""
    asked = [[unlike(each * one + n) | {"steps": steps} for n in range(each)] for one in range(visitors)]
    alone = [[Path(call(**picture)[0]).read_bytes() for picture in pictures] for pictures in asked]

    def visit(visitor, pictures):
        return [Path(visitor(**picture)[0]).read_bytes() for picture in pictures]

    with ThreadPoolExecutor(visitors) as pool:
        together = list(pool.map(visit, callers[:visitors], asked))
    assert len({made for pictures in alone for made in pictures}) == visitors * each
    assert alone == together, "a visitor's picture changed because others were there"


def test_one_client_cannot_take_the_whole_line(server):
    from gradio_client import Client, handle_file

    client = Client(server, verbose=False)
    asked = {"reference": handle_file(EXAMPLE), "prompt": "in the snow", "steps": 40, "api_name": "/generate"}
    jobs = [client.submit(seed=seed, **asked) for seed in range(4)]
    said = [str(job.exception(SLOW / 1000)) for job in jobs]
    assert said.count("None") == 2, "one runs and one waits"
    assert sum("waiting in line already" in one for one in said) == 2, said


def test_runs_in_a_row_leave_only_their_pictures(server, call, files):
    before, runs = set(files.rglob("*")), 12
    for seed in range(runs):
        call(seed=seed, steps=2)
    left = [path for path in set(files.rglob("*")) - before if path.is_file()]
    assert len(left) <= runs + 1, f"{runs} runs left {len(left)} files on the server"
    assert sum(path.stat().st_size for path in left) < runs * (128 * 128 * 4 + 33_000)
    assert not list((files.parent / "temporary").glob("squeeze-*")), "a folder of a finished picture was left"


BAD = [
    ({"steps": 0}, "Steps must be a whole number from 1 to 100, not 0"),
    ({"steps": 1_000_000}, "not 1000000"),
    ({"steps": "many"}, "not many"),
    ({"balance": [0, 2, 1]}, "The balance of stage 2"),
    ({"balance": 2}, "three numbers"),
    ({"balance": [0, 1]}, "three numbers"),
    ({"seed": 2**70}, "The seed must be a whole number"),
    ({"cfg": 0}, "CFG must be a number"),
    ({"cfg": "much"}, "CFG must be a number"),
    ({"guidance": -1}, "Guidance must be a number"),
    ({"stage_steps": [1, 1, 1]}, "three whole numbers that add up to 4"),
    ({"stage_steps": "1,1,2"}, "three whole numbers that add up to 4"),
    ({"stage_steps": [1, 1.5, 1.5]}, "three whole numbers that add up to 4"),
    ({"stage_steps": json.loads("[" * 500 + "]" * 500)}, "three whole numbers that add up to 4"),
    ({"height": 65}, "Height must be a multiple of 16"),
    ({"width": "wide"}, "Width must be a multiple of 16"),
    ({"eta": 2}, "Eta must be a number from 0 to 1, not 2"),
    ({"uncond": "none"}, "uncond must be one of lean or full"),
    ({"late_text": ["drop"]}, "late_text must be one of drop or keep"),
    ({"prompt": "a" * 10_000}, "The prompt has 10,000 characters"),
    ({"prompt": ""}, "The prompt is empty"),
    ({"reference": None}, "no picture of the subject"),
    ({"reference": "a bear"}, "no picture of the subject"),
]


@pytest.mark.parametrize(("changed", "said"), BAD, ids=lambda value: str(value)[:30])
def test_bad_api_values_get_a_sentence(call, changed, said):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as error:
        call(**changed)
    assert said in str(error.value), f"{changed}: {error.value}"


def test_helpers_stay_private(server):
    from gradio_client import Client

    offered = Client(server, verbose=False).view_api(return_format="dict", print_info=False)
    assert set(offered["named_endpoints"]) == {"/generate", "/recipe"}
    assert not offered["unnamed_endpoints"]
    parameters = offered["named_endpoints"]["/generate"]["parameters"]
    assert {one["parameter_name"] for one in parameters if not one["parameter_has_default"]} == {"reference", "prompt"}


def readme(server, begins):
    """The README's example that begins so, for this server and the example toy."""
    blocks = (Path(__file__).parents[1] / "README.md").read_text().split("```")[1::2]
    (block,) = (block.strip() for block in blocks if block.strip().startswith(begins))
    return block.replace("http://127.0.0.1:7860", server).replace("toy.png", str(EXAMPLE))


def test_the_readmes_client_example_runs(server):
    said = {}
    exec(readme(server, "from gradio_client"), said)
    assert read_png(Path(said["picture"])) == said["recipe"]


def test_the_readmes_curl_example_runs(server):
    if shutil.which("curl") is None:
        pytest.fail(NO_CURL) if os.environ.get("CI") else pytest.skip(NO_CURL)

    def asked(command):
        return subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout

    upload, call, wait = readme(server, "curl").splitlines()
    (path,) = json.loads(asked(upload))
    event = json.loads(asked(call.replace("PATH", path)))["event_id"]
    said = asked(wait.replace("EVENT_ID", event))
    address, recipe = json.loads(said.rpartition("event: complete\ndata: ")[2].splitlines()[0])
    with urllib.request.urlopen(address["url"]) as file:
        assert file.read(4) == b"\x89PNG"
    assert (recipe["prompt"], recipe["seed"]) == ("in the snow", 7)


def uploaded(server):
    """The path of the example in the server's upload folder."""
    form = b'--squeeze\r\nContent-Disposition: form-data; name="files"; filename="toy.png"\r\n\r\n'
    sent = urllib.request.Request(f"{server}/gradio_api/upload", form + EXAMPLE.read_bytes() + b"\r\n--squeeze--\r\n")
    sent.add_header("Content-Type", "multipart/form-data; boundary=squeeze")
    with urllib.request.urlopen(sent) as answer:
        return json.load(answer)[0]


def heard(server, endpoint="generate", **asked):
    """What is heard of a call as curl makes it, JSON with NaN included; `asked` are the endpoint's arguments."""
    address = f"{server}/gradio_api/call/v2/{endpoint}"
    usual = {"prompt": "in the snow", "steps": 4} if endpoint == "generate" else {}
    body = json.dumps(usual | asked).encode()
    with urllib.request.urlopen(urllib.request.Request(address, body, {"Content-Type": "application/json"})) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}") as answer:
        return answer.read().decode()


def test_a_call_without_the_client(server, call):
    """As the README shows it; a value that only sloppy JSON can carry gets a sentence, and the next request works."""
    file = {"path": uploaded(server), "meta": {"_type": "gradio.FileData"}}
    assert "event: complete" in heard(server, reference=file)
    assert "The balance of stage 2" in heard(server, reference=file, balance=[0, float("nan"), 1])
    assert "CFG must be" in heard(server, reference=file, cfg=float("nan"))
    call()


@pytest.mark.parametrize("sent", [{}, {"prompt": "in the snow"}, {"reference": {}, "prompt": "x", "foo": 1}])
def test_a_call_with_the_wrong_arguments_says_which(server, sent):
    address = f"{server}/gradio_api/call/v2/generate"
    asked = urllib.request.Request(address, json.dumps(sent).encode(), {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked)
    assert caught.value.code == 422
    assert ("foo" if "foo" in sent else "required argument") in json.load(caught.value)["error"]


def test_a_file_of_the_server_is_no_upload(server):
    for path in (EXAMPLE, ASSETS / "readme" / "page.png", "/etc/passwd"):
        assert "no picture of the subject" in heard(server, reference={"path": str(path)}), f"the server opened {path}"


def test_a_file_of_the_server_that_claims_to_be_an_upload_is_none(models, monkeypatch, tmp_path):
    """On a page in this process: gradio refuses with a traceback in the log."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    blocks = build(models)
    try:
        address = launch(blocks, "127.0.0.1", free_port()).rstrip("/")
        mine = {"path": uploaded(address), "meta": {"_type": "gradio.FileData"}}
        for path in ("/etc/passwd", str(ASSETS / "readme" / "page.png")):
            theirs = mine | {"path": path}
            for said in (
                heard(address, reference=theirs), heard(address, reference=mine, more=[theirs]),
                heard(address, "recipe", file=theirs),
            ):  # fmt: skip
                assert "event: error" in said, f"the server opened {path}: {said}"
        assert "event: complete" in heard(address, reference=mine)
    finally:
        blocks.close()
