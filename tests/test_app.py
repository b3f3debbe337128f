"""The flags of app.py: a slip ends with a sentence and exit code 2, and quickly."""

import base64
import gc
import io
import json
import shutil
import socket
import urllib.request

import pytest
from browsing import EXAMPLE, saved
from PIL import Image
from serving import caller, free_port, serving
from tiny import random_picture

import app
from squeeze.cli_models import importing
from squeeze.images import content_hash
from squeeze.recipe import read_png
from squeeze.ui.bounds import trim
from squeeze.ui.page import build, launch


def refused(capsys, *flags):
    assert app.main(flags) == 2, f"{flags} should end with exit code 2"
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_port_in_use_is_named_with_the_remedy(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(capsys, "--port", str(port))
        elsewhere = refused(capsys, "--port", str(port), "--host", "127.0.0.2")  # gradio wants it here all the same
    assert f"Port {port} on 127.0.0.1 is in use" in said
    assert "--port" in said
    assert elsewhere == said


def test_ports_and_hosts_that_cannot_be(capsys):
    assert "99999" in refused(capsys, "--port", "99999")
    assert "--host 127.0.0.1" in refused(capsys, "--host", "203.0.113.7")


def test_a_space_says_where_to_listen(capsys, monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_NAME", "203.0.113.7")
    assert "'203.0.113.7' is no address of this machine" in refused(capsys, "--port", free())
    assert "99999" in refused(capsys, "--host", "127.0.0.1", "--port", "99999")


def test_a_space_gives_its_flags_in_a_variable(capsys, monkeypatch):
    monkeypatch.setenv("SQUEEZE_FLAGS", "--profile 'no such' --port 99999")
    assert "99999" in refused(capsys)
    assert "no such" in refused(capsys, "--port", free()), "the command line rules"
    monkeypatch.setenv("SQUEEZE_FLAGS", "--profile 'teddy")
    with pytest.raises(SystemExit) as ended:
        app.main([])
    assert ended.value.code == 2
    assert 'SQUEEZE_FLAGS is "--profile \'teddy", which cannot be read' in capsys.readouterr().err


def test_an_unknown_profile_names_those_there_are(capsys):
    said = refused(capsys, "--profile", "teddy", "--port", free())
    assert "teddy" in said
    assert "plush" in said


def test_missing_weights_are_named(capsys, tmp_path):
    assert str(tmp_path / "nowhere") in refused(capsys, "--weights", str(tmp_path / "nowhere"), "--port", free())


def test_damaged_weights_are_named(capsys, tmp_path, folder):
    weights = shutil.copytree(folder, tmp_path / "damaged")
    (weights / "mllm" / "model.safetensors").write_bytes(b"cut short")
    said = refused(capsys, "--weights", str(weights), "--port", free())
    assert str(weights / "mllm") in said
    assert "damaged" in said


def test_a_device_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--device cpu" in refused(capsys, "--device", "cuda", "--port", free())


def test_paper_without_an_adapter_says_what_one_is(capsys):
    said = refused(capsys, "--profile", "paper", "--port", free())
    assert "needs an adapter" in said
    assert "--adapter DIR" in said


def test_a_revision_is_checked(capsys):
    assert "REPO@COMMIT" in refused(capsys, "--profile", "longcat", "--revision", "main", "--port", free())
    assert "me/other" in refused(
        capsys, "--profile", "longcat", "--device", "cpu", "--revision", "me/other@main", "--port", free()
    )


@pytest.fixture
def faster(monkeypatch):
    """Another program takes the port while the models load."""
    servers = []

    def launch(_page, host, port, **_options):
        print("It is to open.")
        servers.append(socket.create_server((host, port)))
        raise OSError

    monkeypatch.setattr("squeeze.ui.page.launch", launch)
    yield
    for server in servers:
        server.close()


def test_the_licence_is_shown_before_the_page_opens(capsys, faster):
    assert app.main(["--port", free()]) == 2
    said = capsys.readouterr()
    assert "Licence: Apache-2.0" in said.out.partition("It is to open.")[0]
    assert "in use" in said.err


def test_what_is_compiled_is_compiled_before_the_page_opens(capsys, monkeypatch, faster):
    monkeypatch.setattr("squeeze.models.loading.check_compiler", lambda place: None)
    monkeypatch.setattr("squeeze.warmup.warm_up", lambda models: iter(["Compiled."]))
    for flags, compiled in ((), False), (("--compile",), True):
        assert app.main([*flags, "--port", free()]) == 2
        assert ("Compiled." in capsys.readouterr().out.partition("It is to open.")[0]) == compiled


def test_what_else_keeps_a_page_from_opening_is_not_blamed_on_the_port(monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("squeeze.ui.page.launch", full)
    with pytest.raises(OSError, match="No space left"):
        app.main(["--port", free()])


def test_a_stop_while_models_are_loaded_is_no_traceback(monkeypatch):
    def stopped(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("app.load_models", stopped)
    assert app.main(["--port", free()]) == 130


def test_the_collector_waits_while_packages_are_imported_and_no_longer():
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_nothing_stays_on_the_disk(tmp_path):
    """Though a client still listens, and whoever ends it: docker stop and systemd send SIGTERM."""
    with serving(tmp_path) as (address, process):
        caller(address)(steps=1)
        files = tmp_path / "files"
        assert any(path.is_file() for path in files.rglob("*")), "the test looks in the wrong place"
        process.terminate()
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not [path for path in files.rglob("*") if path.is_file()]


def free():
    return str(free_port())


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder of the files that agents send and get."""
    return tmp_path_factory.mktemp("agents")


@pytest.fixture(scope="module")
def agents(models, kept):
    """What an agent asks for, as it asks: JSON-RPC over HTTP; `agents.page` is the page that answers."""

    def ask(method, **params):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        with urllib.request.urlopen(urllib.request.Request(f"{address}gradio_api/mcp/", body, headers)) as answer:
            data = [row for row in answer.read().decode().splitlines() if row.startswith("data: ")]
        return json.loads(data[-1].removeprefix("data: "))["result"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(kept))
        patch.setattr("gradio.mcp.DEFAULT_TEMP_DIR", str(kept))  # read when gradio is imported
        ask.page = build(models)
        address = launch(ask.page, "127.0.0.1", free_port(), mcp=True)
        yield ask
        ask.page.close(verbose=False)


def test_mcp_offers_the_two_endpoints(agents):
    """Every type must be one that a JSON schema knows."""
    tools = agents("tools/list")["tools"]
    assert [tool["name"] for tool in tools] == ["generate", "recipe"]
    assert tools[1]["description"].startswith("Read the recipe in a PNG")
    assert tools[0]["description"].startswith("Draw the subject of a reference picture")
    fields = tools[0]["inputSchema"]["properties"]
    types = {one["type"] for field in fields.values() for one in field.get("anyOf", [field])}
    assert types == {"string", "number", "array", "null"}, "not a JSON schema's types"
    assert set(tools[0]["inputSchema"]["required"]) == {"reference", "prompt"}


@pytest.mark.parametrize("progress", [{"_meta": {"progressToken": 1}}, {}], ids=["told of progress", "told nothing"])
def test_an_agent_gets_picture_and_recipe(agents, progress):
    reference = f"data:image/png;base64,{base64.b64encode(EXAMPLE.read_bytes()).decode()}"
    asked = {"reference": reference, "prompt": "in the snow", "seed": 7, "steps": 3}
    answer = agents("tools/call", name="generate", arguments=asked, **progress)
    assert not answer["isError"], answer["content"][0]["text"]
    picture, address, recipe = answer["content"]
    assert Image.open(io.BytesIO(base64.b64decode(picture["data"]))).getextrema() != ((0, 0),) * 3, "a black picture"
    with urllib.request.urlopen(address["text"].removeprefix("Image URL: ")) as png:  # the one inside has no recipe
        assert read_png(io.BytesIO(png.read()))["seed"] == 7
    assert json.loads(recipe["text"])["seed"] == 7


def test_an_agent_draws_what_a_recipe_says(agents):
    """A recipe has null where the model has no such thing, or the profile's borders hold."""
    reference = f"data:image/png;base64,{base64.b64encode(EXAMPLE.read_bytes()).decode()}"
    fields = agents("tools/list")["tools"][0]["inputSchema"]["properties"]
    nothing = dict.fromkeys(fields.keys() - {"uncond", "late_text", "more"})
    asked = nothing | {"reference": reference, "prompt": "in the snow", "steps": 2}
    answer = agents("tools/call", name="generate", arguments=asked)
    assert not answer["isError"], answer["content"][0]["text"]
    assert json.loads(answer["content"][2]["text"])["steps"] == 2


@pytest.mark.parametrize("progress", [{"_meta": {"progressToken": 1}}, {}], ids=["told of progress", "told nothing"])
def test_an_agents_mistake_gets_a_sentence(agents, progress):
    reference = f"data:image/png;base64,{base64.b64encode(EXAMPLE.read_bytes()).decode()}"
    answer = agents("tools/call", name="generate", arguments={"reference": reference, "prompt": " "}, **progress)
    assert answer["isError"]
    assert "The prompt is empty" in answer["content"][0]["text"]


def inline(picture):
    """A picture as an agent sends one that has no address."""
    return f"data:image/png;base64,{base64.b64encode(saved(picture, 'PNG')).decode()}"


def test_an_agent_sends_several_pictures(agents):
    toys = [random_picture(seed) for seed in range(3)]
    first, *more = map(inline, toys)
    asked = {"reference": first, "prompt": "a toy", "steps": 2}
    answer = agents("tools/call", name="generate", arguments=asked | {"more": more})
    assert not answer["isError"], answer["content"][0]["text"]
    assert json.loads(answer["content"][2]["text"])["references"] == [content_hash(toy) for toy in toys]
    for wrong, said in (
        ([*more, first], "4 reference pictures, more than this profile takes: 3"),
        (["a bear"], "Invalid file data format"),
        ("a bear", "Input validation error"),
        ([7], "Input validation error"),
    ):
        answer = agents("tools/call", name="generate", arguments=asked | {"more": wrong})
        assert answer["isError"], f"{wrong} was taken"
        assert said in answer["content"][0]["text"]


def test_what_agents_send_is_deleted_like_all_else(agents, kept):
    reference, *more = (inline(random_picture(seed)) for seed in range(3))
    asked = {"reference": reference, "more": more, "prompt": "a toy", "steps": 2}
    assert not agents("tools/call", name="generate", arguments=asked)["isError"]
    assert any(kept.iterdir()), "the test looks in the wrong place"
    trim(agents.page, 0, 0)
    assert not list(kept.iterdir())
