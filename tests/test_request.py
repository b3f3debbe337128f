"""Every mistake a user can make is refused with its own sentence, and nothing else is refused."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny import make_request, random_picture, tiny_profile

from squeeze.models.profiles import PROFILES, find_profile
from squeeze.pipeline import default_request
from squeeze.request import MAX_SEED, SENTENCES, Limits, RequestError, clean_prompt

LIMITS = Limits(steps=100, references=2, least_size=32, most_size=128)
GOOD = make_request(tiny_profile(PROFILES["plush"].folder), stage_steps=None)
NAN, INF = math.nan, math.inf

BAD = [
    ("no_reference", "references", ()),
    ("too_many_references", "references", (random_picture(1),) * 3),
    ("long_prompt", "prompt", "x" * 10_000),
    ("long_prompt", "prompt", "\0" * 10_000),
    *[("empty_prompt", "prompt", text) for text in ("", " \n\t", "\x00\x07\x1b\x7f\x9f", "\u200d", "\u202e", "\ud800")],
    *[("steps", "steps", value) for value in (0, -1, 101, 1_000_000, True, 2.5, NAN, "25", None)],
    *[("cfg", "cfg", value) for value in (0.99, 10.01, NAN, INF, -INF, True, "2", None, 10**400)],
    *[("guidance", "guidance", value) for value in (-0.1, 11, NAN, INF, True, None, 10**400)],
    *[("seed", "seed", value) for value in (-1, 2**53, 2**64, 2**70, 1.0, True, NAN, "7", None)],
    *[("balance", "balance", (0.0, value, 1.0)) for value in (-0.01, 1.01, NAN, INF, True, "0.5", None, 10**400)],
    *[("balance_length", "balance", value) for value in ((), (0.5,), (0, 0, 1, 1), None, 0.5, "abc")],
    *[("size", "height", value) for value in (0, 16, 33, 40, 144, 64.0, True, NAN, None, -64)],
    *[("size", "width", value) for value in (0, 16, 33, 40, 144, 64.0, True, NAN, None, -64)],
    *[("eta", "eta", value) for value in (-0.1, 1.01, NAN, INF, True, "0", None, 10**400)],
    *[("option", "uncond", value) for value in ("", "LEAN", "none", None)],
    *[("option", "late_text", value) for value in ("", "KEEP", "both", None)],
    *[
        ("stage_steps", "stage_steps", value)
        for value in ((1, 2), (2, 2, 3), (-1, 3, 4), (2.0, 2, 2), (True, 2, 3), 6, "123", (1, 1, 2, 2))
    ],
    *[
        ("earlier", "earlier", tuple((step, 0, 0.5, 1) for step in steps))
        for steps in ((0,), (-1,), (6,), (1.0,), (True,), (NAN,), (3, 3), (4, 2), ("3",), ((2,),))
    ],
    *[("earlier", "earlier", value) for value in (6, None, "2,0,1", (2.5,), ((),), (None,))],
    ("balance", "earlier", ((2, 0, 2, 1),)),
    *[("balance_length", "earlier", value) for value in (((2, 0, 1),), ((2,),), (2,), (2, 0, 0.5, 1))],
]


@pytest.mark.parametrize(
    ("code", "field", "value"), BAD, ids=lambda x: repr(x)[:24] if not isinstance(x, str) else x[:16]
)
def test_bad_input_is_refused_with_its_own_code(code, field, value):
    with pytest.raises(RequestError) as caught:
        replace(GOOD, **{field: value}).checked(LIMITS)
    assert caught.value.code == code, (
        f"{field}={value!r:.40} was refused as {caught.value.code}: the checks' order is off"
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"stage_steps": (1,) * 8000}, {"balance": [0.5] * 8000}, {"seed": 10**4000}, {"uncond": "x" * 9000},
        {"height": "9" * 9000}, {"earlier": (("y" * 9000,),)}, {"steps": {"a": ["z" * 9000] * 99}},
    ],
    ids=lambda asked: next(iter(asked)),
)  # fmt: skip
def test_a_sentence_stays_one_whatever_was_sent(asked):
    with pytest.raises(RequestError) as caught:
        replace(GOOD, **asked).checked(LIMITS)
    assert len(str(caught.value)) < 400


def test_nothing_is_called_nothing():
    with pytest.raises(RequestError, match="not nothing"):
        replace(GOOD, seed=None).checked(LIMITS)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("side", ["height", "width"])
def test_sizes_of_every_row(name, side):
    """Its own size is taken; what is no multiple of 16 or beyond its limits is refused with the value and the limit."""
    profile = PROFILES[name]
    good = default_request(profile, prompt="snow", references=(random_picture(1),))
    limits = profile.limits
    assert good.checked(limits) is good
    for bad in (profile.size - 8, profile.size + 1, limits.least_size - 16, limits.most_size + 16):
        with pytest.raises(RequestError) as caught:
            replace(good, **{side: bad}).checked(limits)
        assert caught.value.code == "size"
        for said in (side.capitalize(), str(bad), "multiple of 16", str(limits.most_size)):
            assert said in str(caught.value)


def said(code):
    """A sentence of SENTENCES filled with marks, and the marks."""
    marks = {
        name: f"<{name}>"
        for name in ("value", "limit", "stage", "total", "name", "choices", "folder", "size", "reason")
    }
    numbers = SimpleNamespace(pixels=123, multiple=16, least=32)
    template = SENTENCES[code].replace("{value:,}", "{value}").replace("{limit:,}", "{limit}")
    return template.replace("{pixels:,}", "{pixels}").format(**marks, **vars(numbers))


@pytest.mark.parametrize("code", SENTENCES)
def test_every_sentence_names_the_value_and_a_remedy(code):
    sentence = said(code)
    missing = code.startswith(("no_", "empty_"))  # there is no value to name
    assert missing or any(mark in sentence for mark in ("<value>", "123")), f"{code} does not say what was given"
    remedies = (
        "Upload", "Remove", "Use a", "Save it", "Shrink", "Say where", "Shorten", "must be", "Choose", "Make it",
        "Generate it anew", "needs three numbers", "Start the program again",
    )  # fmt: skip
    assert any(remedy in sentence for remedy in remedies), f"{code} does not say what to do: {sentence}"
    assert sentence[0].isupper() or sentence.startswith("<"), f"{code} is no sentence: {sentence}"
    assert sentence.endswith("."), f"{code} is no sentence: {sentence}"


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 1_000_000), ("cfg", 77.5), ("guidance", -3), ("seed", 2**70), ("height", 40), ("width", 4096)],
)
def test_the_message_carries_the_value(field, value):
    with pytest.raises(RequestError, match=str(value)):
        replace(GOOD, **{field: value}).checked(LIMITS)


def test_a_balance_message_names_the_stage():
    with pytest.raises(RequestError, match=r"stage 3 .* not 1\.5"):
        replace(GOOD, balance=(0, 0.5, 1.5)).checked(LIMITS)


GOOD_VALUES = [
    *[("steps", value) for value in (1, 100)],
    *[("cfg", value) for value in (1, 1.0, 10)],
    *[("guidance", value) for value in (0, 10.0)],
    *[("seed", value) for value in (0, MAX_SEED)],
    *[("balance", value) for value in ((0, 0, 0), (1, 1, 1), (0.0, 0.25, 1), [0.5, 0.5, 0.5])],
    *[("height", value) for value in (32, 48, 128)],
    *[("stage_steps", value) for value in ((6, 0, 0), (0, 0, 6), [1, 2, 3], None)],
    *[("prompt", value) for value in ("x" * 2000, "🧸", "玩具在海滩上")],
    ("references", (random_picture(0), random_picture(1))),
]


@pytest.mark.parametrize(("field", "value"), GOOD_VALUES, ids=lambda x: str(x)[:16])
def test_what_lies_on_the_border_is_taken(field, value):
    request = replace(GOOD, **{field: value})
    assert request.checked(LIMITS) is request, f"{field}={value!r:.40} is within the limits and must not be changed"


def test_a_huge_prompt_is_refused_before_it_is_cleaned(monkeypatch):
    monkeypatch.setattr("squeeze.request.clean_prompt", lambda prompt: pytest.fail("ten million characters were read"))
    with pytest.raises(RequestError, match="10,000,000"):
        replace(GOOD, prompt="x" * 10_000_000).checked(LIMITS)


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(RequestError, match="plush") as caught:
        find_profile("teddy")
    assert caught.value.code == "profile"
    assert "teddy" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("  on \t the\n\nbeach ", "on the beach"),
        ("a\x00b\x07c\x9f", "a b c"),
        ("left\u202eright\ufeff", "leftright"),
        ("soft\u00adhyphen", "softhyphen"),
        ("lone \ud800 half", "lone half"),
    ],
)
def test_control_characters_go(text, kept):
    assert clean_prompt(text) == kept, "control characters must go, white space must shrink, words must stay whole"


@pytest.mark.parametrize(
    "text",
    [
        "👨‍👩‍👧‍👦 toy",  # joined with U+200D
        "❤️",  # with a variation selector
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # Scotland's flag, spelt with tags
        "👍🏽",
        "\U0001fae8",  # of Unicode 15, which Python 3.11 does not know
        "می‌خواهم",  # joined with U+200C
        "ความสุข हिन्दी 玩具 العربية",
    ],
)
def test_emoji_and_scripts_stay(text):
    assert clean_prompt(text) == text, f"{text!r} was changed: a joiner or an unknown letter was taken for control"


@pytest.mark.parametrize("text", [" a\u0007  b ", "👩‍🚀 x\u00ad\u00ad", "\u200d \u202e", "x" * 50])
def test_cleaning_twice_changes_nothing(text):
    assert clean_prompt(clean_prompt(text)) == clean_prompt(text)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_a_profiles_defaults_are_within_its_own_limits(profile):
    request = default_request(profile, prompt="x", references=(random_picture(0),))
    assert request.checked(profile.limits) is request
