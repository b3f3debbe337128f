"""A recipe as link, command and call gives the same picture with the same recipe, whatever stands in it."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlencode

import pytest
from example import NASTY, RECIPE, random_request
from tiny import random_picture

from squeeze.cli import _parser, _request
from squeeze.models.profiles import PROFILES
from squeeze.pipeline import plan, recipe_of
from squeeze.recipe import (
    MAX_TEXT,
    RecipeError,
    from_text,
    read_png,
    to_text,
    write_png,
)
from squeeze.recipe_forms import from_query, to_client, to_command, to_query
from squeeze.request import clean_prompt
from squeeze.ui import handlers
from squeeze.ui.recipes import FORMS, forms

MODELS = SimpleNamespace(profile=PROFILES["plush"], revision="c30424b81554", dit=SimpleNamespace(embeds_guidance=True))


def drawn(request):
    """The recipe of a request as pipeline.generate makes it, without drawing: the picture's hash is given."""
    counts = plan(MODELS.profile, request.checked(MODELS.profile.limits))[1]
    return recipe_of(MODELS, request, counts) | {"picture": RECIPE["picture"]}


def called(code, monkeypatch):
    """The request that /generate makes of what client code sends it."""
    sent, requests = [], []

    def predict(**given):
        sent.append(json.loads(json.dumps(given)))
        return "out.png", {}

    def generate(models, request, resume=None):
        requests.append(request)
        yield from ()

    client = SimpleNamespace(Client=lambda address: SimpleNamespace(predict=predict), handle_file=lambda p: {"path": p})
    monkeypatch.setitem(sys.modules, "gradio_client", client)
    monkeypatch.setattr(handlers, "generate", generate)
    exec(compile(code, "client code", "exec"), {})
    assert sent[0].pop("api_name") == "/generate"
    list(handlers.Handlers(MODELS, []).generate(SimpleNamespace(session_hash="ann", headers={}), **sent[0]))
    return requests[0]


@pytest.mark.parametrize("seed", range(50))
def test_fifty_random_recipes_through_every_form(seed, tmp_path, monkeypatch):
    asked = random_request(seed, random_picture(seed))
    recipe, reference = drawn(asked), str(tmp_path / "it's $HOME & 100% <toy>.png")
    asked.references[0].save(reference)
    text = to_text(recipe)
    write_png(random_picture(0), recipe, tmp_path / "made.png")
    assert to_text(read_png(tmp_path / "made.png")) == text, "through a PNG"
    assert to_text(from_text(text)) == text, "through JSON"
    assert to_text(from_query(dict(parse_qsl(to_query(recipe))))) == text, "through a link"
    words = shlex.split(to_command(recipe, reference))
    assert words[:4] == ["python", "-m", "squeeze", "generate"]
    assert to_text(drawn(_request(_parser().parse_args(words[3:]), None))) == text, "through a command"
    assert to_text(drawn(called(to_client(recipe, "http://x", reference), monkeypatch))) == text, "through client code"


def test_numbers_stand_in_a_recipe_as_browsers_write_them():
    """Else a recipe that went through a page would be another one, and its PNG another file."""
    asked = random_request(1, random_picture(1))
    rows = {"balance": (1.0, -0.0, 0.5), "cfg": 2.0, "guidance": 0.0, "earlier": ((1, 0.0, 1.0, 1e-7),)}
    whole = {"balance": (1, 0, 0.5), "cfg": 2, "guidance": 0, "earlier": ((1, 0, 1, 1e-7),)}
    text = to_text(drawn(replace(asked, **rows)))
    assert text == to_text(drawn(replace(asked, **whole)))
    assert '"balance": [1, 0, 0.5]' in text


def test_the_random_prompts_are_as_nasty_as_they_look():
    prompts = [clean_prompt(random_request(seed, random_picture(seed)).prompt) for seed in range(50)]
    assert max(map(len, prompts)) > 1900
    assert any(prompt.startswith("-") for prompt in prompts)
    assert all(any(clean_prompt(word) in prompt for prompt in prompts) for word in NASTY)


def test_a_real_shell_reads_the_command_as_it_was_meant(tmp_path):
    recipe = RECIPE | {"prompt": " ".join(NASTY), "profile": "$(touch harm)", "late_text": "; touch harm"}
    words = to_command(recipe, "a $(touch harm)'.png").removeprefix("python -m squeeze generate ")
    shown = subprocess.run(["sh", "-c", f"printf '%s\\0' {words}"], cwd=tmp_path, capture_output=True, check=True)
    assert shown.stdout.decode().split("\0")[:-1] == shlex.split(words)
    assert list(tmp_path.iterdir()) == [], "a recipe ran a command"


@pytest.mark.parametrize("prompt", ["🏖" * 2000, "%" * 2000, "&+=" * 666], ids=["emoji", "percent", "signs"])
def test_a_prompt_of_two_thousand_characters_in_a_link(prompt):
    recipe = RECIPE | {"prompt": prompt}
    assert from_query(dict(parse_qsl(to_query(recipe)))) == recipe


def link_with(**changed):
    """The decoded parameters of the recipe's link with some changed, or left out where the value is `...`."""
    params = dict(parse_qsl(to_query(RECIPE))) | changed
    return {key: value for key, value in params.items() if value is not ...}


def test_a_link_can_be_read_by_people():
    assert "balance=0.0,0.5,1.0&stage_steps=4,5,16&steps=25&cfg=2.5" in to_query(RECIPE)


@pytest.mark.parametrize("params", [{}, {"__theme": "dark"}, {"view": "api", "fbclid": "x", "utm_source": "y"}])
def test_a_link_without_a_recipe(params):
    assert from_query(params) is None


def test_foreign_parameters_beside_a_recipe_are_left_alone():
    assert from_query(link_with(__theme="dark", utm_source="a", weights="evil.safetensors")) == RECIPE


def test_a_link_names_all_that_is_missing():
    with pytest.raises(RecipeError, match=r"incomplete: version, seed are missing\. Copy it whole"):
        from_query(link_with(version=..., seed=...))
    with pytest.raises(RecipeError, match="profile, revision"):
        from_query({"prompt": "on the beach"})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"version": "3"}, "Update"),
        ({"version": "0"}, "version is 0"),
        ({"version": "one"}, "version is 'one'"),
        ({"version": "9" * 4000}, "Update"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"seed": "1.5"}, "seed is 1.5"),
        ({"seed": ""}, "seed is ''"),
        ({"seed": "9" * 5000}, "seed is inf"),
        ({"cfg": "nan"}, "cfg is nan"),
        ({"cfg": "__import__('os')"}, "cfg is"),
        ({"balance": "0,half,1"}, "balance is [0, 'half', 1]"),
        ({"balance": "0,,1"}, "balance is"),
        ({"stage_steps": "4,5,1e9"}, "stage_steps is"),
        ({"references": "../../etc/passwd"}, "references is"),
        ({"picture": "0123456789ABCDEF"}, "picture is"),
        ({"software": "torch"}, "software is"),
        ({"software": "torch:<script>"}, "software is"),
        ({"prompt": "a\x1b[201~b"}, "prompt is"),
        ({"prompt": "x" * MAX_TEXT}, f"{MAX_TEXT:,}"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_rubbish_in_a_link_gets_a_sentence(changed, says):
    with pytest.raises(RecipeError) as caught:
        from_query(link_with(**changed))
    sentence = str(caught.value)
    assert says in sentence
    assert sentence.isprintable()
    assert len(sentence) < 200


@pytest.mark.parametrize("query", ["seed", "seed=", "seed=%ff%fe", urlencode({"prompt": "\0"})])
def test_a_link_that_decodes_to_nothing_much(query):
    with pytest.raises(RecipeError, match="incomplete"):
        from_query(dict(parse_qsl(query, keep_blank_values=True)))


def test_several_references_in_a_command_and_a_call(monkeypatch):
    recipe = RECIPE | {"references": ["0" * 16, "1" * 16, "2" * 16]}
    words = shlex.split(to_command(recipe, "a.png", "b c.png", "it's.png"))
    assert _parser().parse_args(words[3:]).reference == ["a.png", "b c.png", "it's.png"]
    sent = []
    client = SimpleNamespace(predict=lambda **given: sent.append(given) or ("out.png", {}))
    monkeypatch.setitem(sys.modules, "gradio_client", SimpleNamespace(Client=lambda _: client, handle_file=str.upper))
    exec(compile(to_client(recipe, "http://x", "a.png", "b c.png", "it's.png"), "client code", "exec"), {})
    assert (sent[0]["reference"], sent[0]["more"]) == ("A.PNG", ["B C.PNG", "IT'S.PNG"])


@pytest.mark.parametrize(("profile", "adapter"), [("plush", None), ("paper", Path("adapter")), ("longcat", None)])
def test_the_page_gives_a_command_that_its_profile_takes(profile, adapter):
    shown = forms(RECIPE | {"profile": profile}, "http://x", {name: name for name in FORMS})
    told = _parser().parse_args(shlex.split(shown["command"])[3:])
    assert (told.profile, told.adapter) == (profile, adapter)
