"""A DreamBench run: every case once, whatever stops it; pictures of other systems."""

import errno
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from PIL import Image
from tiny import random_picture
from tiny_metrics import contents

from squeeze.evaluation import dreambench
from squeeze.evaluation.dreambench import Drawn, Found, draw_list, summary
from squeeze.evaluation.metrics import SCORES
from squeeze.evaluation.records import EvaluationError, Records
from squeeze.evaluation.subjects import Bench, read_bench
from squeeze.files import WriteError
from squeeze.images import content_hash, open_picture
from squeeze.recipe import read_png
from squeeze.request import RequestError

STEPS = 2


@pytest.fixture(scope="module")
def bench(data) -> Bench:
    return read_bench(data)


@pytest.fixture
def run(models, metrics, bench, tmp_path):
    """Evaluates with the tiny models into `out`; gives the results in their order, stopped after `stop` of them."""

    def evaluate(out: str = "out", stop: int | None = None, scorer=metrics, steps: int = STEPS, of: Bench = bench):
        folder = tmp_path / out
        records, source = Records(folder), Drawn(models, folder / "pictures", {"steps": steps})
        going = dreambench.evaluate(draw_list(of, 1), source, scorer, records, PartialState(cpu=True))
        results = []
        for _, _, result in going:
            results.append(result)
            if len(results) == stop:
                going.close()
        return results

    return evaluate


# --- a run and what interrupts it -----------------------------------------------------------------------------------


def test_every_case_has_a_picture_and_scores(run, bench, tmp_path, models):
    results = run()
    cases = draw_list(bench, 1)
    assert len(results) == len(cases) == 6, "three subjects with two prompts each"
    for case in cases:
        recipe = read_png(tmp_path / "out" / "pictures" / f"{case.name}.png")
        assert (recipe["prompt"], recipe["seed"]) == (case.prompt, 0)
        assert recipe["references"] == [content_hash(open_picture(case.subject.photos[0]))], "not the fixed reference"
        assert recipe["revision"] == models.revision
    figures = summary(cases, Records(tmp_path / "out"))
    for key in SCORES:
        assert figures["scores"][key]["mean"] == pytest.approx(sum(r[key] for r in results) / 6, abs=1e-4)
        low, high = figures["scores"][key]["interval"]
        assert low <= figures["scores"][key]["mean"] <= high
    can = [result["dino_i"] for result in results if result["subject"] == "can"]
    assert figures["subjects"]["can"]["dino_i"] == pytest.approx(sum(can) / 2, abs=1e-4)
    assert figures["subjects"]["can"]["cases"] == 2


def test_a_run_that_is_done_draws_nothing(run, forwards, tmp_path):
    run()
    before, drawn = contents(tmp_path / "out"), len(forwards)
    assert drawn > 0
    assert run() == []
    assert len(forwards) == drawn, "a finished case was drawn again"
    assert contents(tmp_path / "out") == before


def test_a_stopped_run_goes_on(run, forwards, tmp_path):
    run("whole")
    once = len(forwards)
    done = run("stopped", stop=2)
    rest = run("stopped")
    assert len(done) == 2
    assert len(rest) == 4, "a case was done twice or lost"
    assert len(forwards) == 2 * once, "a case was drawn twice"
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_stop_between_picture_and_score_keeps_the_picture(run, forwards, tmp_path, metrics):
    class Stopped:
        def look(self, pictures):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scorer=Stopped())
    assert len(list((tmp_path / "out" / "pictures").rglob("*.png"))) == 1
    first = len(forwards)
    run()
    assert len(forwards) == 6 * first, "the picture that was kept was drawn again"


def test_a_picture_of_another_reference_is_drawn_again(run, data, tmp_path):
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    run(of=read_bench(folder))
    shutil.rmtree(tmp_path / "out" / "cases")
    random_picture(99).save(folder / "can" / "00.jpg")
    before = contents(tmp_path / "out" / "pictures")
    run(of=read_bench(folder))
    for case in draw_list(read_bench(folder), 1):
        path = tmp_path / "out" / "pictures" / f"{case.name}.png"
        assert read_png(path)["references"] == [content_hash(open_picture(case.subject.photos[0]))]
        assert (path.read_bytes() == before[f"{case.name}.png"]) == (case.subject.name != "can"), case.name


def test_a_picture_of_another_prompt_is_drawn_again(run, tmp_path):
    run(stop=1)
    kept = next((tmp_path / "out" / "pictures").rglob("*.png"))
    shutil.copy(kept, kept.with_name("01_0.png"))  # as if the other prompt's picture had been left by a stop
    run()
    assert read_png(kept.with_name("01_0.png"))["prompt"] != read_png(kept)["prompt"], "a wrong picture was scored"


def test_a_picture_of_other_settings_is_drawn_again(run, tmp_path):
    run()
    shutil.rmtree(tmp_path / "out" / "cases")  # and with it what told the settings
    run(steps=STEPS + 1)
    for path in (tmp_path / "out" / "pictures").rglob("*.png"):
        assert read_png(path)["steps"] == STEPS + 1


def test_a_picture_that_was_damaged_after_it_was_scored_is_drawn_again(run, tmp_path):
    run()
    before = contents(tmp_path / "out")
    damaged = next((tmp_path / "out" / "pictures").rglob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:500])
    assert len(run()) == 1
    assert contents(tmp_path / "out") == before


def test_a_full_device_under_the_scores_is_a_sentence(run, tmp_path):
    class Full:
        def look(self, pictures):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(EvaluationError, match=r"no place for the metric models .*Tried to allocate.* --device cpu"):
        run(scorer=Full())
    assert len(run()) == 6, "what was drawn is scored by the same command"


def test_a_full_disk_under_the_picture(run, monkeypatch, tmp_path, forwards):
    save = Image.Image.save
    saved = []

    def full(picture, path, **options):
        saved.append(path)
        if len(saved) == 3:
            Path(path).write_bytes(b"\x89PNG half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(picture, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(WriteError, match=r"disk is full: .*\.png was not written.*same command again"):
        run()
    left = contents(tmp_path / "out")
    assert sum(name.endswith(".png") for name in left) == sum(name.endswith(".json") for name in left) == 2
    assert len(left) == 4, f"something half-written was left: {sorted(left)}"
    monkeypatch.undo()
    assert len(run()) == 4, "the two finished cases were lost"


def test_a_full_disk_under_the_scores(run, monkeypatch, tmp_path):
    write = Path.write_text

    def full(path, text, **options):
        write(path, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WriteError, match="disk is full"):
        run()
    monkeypatch.undo()
    assert [name for name in contents(tmp_path / "out") if not name.endswith(".png")] == []
    assert len(run()) == 6


def test_a_limit_takes_from_all_subjects_and_prompts(bench):
    for seeds in (1, 3):
        cases = draw_list(bench, seeds)
        assert len({case.name for case in cases}) == len(cases) == 6 * seeds
        assert {case.subject.name for case in cases[:3]} == {"can", "dog", "grey_sloth_plushie"}
        assert {case.number for case in cases[:3]} == {0, 1}


# --- pictures of another system -------------------------------------------------------------------------------------


def score_folder(folder: Path, bench: Bench, metrics, out: Path) -> tuple[list, dict, Found]:
    source, records = Found(folder, bench), Records(out)
    results = [result for _, _, result in dreambench.evaluate(source.cases, source, metrics, records, PartialState())]
    return results, summary(source.cases, records), source


def test_a_copy_of_the_reference_scores_one(bench, metrics, tmp_path):
    for subject in bench.subjects:
        (tmp_path / "others" / subject.name).mkdir(parents=True)
        open_picture(subject.photos[0]).save(tmp_path / "others" / subject.name / "0_7.png")
    _, figures, _ = score_folder(tmp_path / "others", bench, metrics, tmp_path / "out")
    assert figures["scores"]["dino_i_reference"] == {"mean": 1.0, "interval": [1.0, 1.0]}
    assert figures["scores"]["clip_i_reference"]["mean"] == 1.0
    assert figures["scores"]["dino_i"]["mean"] < 1, "the other photos are not the reference"


def test_our_own_pictures_score_the_same_as_another_systems(run, bench, metrics, tmp_path):
    run()
    score_folder(tmp_path / "out" / "pictures", bench, metrics, tmp_path / "again")
    first, second = (contents(tmp_path / name / "cases") for name in ("out", "again"))
    assert first == second


def test_a_device_that_fails_ends_the_run_and_skips_nothing(run, monkeypatch, tmp_path):
    def full(*_):
        raise RequestError("memory", value="64 x 64", name="resident", choices="with --memory swap")

    monkeypatch.setattr(Drawn, "picture", full)
    with pytest.raises(RequestError, match="memory"):
        run()
    assert contents(tmp_path / "out" / "cases") == {}, "it could be drawn another day"


def test_bad_pictures_among_good_ones(bench, metrics, tmp_path):
    folder = tmp_path / "others"
    (folder / "can").mkdir(parents=True)
    (folder / "teapot").mkdir()
    random_picture(1).save(folder / "can" / "00_0.png")
    random_picture(2).save(folder / "can" / "1_0.webp")
    (folder / "can" / "01_1.png").write_text("not a picture")
    for name in ("can/02_0.png", "can/final.png", "teapot/00_0.png", "can/0_0.jpg"):
        random_picture(3).save(folder / name)
    results, figures, source = score_folder(folder, bench, metrics, tmp_path / "out")
    assert (figures["cases"], figures["asked"]) == (2, 3)
    assert [sentence.split(":")[0] for sentence in figures["skipped_pictures"]] == ["can/01_1"]
    assert {sentence.split(":")[0] for sentence in source.skipped} == {
        "can/02_0.png", "can/final.png", "teapot/00_0.png", "can/0_0.jpg",
    }  # fmt: skip
    assert figures["scores"]["dino_i"]["interval"] is None, "one subject has no interval over subjects"

    random_picture(4).save(folder / "can" / "01_1.png")
    results, figures, _ = score_folder(folder, bench, metrics, tmp_path / "out")
    assert [result["number"] for result in results] == [1], "only the mended picture was to be scored"
    assert (figures["cases"], figures["skipped_pictures"]) == (3, [])
    random_picture(5).save(folder / "can" / "00_0.png")
    results, _, _ = score_folder(folder, bench, metrics, tmp_path / "out")
    assert len(results) == 1, "a picture that was changed keeps the score of the one before"


def test_prompts_counted_from_one_are_refused(bench, tmp_path):
    for subject in ("can", "dog"):
        (tmp_path / subject).mkdir()
        for number in (1, 2):
            random_picture(number).save(tmp_path / subject / f"{number:02}_0.png")
    with pytest.raises(EvaluationError, match=r"count prompts from 1\. Name them SUBJECT/PROMPT_SEED\.png"):
        Found(tmp_path, bench)
    random_picture(0).save(tmp_path / "can" / "00_0.png")
    assert len(Found(tmp_path, bench).skipped) == 2, "one that is counted from 0 cannot mean this"


def test_other_seeds_for_every_prompt_are_all_that_is_possible(bench, tmp_path):
    for number, subject in enumerate(bench.subjects):
        (tmp_path / subject.name).mkdir()
        for prompt in range(2):
            for seed in range(2):
                name = f"{prompt:02}_{1000 * number + 10 * prompt + seed}.png"
                random_picture(seed).save(tmp_path / subject.name / name)
    cases = Found(tmp_path, bench).cases
    assert dreambench.possible(bench, cases) == len(cases) == 12
    assert dreambench.possible(bench, cases[:-1]) == 12


def test_nothing_to_score(bench, metrics, tmp_path):
    with pytest.raises(EvaluationError, match=r"no folder .*SUBJECT/PROMPT_SEED\.png"):
        Found(tmp_path / "nowhere", bench)
    with pytest.raises(EvaluationError, match=r"no pictures to score.*SUBJECT/PROMPT_SEED\.png"):
        Found(tmp_path, bench)
    (tmp_path / "others" / "can").mkdir(parents=True)
    (tmp_path / "others" / "can" / "00_0.png").write_text("not a picture")
    with pytest.raises(EvaluationError, match="None of 1 pictures could be scored"):
        score_folder(tmp_path / "others", bench, metrics, tmp_path / "out")
