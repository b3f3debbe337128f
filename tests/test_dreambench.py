"""A DreamBench run: every case once, whatever stops it; pictures of other systems; the command line."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from PIL import Image
from tiny import random_picture
from tiny_metrics import write_bench, write_metrics

from squeeze.cli import main
from squeeze.evaluation import dreambench
from squeeze.evaluation.dreambench import Drawn, Found, draw_list, summary
from squeeze.evaluation.metrics import SCORES, load_metrics
from squeeze.evaluation.records import EvaluationError, Records
from squeeze.evaluation.subjects import Bench, read_bench
from squeeze.files import WriteError
from squeeze.images import content_hash, open_picture
from squeeze.recipe import read_png
from squeeze.request import RequestError

ROOT = Path(__file__).resolve().parents[1]
STEPS = 2
FIRST = "Loading weights:   0%"  # what transformers writes of each model that a process loads


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return write_metrics(tmp_path_factory.mktemp("metrics"))


@pytest.fixture(scope="module")
def metrics(checkpoints):
    return load_metrics(checkpoints, torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_bench(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def bench(data) -> Bench:
    return read_bench(data)


@pytest.fixture
def run(models, metrics, bench, tmp_path):
    """Evaluates with the tiny models into `out`; gives the results in their order, stopped after `stop` of them."""

    def evaluate(out: str = "out", stop: int | None = None, scorer=metrics):
        folder = tmp_path / out
        records, source = Records(folder), Drawn(models, folder / "pictures", {"steps": STEPS})
        going = dreambench.evaluate(draw_list(bench, 1), source, scorer, records, PartialState(cpu=True))
        results = []
        for _, _, result in going:
            results.append(result)
            if len(results) == stop:
                going.close()
        return results

    return evaluate


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def test_a_picture_of_another_reference_is_drawn_again(run, tmp_path, models, bench, forwards):
    run(stop=1)
    kept = next((tmp_path / "out" / "pictures").rglob("*.png"))
    shutil.copy(kept, kept.with_name("01_0.png"))  # as if the other prompt's picture had been left by a stop
    run()
    assert read_png(kept.with_name("01_0.png"))["prompt"] != read_png(kept)["prompt"], "a wrong picture was scored"


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


def test_nothing_to_score(bench, metrics, tmp_path):
    with pytest.raises(EvaluationError, match=r"no folder .*SUBJECT/PROMPT_SEED\.png"):
        Found(tmp_path / "nowhere", bench)
    with pytest.raises(EvaluationError, match=r"no pictures to score.*SUBJECT/PROMPT_SEED\.png"):
        Found(tmp_path, bench)
    (tmp_path / "others" / "can").mkdir(parents=True)
    (tmp_path / "others" / "can" / "00_0.png").write_text("not a picture")
    with pytest.raises(EvaluationError, match="None of 1 pictures could be scored"):
        score_folder(tmp_path / "others", bench, metrics, tmp_path / "out")


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def command(data, checkpoints, tmp_path):
    """The arguments of a short run with the embedded model."""
    return [
        "evaluate", "dreambench", "--data", str(data), "--profile", "plush", "--metrics", str(checkpoints),
        "--steps", "1", "--seeds", "1", "--out", str(tmp_path / "out"), "--json",
    ]  # fmt: skip


def test_same_command_same_json(command, tmp_path, capsys):
    said = []
    for _ in range(2):
        assert main([*command, "--limit", "4"]) == 0
        said.append(capsys.readouterr())
    figures = json.loads(said[0].out)
    assert said[0].out == said[1].out, "the same command printed two different results"
    assert (figures["cases"], figures["asked"], figures["possible"]) == (4, 4, 6)
    assert figures["missing"] == ["vase"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == figures
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| the paper | 0.7482 | 0.8443 | 0.3010 |" in report
    mean = figures["scores"]["dino_i"]["mean"]
    assert f"| **plush, measured here** | **{mean:.4f}** |" in report
    for why in ("came from a folder", "3 subjects were scored here, 30 there", "4 of the 6 pairs"):
        assert why in report, "the report does not say what cannot be compared"
    assert main(command) == 0, "a run with a higher limit goes on"
    assert json.loads(capsys.readouterr().out)["cases"] == 6


def test_results_of_another_run_are_refused(command, data, checkpoints, tmp_path, capsys):
    assert main([*command, "--limit", "1"]) == 0
    before = contents(tmp_path / "out")
    other = Path(shutil.copytree(ROOT / "assets" / "plush", tmp_path / "other"))
    trained = json.loads((other / "training.json").read_text())
    (other / "training.json").write_text(json.dumps(trained | {"revision": "0123456789ab"}))
    changed = Path(shutil.copytree(data, tmp_path / "changed"))
    random_picture(77).save(changed / "can" / "01.jpg")
    for more, says in (
        (["--weights", str(other)], '"0123456789ab" now'),
        (["--seeds", "2"], "seeds 1 there, 2 now"),
        (["--cfg", "1"], "cfg nothing there, 1 now"),
        (["--metrics", str(write_metrics(tmp_path / "metrics", seed=3))], ": metrics {"),
        (["--data", str(changed)], ': data "'),
    ):
        assert main([*command, "--limit", "1", *more]) == 2, f"{more} was mixed with other results"
        said = capsys.readouterr().err
        assert "holds the results of another run" in said
        assert says in said
    assert contents(tmp_path / "out") == before, "a refused run changed the results"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--data", "/nowhere"], "There is no folder /nowhere"),
        (["--profile", "nobody"], "'nobody'"),
        (["--metrics", "/nowhere"], "There is no folder /nowhere/dino"),
        (["--limit", "0"], "at least 1, not 0"),
        (["--seeds", "0"], "at least 1, not 0"),
        (["--cfg", "-1"], "CFG must be"),
        (["--balance", "0,1"], "three numbers"),
        (["--weights", "/nowhere"], "/nowhere"),
        (["--adapter", "/nowhere"], "takes no adapter"),
        (["--memory", "small"], "no memory plan 'small'"),
        (["--revision", "main"], "REPO@COMMIT, not 'main'"),
        (["--device", "cuda"], "no CUDA device"),
    ],
)
def test_mistakes_get_a_sentence(command, more, says, capsys, tmp_path):
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert main([*command, *more]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "a mistake left a folder"


def test_flags_that_draw_do_not_go_with_pictures(command, tmp_path, capsys):
    without = [*command[:4], *command[6:]]
    assert main([*without, "--pictures", str(tmp_path)]) == 2
    assert "--steps says how pictures are drawn" in capsys.readouterr().err
    photos = ["evaluate", "dreambench", "--data", "/nowhere", "--pictures", str(tmp_path)]
    for flag in (["--adapter", "a"], ["--memory", "auto"], ["--revision", "a@b"], ["--compile"]):
        assert main([*photos, *flag]) == 2
        assert f"{flag[0]} says how pictures are drawn" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(without)


def test_two_processes_give_the_same_as_one(command, tmp_path, capsys):
    assert main(command) == 0
    alone = capsys.readouterr().err
    out = ["--out", str(tmp_path / "two")]
    launch = [Path(sys.executable).with_name("accelerate"), "launch", "--multi_gpu", "--num_processes", "2"]
    port = ["--main_process_port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    whole = [*launch, *port, "-m", "squeeze", *command, *out]
    done = subprocess.run(whole, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    started = done.stderr.count(FIRST) / alone.count(FIRST)
    assert started == 2, f"accelerate started {started:g} processes"
    json.loads(done.stdout.strip().splitlines()[-1])
    assert contents(tmp_path / "two") == contents(tmp_path / "out")


@pytest.mark.skipif("DREAMBENCH_DIR" not in os.environ, reason="DREAMBENCH_DIR names no folder of real photos")
def test_the_real_photos_through_the_embedded_model(command, tmp_path, capsys):
    assert main([*command, "--data", os.environ["DREAMBENCH_DIR"], "--limit", "3"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["cases"] == 3
    assert figures["skipped_data"] == []
    assert len(figures["subjects"]) == 3
