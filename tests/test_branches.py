"""Branches from a kept step, without browser and network: what is drawn, what comes back, what is refused."""

import gradio as gr
import pytest
from pressing import ANN, BALANCE, BOB, PARTS, run, whole

from squeeze.pipeline import generate
from squeeze.recipe import write_png
from squeeze.ui import recipes
from squeeze.ui.handlers import Going
from squeeze.ui.timeline import state

OTHER = (1.0, 1.0, 0.25)


def picked(handlers, step, visitor=ANN):
    """What choosing a step of the newest run's film keeps, as Branch gets it."""
    return handlers.choose(PARTS, handlers.newest(visitor.session), step, visitor.session)["chosen"]


def branch(handlers, chosen, balance, visitor=ANN):
    return whole(handlers.branch(PARTS, chosen, state((2, 2, 2), balance), visitor))


def png(picture, recipe, path):
    return write_png(picture, recipe, path).path.read_bytes()


def from_the_command_line(models, recipe, picture, path):
    """The PNG that the recipe gives as `python -m squeeze generate --recipe` draws it."""
    request = recipes.requested(recipe, models.profile, (picture,))
    finished = list(generate(models, request))[-1]
    return png(finished.image, finished.recipe, path)


def test_a_branch_does_only_what_remains_and_is_a_picture_of_its_recipe(models, handlers, form, forwards, tmp_path):
    run(handlers, form())
    before = len(forwards)
    shown = branch(handlers, picked(handlers, 4), OTHER)
    assert len(forwards) - before == 2, "a branch after 4 of 6 steps at CFG 1 is two forwards"
    recipe = shown["recipe"]
    assert recipe["earlier"] == [[4, *BALANCE]]
    assert recipe["balance"] == list(OTHER)
    drawn = handlers.visits.newest("ann")
    ours = png(drawn.picture, recipe, tmp_path / "page.png")
    assert ours == from_the_command_line(models, recipe, drawn.request.references[0], tmp_path / "line.png")
    assert len(drawn.frames) == len(drawn.latents) == 6


def test_a_branch_stopped_before_a_step_of_its_own_leaves_the_page_as_it_was(handlers, form):
    run(handlers, form())
    trunk, going, shown = handlers.newest("ann"), Going(), {}
    for change in handlers.branch(PARTS, picked(handlers, 4), state((2, 2, 2), OTHER), ANN, going):
        shown |= change
        going.stopped = "Reading" in shown.get("status", "")
    assert "Stopped before the first step" in shown["status"]
    assert "film" not in shown
    assert handlers.newest("ann") == trunk


def test_generate_after_a_branch_draws_it_again(handlers, form):
    run(handlers, form(counts=(0, 0, 0), touched=False, steps=4))
    run(handlers, form())
    shown = branch(handlers, picked(handlers, 3), OTHER)
    value = shown["timeline"]["value"]
    assert (shown["steps"], shown["preset"], value["earlier"]) == (6, "custom", [[3, *BALANCE]])
    assert [shown[slider] for slider in PARTS.sliders] == list(OTHER)
    for name, value_of in form().items():
        if name not in ("reference", "steps", "timeline"):
            assert shown[name] == value_of, f"{name} does not go back to the branched run's"
    again = run(handlers, form() | {"timeline": value, "steps": shown["steps"], "seed": shown["seed"]})
    assert again["recipe"] == shown["recipe"]


def test_a_branch_of_a_branch(models, handlers, form, tmp_path):
    run(handlers, form())
    branch(handlers, picked(handlers, 4), OTHER)
    shown = branch(handlers, picked(handlers, 5), (0.5, 0.5, 0.5))
    assert shown["recipe"]["earlier"] == [[4, *BALANCE], [5, *OTHER]]
    before_both = branch(handlers, picked(handlers, 2), OTHER)
    assert before_both["recipe"]["earlier"] == [[2, *BALANCE]], "what came after step 2 is forgotten"
    drawn = handlers.visits.newest("ann")
    ours = png(drawn.picture, before_both["recipe"], tmp_path / "page.png")
    assert ours == from_the_command_line(
        models, before_both["recipe"], drawn.request.references[0], tmp_path / "line.png"
    )


def test_the_last_step_and_a_run_that_is_gone_get_a_sentence(handlers, form):
    run(handlers, form())
    last = handlers.choose(PARTS, handlers.newest("ann"), 6, "ann")
    assert "Nothing follows the last step" in last["status"]
    assert last["chosen"] is None
    chosen = picked(handlers, 3)
    assert picked(handlers, 3, BOB) is None, "a visitor chose a frame of another's run"
    handlers.visits.leave("ann")
    for given in (chosen, None):
        with pytest.raises(gr.Error, match="no longer kept"):
            branch(handlers, given, OTHER)
    assert not handlers.line.busy
    run(handlers, form())


def test_anything_may_be_sent_as_a_choice(handlers, form):
    run(handlers, form())
    name = handlers.newest("ann")
    for given, step in ((name, None), (name, 0), (name, 7), (name, "3"), (name, True), (None, 3), ([], 3), ("x", 1)):
        assert handlers.choose(PARTS, given, step, "ann")["chosen"] is None, f"{given!r}, {step!r}"


def test_a_stopped_run_can_be_branched_from(handlers, form):
    going, shown = Going(), {}
    for change in handlers.run(PARTS, form(), ANN, going):
        shown |= change
        going.stopped = len(handlers.visits.newest("ann").frames) == 3
    assert "Stopped" in shown["status"]
    assert shown["film"].count('class="frame') in (3, 4)
    assert not handlers.line.busy
    recipe = branch(handlers, picked(handlers, 3), OTHER)["recipe"]
    assert recipe["earlier"] == [[3, *BALANCE]]
