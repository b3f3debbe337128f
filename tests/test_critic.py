"""The critic learns what latents show, and a phase before it is taught by what can be known and by that alone."""

from pathlib import Path

import pytest
import torch

from squeeze.cli import main
from squeeze.plush.probe import HEADS
from squeeze.training import critic, phases
from squeeze.training.critic import Critic, worsened
from squeeze.training.data import IDENTITY, SCENE
from squeeze.training.loop import fit, save_bf16
from squeeze.training.objective import Kept
from squeeze.training.parts import tile
from squeeze.training.phases import PhasePart
from squeeze.training.run import make_part

ALL = Kept(mllm=True, text=True, vae=True)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    for module in (critic, phases):
        monkeypatch.setattr(module, "CHUNK", 8)


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    """A folder with a small critic for latents of 128 px."""
    torch.manual_seed(0)
    save_bf16(Critic(widths=(8, 8, 8)), tmp_path / "judge" / "critic")
    return tmp_path / "judge"


def phase(folder: Path, judge: Path | None) -> PhasePart:
    return make_part("phase2", folder / "out", None, "cpu", 0, batch=4, critic=judge)


def test_it_learns_from_latents_that_are_worse_and_keeps_their_place(tmp_path: Path):
    part = make_part("critic", tmp_path, None, "cpu", 0, batch=8)
    latents = part._seen(1, 8)["latents"].float()
    worse = worsened(latents, torch.Generator().manual_seed(0))
    alike = torch.nn.functional.cosine_similarity(latents.flatten(1), worse.flatten(1))
    assert alike.min() > 0.4, "nothing is left of them"
    assert alike.max() < 0.999, "as good as they were"
    part._pool._make = lambda index: part._seen(1, 8)
    losses = [progress.loss for progress in fit(part, tmp_path, steps=30)]
    assert losses[-1] < 0.8 * losses[0], f"{losses[0]:.2f} to {losses[-1]:.2f} on eight pictures"
    assert (tmp_path / "critic" / "config.json").exists()
    assert (tmp_path / "grid-critic.png").exists()


def test_a_phase_learns_before_it_and_it_stays_as_it_is(tmp_path: Path, judge: Path):
    part = phase(tmp_path, judge)
    part.grid = lambda model: tile(torch.zeros(1, 3, 8, 8), 1)  # twenty steps of sixteen pictures that nobody looks at
    before = {name: value.clone() for name, value in part._critic.state_dict().items()}
    batch = part._pool.batch(0)
    foreseen = batch["x0"].float().requires_grad_()
    part._judged(foreseen, batch, ALL, torch.Generator().manual_seed(0)).backward()
    assert foreseen.grad.abs().amax((1, 2)).min() > 0, "a picture of which nothing is said"
    assert [progress.step for progress in fit(part, tmp_path / "out", steps=2)] == [1, 2]
    assert all(torch.equal(value, before[name]) for name, value in part._critic.state_dict().items())
    assert not (tmp_path / "out" / "critic").exists(), "it is no part of what is shipped"


def test_only_what_was_told_is_asked_for(tmp_path: Path, judge: Path):
    part = phase(tmp_path, judge)
    batch = part._pool.batch(0)

    def asked(kept: Kept) -> set[str]:
        """The heads that get a gradient."""
        part._critic.requires_grad_(True).zero_grad()
        part._judged(batch["x0"].float(), batch, kept, torch.Generator().manual_seed(0)).backward()
        heads = {name: part._critic.heads[name].weight.grad.abs().max() for name in HEADS}
        return {name for name, grad in heads.items() if grad > 0}

    toy = {name for name in IDENTITY if (batch[f"wanted {name}"] >= 0).any()}
    scene = {name for name in SCENE if (batch[f"wanted {name}"] >= 0).any()}
    assert toy, "nothing was tried"
    assert scene, "nothing was tried"
    assert asked(ALL) == toy | scene
    assert asked(Kept(mllm=False, text=True, vae=True)) == toy
    assert asked(Kept(mllm=True, text=False, vae=True)) == toy


@pytest.mark.parametrize("kept", [ALL, Kept(mllm=False, text=True, vae=True), Kept(mllm=True, text=True, vae=False)])
def test_a_reference_that_is_kept_is_asked_what_it_shows(
    tmp_path: Path, judge: Path, monkeypatch: pytest.MonkeyPatch, kept: Kept
):
    part = phase(tmp_path, judge)
    batch = part._pool.batch(0)
    assert torch.equal(batch["shown proportions"], batch["wanted proportions"])
    assert not torch.equal(batch["shown azimuth"], batch["azimuth"]), "it shows another scene than the target"
    monkeypatch.setattr(phases, "draw_kept", lambda *_: kept)
    part.loss(0).backward()
    heads = [part.model.helper.proportions, part.model.helper.cells, part.model.helper.heads["body"]]
    assert all((head.weight.grad is not None) == kept.vae for head in heads)


def test_where_no_condition_is_kept_nothing_is_judged(tmp_path: Path, judge: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(phases, "draw_kept", lambda *_: Kept(mllm=False, text=True, vae=False))
    monkeypatch.setattr(phases, "HELP", 0.0)
    plain, judged = (phase(tmp_path, critic_of) for critic_of in (None, judge))
    assert torch.equal(plain.loss(0), judged.loss(0))
    monkeypatch.setattr(phases, "draw_kept", lambda *_: ALL)
    assert judged.loss(0) > plain.loss(0)


@pytest.mark.parametrize("how", ["none", "another size", "rubbish"])
def test_a_critic_that_is_of_no_use(tmp_path: Path, judge: Path, capsys: pytest.CaptureFixture[str], how: str):
    file = judge / "critic" / "diffusion_pytorch_model.safetensors"
    if how == "rubbish":
        file.write_bytes(b"rubbish")
    flags = ["--critic", str(tmp_path if how == "none" else judge)] + ["--size", "64"] * (how == "another size")
    assert main(["train", "plush", "--part", "phase2", "--steps", "1", "--out", str(tmp_path / "out"), *flags]) == 2
    said = capsys.readouterr().err
    says = {
        "none": f"There is no critic/ in {tmp_path}.",
        "another size": "reads latents of 16 x 16, not of 8 x 8.",
        "rubbish": f"The weights in {judge / 'critic'} are damaged",
    }[how]
    assert says in said
    assert "Train one with --part critic, or name another folder with --critic." in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
