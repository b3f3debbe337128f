"""The page's handlers without browser and network: branches, recipes verified, the device shared, visits kept."""

import time
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import pytest
from tiny import random_picture

from squeeze.images import content_hash, open_picture
from squeeze.pipeline import generate
from squeeze.recipe import write_png
from squeeze.ui import recipes
from squeeze.ui.handlers import Handlers
from squeeze.ui.show import Parts, Visitor
from squeeze.ui.timeline import state

ANN, BOB = (Visitor(session=name, page="http://here/") for name in ("ann", "bob"))
FORMS = dict.fromkeys(recipes.FORMS)
PARTS = Parts(
    **{name: name for name in Parts.__annotations__ if name not in ("sliders", "forms")},
    sliders=["first", "second", "third"],
    forms={name: f"form {name}" for name in FORMS},
)
BALANCE, OTHER = (0.0, 0.5, 1.0), (1.0, 1.0, 0.25)


@pytest.fixture
def handlers(models):
    return Handlers(models, [])


@pytest.fixture
def form(tmp_path):
    """A whole form as the page sends it; keywords change it."""
    random_picture(0).save(tmp_path / "toy.png")

    def make(balance=BALANCE, counts=(2, 2, 2), touched=True, earlier=(), **changed):
        filled = {
            "reference": {"path": str(tmp_path / "toy.png")}, "prompt": "a toy", "steps": 6, "cfg": 1, "seed": 7,
            "random": False, "uncond": "lean", "late_text": "drop",
            "timeline": state(counts, balance, touched=touched, earlier=earlier),
        }  # fmt: skip
        return filled | changed

    return make


def whole(changes):
    """All changes of a run, the last of each part and of each of its properties."""
    shown = {}
    for change in changes:
        shown |= {part: shown.get(part, {}) | new if part == "timeline" else new for part, new in change.items()}
    return shown


def run(handlers, form, visitor=ANN):
    shown = whole(handlers.run(PARTS, form, visitor))
    assert 'data-state="done"' in shown["status"], shown["status"]
    return shown


def picked(handlers, step, visitor=ANN):
    """What choosing a step of the newest run's film keeps, as Branch gets it."""
    return handlers.choose(PARTS, handlers.newest(visitor.session), step, visitor.session)["chosen"]


def branch(handlers, chosen, balance, visitor=ANN):
    return whole(handlers.branch(PARTS, chosen, state((2, 2, 2), balance), visitor))


def png(picture, recipe, path):
    return write_png(picture, recipe, path).path.read_bytes()


def from_the_command_line(models, recipe, picture, path):
    """The PNG that the recipe gives as `python -m squeeze generate --recipe` draws it."""
    request = recipes.requested(recipe, models.profile, picture)
    finished = list(generate(models, request))[-1]
    return png(finished.image, finished.recipe, path)


# --- branches -------------------------------------------------------------------------------------------------------


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


def test_generate_after_a_branch_draws_it_again(handlers, form):
    run(handlers, form(counts=(0, 0, 0), touched=False, steps=4))
    run(handlers, form())
    shown = branch(handlers, picked(handlers, 3), OTHER)
    value = shown["timeline"]["value"]
    assert (shown["steps"], shown["preset"], value["earlier"]) == (6, "custom", [[3, *BALANCE]])
    assert [shown[slider] for slider in PARTS.sliders] == list(OTHER)
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
    assert not handlers.device.locked()
    run(handlers, form())


def test_anything_may_be_sent_as_a_choice(handlers, form):
    run(handlers, form())
    name = handlers.newest("ann")
    for given, step in ((name, None), (name, 0), (name, 7), (name, "3"), (name, True), (None, 3), ([], 3), ("x", 1)):
        assert handlers.choose(PARTS, given, step, "ann")["chosen"] is None, f"{given!r}, {step!r}"


# --- stop -----------------------------------------------------------------------------------------------------------


def test_a_stopped_run_can_be_branched_from(handlers, form):
    changes = handlers.run(PARTS, form(), ANN)
    while len(handlers.visits.newest("ann").frames if handlers.newest("ann") else ()) < 3:
        next(changes)
    changes.close()
    shown = handlers.stopped(PARTS, "", "ann")
    assert "Stopped" in shown["status"]
    assert shown["film"].count('class="frame') == 3
    recipe = branch(handlers, picked(handlers, 3), OTHER)["recipe"]
    assert recipe["earlier"] == [[3, *BALANCE]]


def test_stop_before_the_first_step_and_while_the_run_is_queued(handlers, form):
    before = handlers.newest("ann")
    changes = handlers.run(PARTS, form(), ANN)
    next(changes)
    changes.close()
    assert "Stopped" in handlers.stopped(PARTS, before, "ann")["status"], "at the first step"
    before = handlers.newest("ann")
    assert "film" not in handlers.stopped(PARTS, before, "ann"), "the run was still queued; the film is the old one's"


def test_the_next_run_begins_within_a_step_of_the_lock(handlers, form):
    """A run is closed while another waits for the device."""
    long = {"steps": 20, "counts": (10, 5, 5), "cfg": 2.5}
    first, began, stepped = handlers.run(PARTS, form(**long), ANN), [], []

    def steps(changes):
        return changes["timeline"].get("run", {}).get("done", 0) if "timeline" in changes else 0

    def second():
        for changes in handlers.run(PARTS, form(**long), BOB):
            began.append(time.monotonic())
            if steps(changes):
                stepped.append(time.monotonic())

    took = []
    while len(took) < 5:
        before = time.monotonic()
        if steps(next(first)):
            took.append(time.monotonic() - before)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second)
        while len(began) < 2:  # reading, then waiting
            time.sleep(0.01)
        first.close()
        released = time.monotonic()
        other.result()
    waited = stepped[0] - released
    print(f"\nfrom the lock's release to the next run's first step: {waited:.3f} s; a step {max(took):.3f} s")
    assert waited < 2 * max(took) + 0.2, f"{waited:.3f} s from the release to the next run's first step"
    assert not handlers.device.locked(), "the device is still held after both runs"


def test_leaving_while_waiting_takes_nothing(handlers, form):
    asked = {"reference": form()["reference"], "prompt": "a toy", "steps": 2, "cfg": 1}
    first, waiting = handlers.generate(**asked), handlers.generate(**asked)
    next(first)
    next(waiting)
    waiting.close()
    assert list(first)[-1][1]["steps"] == 2, "a visitor who left the queue disturbed the one who was running"
    assert not handlers.device.locked()


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
    shown = whole(handlers.verify(PARTS, recipe, reference, ANN))
    assert "Identical" in shown["status"]
    assert 'data-state="done"' in shown["status"]
    other = recipe | {"picture": "0" * 16, "revision": "old", "software": recipe["software"] | {"torch": "1.0"}}
    shown = whole(handlers.verify(PARTS, other, reference, ANN))
    assert "Not identical" in shown["status"]
    assert 'data-state="failed"' in shown["status"]
    for words in ("old in the recipe", "000000 in the recipe", "1.0 in the recipe"):
        assert words in shown["status"]
    assert not {"recipe", *PARTS.forms.values()} & shown.keys(), "the recipe on the page is no longer what was asked"
    same = whole(handlers.verify(PARTS, recipe | {"revision": "old"}, reference, ANN))
    assert "Identical" in same["status"]
    assert "old in the recipe" in same["status"]


def test_verify_without_recipe_or_subject_gets_a_sentence(handlers, form, tmp_path):
    recipe = run(handlers, form())["recipe"]
    with pytest.raises(gr.Error, match="There is no recipe"):
        whole(handlers.verify(PARTS, None, None, ANN))
    assert "Identical" in whole(handlers.verify(PARTS, recipe, None, ANN))["status"], "the visit has used the subject"
    with pytest.raises(gr.Error, match=recipe["references"][0]):
        whole(handlers.verify(PARTS, recipe, None, BOB))
    assert not handlers.device.locked()


def test_verify_waits_for_the_device(handlers, form):
    recipe = run(handlers, form())["recipe"]
    going = handlers.run(PARTS, form(seed=8), BOB)
    for _ in range(4):
        next(going)
    verifying = handlers.verify(PARTS, recipe, form()["reference"], ANN)
    next(verifying)
    assert "Waiting for the run before this one" in next(verifying)["status"]
    whole(going)
    assert "Identical" in whole(verifying)["status"]


def test_a_subject_is_found_in_the_box_among_the_examples_and_in_the_visit(handlers, form, tmp_path):
    recipe = run(handlers, form())["recipe"]
    path, other = form()["reference"]["path"], tmp_path / "other.png"
    random_picture(9).save(other)

    def find(current, examples=(), session="bob"):
        return recipes.find_reference(recipe, current, list(examples), handlers.visits, session)

    assert find(path)[1] == path
    assert find(str(other), [other, path])[1] == path
    assert content_hash(find(str(other), session="ann")[0]) == recipe["references"][0]
    assert find(str(other)) is find(None) is find(str(tmp_path / "gone.png")) is None
    assert recipes.find_reference(recipe | {"references": []}, path, [], handlers.visits, "ann") is None


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
