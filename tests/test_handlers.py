"""The page's handlers without browser and network: runs stopped, recipes verified, the device shared, visits kept."""

import os
import re
import time
from pathlib import Path

import gradio as gr
import pytest
from pictures import good
from pressing import ANN, BALANCE, BOB, PARTS, run, whole
from tiny import random_picture

from squeeze.events import Finished
from squeeze.images import content_hash, open_picture
from squeeze.ui import recipes, texts, views
from squeeze.ui.handlers import Going, Handlers
from squeeze.ui.show import closing
from squeeze.ui.visits import Run

# --- stop -----------------------------------------------------------------------------------------------------------


def test_stop_before_a_run_has_begun_draws_nothing(handlers, form, forwards):
    shown = whole(handlers.run(PARTS, form(), ANN, Going(stopped=True)))
    assert "Stopped" in shown["status"]
    assert not forwards
    assert "film" not in shown, "the film on the page is that of the run before"
    assert not handlers.line.busy


def test_stop_while_waiting_leaves_the_line(handlers, form):
    first, going = handlers.run(PARTS, form(), ANN), Going()
    next(first)
    waiting = handlers.run(PARTS, form(), BOB, going)
    assert next(waiting) == {"seed": 7}, "what the form says changes at the press, not under the visitor's hands later"
    assert "next in line" in next(waiting)["status"]
    going.stopped = True
    handlers.line.wake()
    assert "Stopped" in whole(waiting)["status"]
    assert 'data-state="done"' in whole(first)["status"]
    assert not handlers.line.busy


def test_stop_at_the_last_step_lets_the_picture_come(handlers, form):
    going, shown = Going(), {}
    for change in handlers.run(PARTS, form(), ANN, going):
        shown |= change
        going.stopped = len(handlers.visits.newest("ann").latents) == 6
    assert going.finished, "all is drawn, and there is no picture"
    assert 'data-state="done"' in shown["status"]


def test_stop_takes_no_finished_picture_back(handlers, form):
    going, last = Going(), {}
    for change in handlers.run(PARTS, form(), ANN, going):
        last = change
        going.stopped = handlers.visits.newest("ann").picture is not None
    assert 'data-state="done"' in last["status"]
    assert going.finished


def test_the_first_picture_of_a_visit_leaves_no_comparison_of_others(handlers, form):
    """A browser that lost its connection for a moment comes back as another visit, its page as it was."""
    run(handlers, form())
    shown = run(handlers, form(seed=8))
    assert all(shown["compare"]["value"])
    handlers.visits.leave("ann")
    assert run(handlers, form(seed=9))["compare"]["value"] is None


def test_unknown_words_are_named_as_far_as_there_is_room():
    few = views.status("", "done", ["robot", "cyberpunk"])
    assert texts.UNKNOWN.format(words="robot, cyberpunk") in few
    many = views.status("", "done", [f"word{number}" for number in range(200)])
    assert "word4, and 195 more" in many
    assert "word5" not in many
    assert len(views.status("", "done", ["x" * 2000])) < 300


@pytest.mark.parametrize("step", range(1, 7))
def test_a_run_stopped_anywhere_says_what_came_of_it(handlers, form, step):
    going, shown = Going(), {}
    for change in handlers.run(PARTS, form(), ANN, going):
        shown |= change
        going.stopped = going.stopped or len(handlers.visits.newest("ann").frames) >= step
    assert going.finished == (handlers.visits.newest("ann").picture is not None)
    assert ('data-state="done"' if going.finished else 'data-state="stopped"') in shown["status"]


def test_the_page_shows_a_run_until_another_has_something_to_show(handlers, form):
    run(handlers, form())
    before, going, seen = handlers.newest("ann"), Going(), set()
    for change in handlers.run(PARTS, form(), ANN, going):
        seen |= change.keys()
        if going.stopped:
            assert "Stopped before the first step" in change["status"]
        going.stopped = "Reading" in change.get("status", "")
    assert seen <= {"seed", "status", "timeline"}, "the page has lost what it showed, and has nothing in its place"
    assert handlers.newest("ann") == before
    first = next(change for change in handlers.run(PARTS, form(), ANN) if "view" in change)
    assert {"film", "kept", "download", "chosen"} <= first.keys()
    assert first["film"].count('class="frame') == 1
    assert f'data-run="{handlers.newest("ann")}"' in first["film"]


@pytest.mark.parametrize("late", [False, True])
def test_a_fault_of_the_server_gets_a_sentence_and_frees_the_device(handlers, form, monkeypatch, late):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("squeeze.ui.show.write_png" if late else "squeeze.ui.handlers.generate", full)
    changes = []
    with pytest.raises(OSError, match="No space"):
        changes.extend(handlers.run(PARTS, form(), ANN))
    status = whole(changes)["status"]
    assert "went wrong on the server" in status
    assert 'data-state="failed"' in status
    assert not handlers.line.busy
    assert not late or handlers.choose(PARTS, handlers.newest("ann"), 3, "ann")["chosen"], "its steps are lost"


def test_a_stage_without_steps_shows_no_picture_in_a_branch_either(handlers, form):
    run(handlers, form(counts=(3, 0, 3)))
    chosen = handlers.choose(PARTS, handlers.newest("ann"), 4, "ann")["chosen"]
    kept = whole(handlers.branch(PARTS, chosen, form(counts=(3, 0, 3))["timeline"], ANN))["kept"]
    assert kept.count("<img") == 2


def test_who_leaves_during_a_run_is_forgotten(handlers, form):
    changes = handlers.run(PARTS, form(), ANN)
    for _ in range(4):
        next(changes)
    handlers.visits.leave("ann")
    whole(changes)
    assert handlers.newest("ann") == ""
    assert handlers.visits.thumbnails("ann") == {}


# --- recipes --------------------------------------------------------------------------------------------------------


def test_verify_is_identical_or_names_what_differs(handlers, form):
    recipe = run(handlers, form())["recipe"]
    reference = form()["reference"]
    shown = whole(handlers.verify(PARTS, recipe, [reference], ANN))
    assert "Identical" in shown["status"]
    assert 'data-state="done"' in shown["status"]
    other = recipe | {"picture": "0" * 16, "revision": "old", "software": recipe["software"] | {"torch": "1.0"}}
    shown = whole(handlers.verify(PARTS, other, [reference], ANN))
    assert "Not identical" in shown["status"]
    assert 'data-state="failed"' in shown["status"]
    for words in ("old in the recipe", "000000 in the recipe", "1.0 in the recipe"):
        assert words in shown["status"]
    assert not {"recipe", *PARTS.forms.values()} & shown.keys(), "the recipe on the page is no longer what was asked"
    assert "seed" not in shown, "the next picture would have the recipe's seed"
    same = whole(handlers.verify(PARTS, recipe | {"revision": "old"}, [reference], ANN))
    assert "Identical" in same["status"]
    assert "old in the recipe" in same["status"]


def test_verify_without_recipe_or_subject_gets_a_sentence(handlers, form, tmp_path):
    recipe = run(handlers, form())["recipe"]
    with pytest.raises(gr.Error, match="There is no recipe"):
        whole(handlers.verify(PARTS, None, [None], ANN))
    assert "Identical" in whole(handlers.verify(PARTS, recipe, [None], ANN))["status"], "the visit has used the subject"
    with pytest.raises(gr.Error, match=recipe["references"][0]):
        whole(handlers.verify(PARTS, recipe, [None], BOB))
    assert not handlers.line.busy


def test_verify_waits_for_the_device(handlers, form):
    recipe = run(handlers, form())["recipe"]
    going = handlers.run(PARTS, form(seed=8), BOB)
    for _ in range(4):
        next(going)
    verifying = handlers.verify(PARTS, recipe, [form()["reference"]], ANN)
    assert "next in line" in next(verifying)["status"]
    whole(going)
    assert "Identical" in whole(verifying)["status"]


def test_a_subject_is_found_in_the_box_among_the_examples_and_in_the_visit(handlers, form, tmp_path):
    recipe = run(handlers, form())["recipe"]
    path, other = form()["reference"]["path"], tmp_path / "other.png"
    random_picture(9).save(other)

    def find(current, examples=(), session="bob"):
        known = {content_hash(open_picture(one)): Path(one) for one in examples}
        (found,) = recipes.find_references(recipe, [current], known, handlers.visits, session)
        return found

    assert find(path).path == path
    assert find(str(other), [other, path]).path == path
    assert content_hash(find(str(other), session="ann").picture) == recipe["references"][0]
    assert find(str(other)) is find(None) is find(str(tmp_path / "gone.png")) is None
    assert recipes.find_references(recipe | {"references": []}, [path], {}, handlers.visits, "ann") == []


def test_several_subjects_are_found_in_their_order(handlers, form, tmp_path):
    for seed in (1, 2):
        random_picture(seed).save(tmp_path / f"{seed}.png")
    more = {f"reference_{n}": {"path": str(tmp_path / f"{n - 1}.png")} for n in (2, 3)}
    recipe = run(handlers, form(**more))["recipe"]
    assert recipe["references"] == [content_hash(random_picture(seed)) for seed in range(3)]
    given = [more["reference_3"], form()["reference"], None]
    found = handlers.find(recipe, given, BOB)
    assert [one and one.path for one in found] == [given[1]["path"], None, given[0]["path"]]
    assert recipe["references"][1] in recipes.missing(recipe, found, "What.")
    assert "Identical" in whole(handlers.verify(PARTS, recipe, [], ANN))["status"]
    with pytest.raises(gr.Error, match=recipe["references"][1]):
        whole(handlers.verify(PARTS, recipe, given, BOB))


def test_two_histories_are_merged_the_newer_first(handlers, form):
    one, two, three = (run(handlers, form(seed=seed))["recipe"] for seed in range(3))
    assert recipes.merged([three, one], [two, one]) == [three, two, one]
    assert recipes.merged("rubbish", [two]) == [two]
    assert len(recipes.merged([one | {"seed": n} for n in range(20)], [two | {"seed": n} for n in range(20)])) == 24


def test_a_browsers_history_may_hold_anything(handlers, form):
    recipe = run(handlers, form())["recipe"]
    deep = []
    for _ in range(100_000):
        deep = [deep]
    rubbish = [None, 3, "x", {}, {"version": 1}, recipe | {"seed": "1"}, recipe | {"extra": 1}, deep]
    rubbish += [recipe | {"prompt": "a" * 200_000}, recipe | {"cfg": float("nan")}]
    assert recipes.remembered([*rubbish, recipe]) == [recipe]
    for past in (None, {}, "x", 3, [[]]):
        assert recipes.remembered(past) == []
    assert len(recipes.remembered([recipe] * 1000)) == recipes.REMEMBERED
    for index in (None, -1, 1, "0", True, 1.0):
        with pytest.raises(recipes.RecipeError):
            recipes.from_past([recipe], index)


@pytest.mark.parametrize(
    ("balance", "earlier", "preset"),
    [
        ((1.0, 1.0, 1.0), (), "paper"), ((0.5, 0.5, 0.5), (), "paper"), (BALANCE, (), "meaning"),
        ((0.0, 0.5, 0.75), (), "meaning"), ((0.0, 0.2, 0.0), (), "meaning"), ((0.0, 0.0, 0.0), (), None),
        (BALANCE, ((1, 1.0, 1.0, 1.0),), "paper"), ((0.0, 0.0, 0.0), ((1, 1.0, 0.0, 0.0),), "paper"),
    ],
)  # fmt: skip
def test_a_copy_of_the_reference_gets_a_preset_with_less_identity(request_for, balance, earlier, preset):
    copied, other = random_picture(0, 64, 64), random_picture(1, 64, 64)
    asked = request_for(references=(other, copied), balance=balance, earlier=earlier)
    run_of_it = Run(id="1", request=asked, counts=(2, 2, 2))
    said = [closing(Finished(image=one, recipe={}, seconds=1.0), run_of_it) for one in (copied, good())]
    assert re.findall(r'data-preset="(\w*)"', said[0]) == [preset] * (preset is not None)
    assert "nearly the one you gave" in said[0]
    assert "nearly" not in said[1], "another picture is taken for a copy"
    assert "offer" not in said[1]


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_without_previews_nothing_is_kept_that_could_be_mistaken(models, handlers, form, request_for):
    request = request_for(previews=False)
    whole(handlers.draw(request, PARTS, ANN))
    kept = handlers.visits.newest("ann")
    assert (kept.frames, kept.latents) == ([], [])
    assert handlers.choose(PARTS, kept.id, 1, "ann")["chosen"] is None


def test_previews_and_latents_are_of_the_same_steps(handlers, form):
    shown = run(handlers, form())
    kept = handlers.visits.newest("ann")
    assert len(kept.frames) == len(kept.latents) == 6
    assert shown["film"].count("data:image/jpeg") == 6
    assert all(uri in shown["film"] for uri in kept.frames)


def test_runs_of_one_upload_share_its_pixels(handlers, form):
    for seed in range(3):
        run(handlers, form(seed=seed))
    visit = handlers.visits._visits["ann"]
    pictures = {id(one.request.references[0]) for one in visit.runs.values()}
    assert len(pictures) == 1, "every run keeps a copy of its upload, which nobody counts"
    assert content_hash(open_picture(form()["reference"]["path"])) in visit.references


def test_an_upload_that_is_used_does_not_age_and_one_that_is_gone_is_said_to_be(handlers, form):
    path, old = Path(form()["reference"]["path"]), 1_000_000_000.0
    recipe = run(handlers, form())["recipe"]
    for use in (
        lambda: run(handlers, form()),
        lambda: whole(handlers.verify(PARTS, recipe, [form()["reference"]], ANN)),
    ):
        os.utime(path, (old, old))
        use()
        assert time.time() - path.stat().st_mtime < 600, "gradio will delete a picture that is in use"
    asked = form()
    path.unlink()
    with pytest.raises(gr.Error, match=r"^'?toy\.png is no longer here.*Upload it again"):
        run(handlers, asked)
    assert not handlers.line.busy


@pytest.mark.parametrize("steps", [0, None, 101, "many"])
def test_a_wrong_number_of_steps_is_named_though_the_borders_were_moved(handlers, form, steps):
    with pytest.raises(
        gr.Error, match=f"Steps must be a whole number from 1 to 100, not {'nothing' if steps is None else steps}"
    ):
        run(handlers, form(counts=(13, 6, 6), steps=steps))


def test_an_example_that_is_gone_or_damaged_keeps_no_recipe_back(models, tmp_path):
    """Each recipe that comes back is looked for among the examples."""
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    random_picture(3).save(tmp_path / "there.png")
    paths = [tmp_path / name for name in ("gone.png", "cut.png", "there.png")]
    assert list(Handlers(models, paths).known.values()) == paths[2:]
