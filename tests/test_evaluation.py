"""`evaluate plush`: an interval for every figure, the same JSON every time, and no case twice or lost."""

import contextlib
import errno
import io
import json
import shutil
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import copy_with_other_weights
from tiny_metrics import contents

from squeeze.cli import main
from squeeze.evaluation import likeness, parts, plush
from squeeze.models.loading import load
from squeeze.models.profiles import PROFILES, find_profile
from squeeze.models.sources import revision
from squeeze.plush.probe import Probe
from squeeze.plush.render import render, visible
from squeeze.recipe import read_png
from squeeze.training.data import draw_labelled, to_unit

pytestmark = pytest.mark.usefixtures("few_renders")
ASSETS = Path(__file__).resolve().parents[1] / "assets" / "plush"
COMMAND = ["evaluate", "plush", "--n", "4", "--steps", "1", "--json"]


@pytest.fixture
def generations(monkeypatch):
    """The prompts of all pictures that were drawn; raises what `fail` holds before the one of that number."""
    drawn, generate = Drawn(), plush.generate

    def counted(models, request):
        if len(drawn) in drawn.fail:
            raise drawn.fail.pop(len(drawn))
        drawn.append(request.prompt)
        yield from generate(models, request)

    monkeypatch.setattr(plush, "generate", counted)
    return drawn


class Drawn(list):
    def __init__(self):
        super().__init__()
        self.fail = {}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run into a folder: the command that gives it again, what it printed, and the prompts it drew."""

    folder: Path
    command: list[str]
    printed: str
    prompts: list[str]

    def copied(self, folder: Path) -> list[str]:
        """The command that goes on with a copy of the run, in `folder`/out."""
        return [*self.command, "--out", str(shutil.copytree(self.folder, folder / "out"))]


def run_once(folder: Path, *more: str) -> Run:
    command = [*COMMAND, *more]
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
        patch.setattr(likeness, "RENDERS", 8)
        assert main([*command, "--out", str(folder)]) == 0
    prompts = [read_png(path)["prompt"] for path in sorted(folder.glob("pictures/told/*.png"))]
    return Run(folder=folder, command=command, printed=said.getvalue(), prompts=prompts)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A run of four cases, for all tests that look at what is done with a finished one."""
    return run_once(tmp_path_factory.mktemp("four") / "out")


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    """A run of twenty cases, of blocks that hold few more: a whole one is rendered where some are passed over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plush, "BLOCK", 25)
        return run_once(tmp_path_factory.mktemp("twenty") / "out", "--n", "20")


def test_a_stopped_run_goes_on(generations, tmp_path, capsys):
    sheets = [tmp_path / "whole.png", tmp_path / "stopped.png"]
    assert main([*COMMAND, "--sheet", str(sheets[0])]) == 0
    whole, prompts = capsys.readouterr().out, list(generations)
    assert len(prompts) == 5, "four cases, and one that leaves the facing open"
    generations.clear()
    stopped = [*COMMAND, "--out", str(tmp_path / "out"), "--sheet", str(sheets[1])]
    for place in (0, 2, 4):
        generations.fail[place] = KeyboardInterrupt()
        assert main(stopped) == 130
    assert capsys.readouterr().out == ""
    assert main(stopped) == 0
    assert generations == prompts, "a case was drawn twice or lost"
    assert capsys.readouterr().out == whole, "a run that was stopped gives other figures"
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    before = contents(tmp_path / "out")
    assert main(stopped) == 0
    assert generations == prompts, "a finished run drew something"
    assert capsys.readouterr().out == whole
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:99])])
@pytest.mark.parametrize("kept", ["cases/told/00001.json", "pictures/told/00001.png"])
def test_a_damaged_case_is_drawn_again(four, generations, tmp_path, capsys, damage, kept):
    command = four.copied(tmp_path)
    damage(tmp_path / "out" / kept)
    assert main(command) == 0
    assert generations == four.prompts[1:2], "not the damaged case alone was drawn again"
    assert contents(tmp_path / "out") == contents(four.folder)
    assert capsys.readouterr().out == four.printed


def test_a_full_disk(generations, tmp_path, capsys, monkeypatch):
    save, saved = Image.Image.save, []

    def full(picture, path, **options):
        saved.append(path)
        if len(saved) == 2:
            Path(path).write_bytes(b"\x89PNG half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(picture, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    command = [*COMMAND, "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "The disk is full" in capsys.readouterr().err
    left = set(contents(tmp_path / "out"))
    assert left == {"run.json", "cases/told/00000.json", "pictures/told/00000.png"}, "half a case was left"
    assert main(command) == 0
    assert len(generations) == 6, "only the case whose picture had no room was to be drawn again"


def test_results_of_another_run_are_refused(four, tmp_path, capsys):
    command = four.copied(tmp_path)
    other = copy_with_other_weights(ASSETS, tmp_path / "other")
    for more, says in (
        (["--weights", str(other)], f'"{revision(other)}" now'),
        (["--steps", "2"], "steps 1 there, 2 now"),
    ):
        assert main([*command, *more]) == 2, f"{more} was mixed with other results"
        assert says in capsys.readouterr().err
    assert contents(tmp_path / "out") == contents(four.folder)


def test_another_probe_judges_the_pictures_that_are_kept(four, generations, tmp_path, capsys):
    other = Path(shutil.copytree(ASSETS, tmp_path / "other"))
    weights = next((other / "probe").glob("*.safetensors"))
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(weights).items()}, weights)
    assert main([*four.copied(tmp_path), "--weights", str(other)]) == 0
    second = capsys.readouterr().out
    assert second != four.printed, "the other probe's results are those of the first"
    assert generations == [], "pictures were drawn again though only the probe is another"
    assert contents(tmp_path / "out" / "pictures") == contents(four.folder / "pictures")
    assert main([*COMMAND, "--weights", str(other), "--out", str(tmp_path / "new")]) == 0
    assert contents(tmp_path / "new") == contents(tmp_path / "out"), "judged anew is not judged at once"
    assert capsys.readouterr().out == second


def test_only_cases_that_need_the_picture(twenty, generations, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plush, "BLOCK", 25)
    every = json.loads(twenty.printed)["needs_picture"]
    assert 0 < every["cases"] < 20
    assert main([*twenty.copied(tmp_path), "--needs-picture", "--n", str(every["cases"])]) == 0
    only = json.loads(capsys.readouterr().out)
    assert generations == [], "cases that were kept by a run of all were drawn again"
    assert only["needs_picture"] == every
    assert only["cases"] == every["cases"]
    assert "copy_paste" not in only
    assert main([*COMMAND, "--needs-picture", "--n", str(every["cases"])]) == 0
    assert len(generations) == every["cases"], "a case that does not need the picture was drawn"
    assert [one for one in twenty.prompts if one in set(generations)] == generations


def test_cases_for_choosing_are_others(four, tmp_path, capsys):
    said, shown = [], []
    for more in ([], ["--selection"]):
        sheet = tmp_path / f"{len(said)}.png"
        assert main([*COMMAND, *more, "--sheet", str(sheet)]) == 0
        said.append(json.loads(capsys.readouterr().out))
        shown.append(sheet.read_bytes())
    assert shown[0] != shown[1], "weights would be chosen by the cases that are reported"
    assert said[1]["seed"] == plush.SELECTION_SEED
    assert "seed" not in said[0]
    assert main([*four.copied(tmp_path), "--selection"]) == 2


def test_each_case_has_a_toy_of_its_own():
    """Then a bootstrap over cases is one over toys."""
    seeds = (plush.CASES_SEED, plush.CASES_SEED + 3, plush.SELECTION_SEED, plush.SELECTION_SEED + 3)
    shapes = torch.cat([plush.held_out(250, seed + 100 * n).toys.shape for seed in seeds for n in (0, 1)])
    assert len(shapes.unique(dim=0)) == 2000, "two cases share a toy"


def test_more_cases_are_the_same_and_others(generations, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plush, "BLOCK", 5)
    shown = {}
    for count in (4, 7):
        assert main(["evaluate", "plush", "--n", str(count), *COMMAND[4:], "--out", str(tmp_path / "out")]) == 0
        shown[count] = json.loads(capsys.readouterr().out)["cases"]
    assert shown == {4: 4, 7: 7}
    assert len(generations) == 4 + 1 + 3, "cases that were kept were drawn again, or some were not drawn"
    assert len(set(generations)) == len(generations)
    kept = contents(tmp_path / "out")
    assert main(["evaluate", "plush", "--n", "7", *COMMAND[4:], "--out", str(tmp_path / "whole")]) == 0
    assert contents(tmp_path / "whole") == kept, "seven cases at once are not those of four and three more"


def test_what_cannot_be_drawn_marks_no_folder(tmp_path, capsys):
    command = [*COMMAND, "--out", str(tmp_path / "out")]
    for more in (["--cfg", "0"], ["--balance", "0,2,1"], ["--steps", "1000"], ["--stage-steps", "1,1,1"]):
        assert main([*command, *more]) == 2
    assert not (tmp_path / "out").exists(), "the corrected command would be refused as another run's"


def test_stage_steps_can_be_asked_for(tmp_path, capsys):
    command = [*COMMAND, "--out", str(tmp_path / "out")]
    assert main([*command, "--stage-steps", "0,0,1"]) == 0
    assert json.loads(capsys.readouterr().out)["stage_steps"] == [0, 0, 1]
    assert main(command) == 2, "the single step is the first stage's where nothing else is said"
    assert "stage_steps [0, 0, 1] there, [1, 0, 0] now" in capsys.readouterr().err


def _other_size(probe: Path) -> None:
    (probe / "config.json").write_text((probe / "config.json").read_text().replace('"size": 128', '"size": 64'))


def _cut(probe: Path) -> None:
    weights = next(probe.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [_other_size, _cut])
def test_a_probe_that_does_not_serve_gets_a_sentence(damage, tmp_path, capsys):
    other = Path(shutil.copytree(ASSETS, tmp_path / "other"))
    damage(other / "probe")
    assert main([*COMMAND, "--weights", str(other), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert str(other / "probe") in said
    assert "train plush --part probe" in said
    assert not (tmp_path / "out").exists()


def test_weights_without_a_probe_are_judged_by_the_shipped_one(tmp_path):
    """As trainings write them."""
    ours, theirs = (
        parts.load_probe(profile).state_dict()
        for profile in (PROFILES["plush"], replace(PROFILES["plush"], folder=tmp_path))
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--parts", "--out", "kept"], "--out has no use with --parts"),
        (["--parts", "--steps", "2"], "--steps has no use with --parts"),
        (["--parts", "--cfg", "2"], "--cfg has no use with --parts"),
        (["--parts", "--stage-steps", "9,9,7"], "--stage-steps has no use with --parts"),
        (["--parts", "--sheet", "a.png"], "--sheet has no use with --parts"),
        (["--parts", "--needs-picture"], "--needs-picture has no use with --parts"),
        (["--n", "0"], "at least 1, not 0"),
        (["--sheet", "a.jpg"], "ends in .png"),
        (["--weights", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_mistakes_get_a_sentence(more, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "plush", *more]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "a mistake left something"


def test_a_sheet_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*COMMAND[:2], "--n", "1", "--steps", "1", "--sheet", str(tmp_path / "file" / "a.png")]) == 2
    said = capsys.readouterr().err
    assert "a.png cannot" in said
    assert "Choose another path" in said


def test_only_what_the_reference_tells_is_judged():
    models = load(find_profile("plush"))
    cases = plush.held_out(50, plush.SELECTION_SEED)
    shown = [visible(cases.toys, render(cases.toys, scenes, 128)) for scenes in (cases.references, cases.targets)]
    drawn = list(
        islice(plush.evaluate(models, parts.load_probe(models.profile), 50, seed=plush.SELECTION_SEED, steps=1), 12)
    )
    hidden = riddles = 0
    for case in drawn:
        for name in plush.IDENTITY:
            known, seen = (bool(one[name][case.case]) for one in shown)
            assert (case.right[name] is None) == (not (known and seen)), f"{name} of case {case.case}"
            hidden += seen and not known
        of_belly = "belly" in case.prompt and not shown[0]["belly"][case.case]
        assert (case.right["hat"] is None) == of_belly, f"{case.prompt}: is its belly in sight?"
        assert case.needs_picture == bool(cases.wishes[case.case].needs_picture - ({"hat"} if of_belly else set()))
        riddles += of_belly
    assert hidden > 2, "no case of these tells the two apart"
    assert riddles, "no prompt of these asks for a colour that is out of sight"


def test_what_no_render_shows_has_no_rate():
    """JSON knows no NaN."""
    truth = draw_labelled(2, 0, 64)
    read = parts._probe_figures(Probe(widths=(4, 4, 4, 4)).eval(), to_unit(truth["pixels"]), truth | {
        "belly": torch.full_like(truth["belly"], -1)
    })  # fmt: skip
    assert read["belly"] is None
    assert 0 <= read["place"] <= 1


def test_every_figure_has_an_interval(twenty):
    figures = json.loads(twenty.printed)
    turned, needs = figures["copy_paste"], figures["needs_picture"]
    pairs = {name: (row["rate"], row["interval"]) for name, row in figures["rates"].items()}
    names = ("joint", "prompt_mean", "identity_mean", "near_copies", "proportions_off", "renders_distance")
    pairs |= {name: (figures[name], figures[f"{name}_interval"]) for name in names}
    pairs |= {
        "needs_picture": (needs["rate"], needs["interval"]),
        "recall": (turned["recall"], turned["recall_interval"]),
    }
    pairs["azimuth"] = (turned["azimuth_difference"], turned["azimuth_interval"])
    for name, (value, (low, high)) in pairs.items():
        assert low <= value <= high, f"{name} lies outside its interval"
    table = plush.as_markdown(figures)
    assert len(table.splitlines()) == 2 + 9 + 9
    assert all(" to " in line for line in table.splitlines()[2:]), "a row has no interval"
