"""What Python sends to the stage timeline and reads from it."""

import pytest

from squeeze.request import RequestError
from squeeze.ui import texts
from squeeze.ui.timeline import read, state, timeline

COUNTS, BALANCE = (4, 5, 16), (0.0, 0.5, 1.0)


def test_the_value_reads_back():
    automatic = {"stage_steps": None, "balance": BALANCE, "earlier": ()}
    assert read(state(COUNTS, BALANCE), 25) == automatic, "automatic borders are no stage_steps"
    assert read(state(COUNTS, BALANCE, touched=True), 25) == automatic | {"stage_steps": COUNTS}
    assert read(state((0, 0, 25), (0, 1, 0.05), touched=True), 25)["stage_steps"] == (0, 0, 25)
    assert read(state(COUNTS, BALANCE), 30)["stage_steps"] is None, "counts matter only where a hand set them"
    assert read(state(COUNTS, BALANCE, earlier=((9, 0, 0, 0.5),)), 25)["earlier"] == ((9, 0, 0, 0.5),)


BAD = [
    (None, "balance_length"),
    ("4,5,16", "balance_length"),
    ([4, 5, 16], "balance_length"),
    ({}, "balance_length"),
    ({"balance": None}, "balance_length"),
    ({"balance": [0, 1]}, "balance_length"),
    ({"balance": "012"}, "balance_length"),
    ({"balance": [0, 1.01, 1]}, "balance"),
    ({"balance": [0, float("nan"), 1]}, "balance"),
    ({"balance": [0, "0.5", 1]}, "balance"),
    ({"balance": [0, True, 1]}, "balance"),
    ({"counts": [4, 5, 15]}, "stage_steps"),
    ({"counts": [30, -10, 5]}, "stage_steps"),
    ({"counts": [4.0, 5, 16]}, "stage_steps"),
    ({"counts": [4.5, 4.5, 16]}, "stage_steps"),
    ({"counts": [True, 8, 16]}, "stage_steps"),
    ({"counts": [9, 16]}, "stage_steps"),
    ({"counts": [25]}, "stage_steps"),
    ({"counts": None}, "stage_steps"),
    ({"counts": {"0": 25}}, "stage_steps"),
    ({"counts": "abc"}, "stage_steps"),
    ({"earlier": [[25, 0, 0, 0]]}, "earlier"),
    ({"earlier": None}, "earlier"),
    ({"earlier": [[3, 0, 0]]}, "balance_length"),
]


@pytest.mark.parametrize(("sent", "code"), BAD, ids=lambda value: str(value)[:30])
def test_nonsense_from_a_browser_gets_a_sentence(sent, code):
    if isinstance(sent, dict) and sent:
        sent = state(COUNTS, BALANCE, touched=True) | sent
    with pytest.raises(RequestError) as error:
        read(sent, 25)
    assert error.value.code == code, str(error.value)


def test_only_true_means_touched():
    for touched in (None, 1, "true", [True]):
        assert read(state(COUNTS, BALANCE) | {"touched": touched}, 25)["stage_steps"] is None, f"touched = {touched!r}"


def test_gradio_reads_nothing_into_the_template():
    control = timeline(COUNTS, BALANCE)
    found = [sign for sign in ("`", "{", "$", "\\") if sign in control.html_template]
    assert not found, f"{found} in the template would be run as JavaScript or Handlebars"
    assert control.css_template == "", "gradio parses a css_template anew at every step of a run"
    taken = [name for name in control.props if hasattr(control, name)]
    assert not taken, f"{taken} stand in quotes in timeline.js: gradio takes them for events and cannot update them"


def test_the_template_names_every_stage():
    template = timeline(COUNTS, BALANCE).html_template
    assert template.count('role="slider"') == 5
    for name, _ in texts.STAGES:
        assert f'data-name="{name}"' in template
