"""The trainers: batches depend on the step alone, a resumed run equals an uninterrupted one, losses mean something."""

import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from tiny import furthest, make_framing
from transformers import InternVLForConditionalGeneration

from squeeze.files import WriteError
from squeeze.models.mllm import Mllm
from squeeze.models.parts import read_map
from squeeze.models.profiles import PROFILES
from squeeze.models.sources import LoadError, revision
from squeeze.training import critic, framing, parts, phases, preview
from squeeze.training import mllm as mllm_module
from squeeze.training.critic import CriticPart
from squeeze.training.data import draw_labelled, to_unit
from squeeze.training.framing import FramingPart
from squeeze.training.loop import DivergedError, Ema, Schedule, fit, learning_rate, read_start, save_bf16
from squeeze.training.mllm import MllmPart, make_mllm
from squeeze.training.objective import Dropout, draw_kept, draw_times, flow_loss, interpolate
from squeeze.training.parts import ProbePart, VaePart
from squeeze.training.phases import PhasePart
from squeeze.training.preview import PreviewPart

SHIPPED = PROFILES["plush"].folder
NAMES = ("vae", "decoder", "preview", "framing", "probe", "critic", "mllm", "vision", "phase1", "phase2")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    for module in (critic, framing, parts, mllm_module, phases, preview):
        monkeypatch.setattr(module, "CHUNK", 8)


def make(name: str, **options):
    """A part as it is trained, with batches of two."""
    if name == "mllm":
        return MllmPart(batch=2)
    if name == "vision":
        return MllmPart(batch=2, start=SHIPPED, vision_only=True)
    if name in ("vae", "decoder"):
        return VaePart(batch=2, start=SHIPPED, decoder_only=name == "decoder")
    if name == "probe":
        return ProbePart(VaePart().model, batch=2)
    if name == "framing":
        return FramingPart(batch=2)
    if name == "critic":
        return CriticPart(VaePart().model, batch=2)
    if name == "preview":
        return PreviewPart(batch=2, start=SHIPPED)
    torch.manual_seed(0)
    bare = make_mllm(64)
    inner = InternVLForConditionalGeneration(bare.config)
    mllm = Mllm(inner, bare.tokenizer, bare.image_processor, bare.template, make_framing())
    return PhasePart(int(name[-1]), mllm, VaePart().model, batch=4, **options)


def run(name: str, folder: Path, **options):
    part = make(name)
    part.grid = lambda model: parts.tile(torch.zeros(1, 3, 8, 8), 1)  # sheets are looked at, not compared
    part.save = lambda model, out: None
    for _ in fit(part, folder, **options):
        pass
    return torch.load(folder / f"checkpoint-{name}.pt", weights_only=True)


@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (critic, framing, parts, mllm_module, phases, preview):
        monkeypatch.setattr(module, "CHUNK", 4)  # of which the pool takes new ones also after the pause
    whole = run(name, tmp_path / "whole", steps=8)
    run(name, tmp_path / "halves", steps=8, pause_at=4)
    halves = run(name, tmp_path / "halves", steps=8, resume=tmp_path / "halves")
    assert whole["step"] == halves["step"] == 8
    for kind in ("model", "ema"):
        for key, value in whole[kind].items():
            assert torch.equal(value, halves[kind][key]), f"{kind} {key} differs: state is missing from the checkpoint"


def test_a_decoder_trained_alone_leaves_the_latents_as_they_are(tmp_path: Path):
    part = make("decoder")
    assert [progress.step for progress in fit(part, tmp_path, steps=3)][-1] == 3
    before, after = (read_start(AutoencoderKL, folder / "vae") for folder in (SHIPPED, tmp_path))
    same = {name: torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items()}
    assert all(kept for name, kept in same.items() if name.startswith("encoder")), "the latents are others now"
    assert not all(kept for name, kept in same.items() if name.startswith("decoder")), "the decoder learnt nothing"
    assert {"shift_factor", "scaling_factor"} <= {
        key for key, value in before.config.items() if after.config[key] == value
    }
    assert (tmp_path / "vae" / "preview.safetensors").exists()


def test_a_checkpoint_beside_another_autoencoder_is_refused(tmp_path: Path):
    """Else the encoder of before would come back, and phases that were trained since would be wrong."""
    list(fit(make("decoder"), tmp_path, steps=1))
    part = make("decoder")
    with torch.no_grad():
        part.model.encoder.conv_in.weight += 1
    with pytest.raises(LoadError, match="trained beside has changed"):
        next(fit(part, tmp_path, steps=2, resume=tmp_path))


def test_a_preview_map_keeps_its_linear_part_and_learns_beside_it(tmp_path: Path):
    part = make("preview")
    assert [progress.step for progress in fit(part, tmp_path, steps=3)][-1] == 3
    before, after = (read_map(folder / "vae").state_dict() for folder in (SHIPPED, tmp_path))
    same = {name: torch.equal(value, after[name]) for name, value in before.items()}
    assert [name for name, kept in same.items() if kept] == ["weight", "bias"], "only the network is to learn"
    vaes = [(folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() for folder in (SHIPPED, tmp_path)]
    assert vaes[0] == vaes[1], "it lies beside another decoder than the one it was trained with"
    taught = part._seen(0, 4)
    assert furthest(to_unit(taught["decoded"]), part._vae.decode(taught["latents"])) < 0.01, "the decoder shows else"


def test_a_revision_is_of_what_changes_pictures(tmp_path: Path):
    instruments = ("vae/preview.safetensors", "probe/model.safetensors")
    for name in ("a.safetensors", *instruments):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    before, probe = revision(tmp_path), revision(tmp_path / "probe")
    for name in instruments:
        (tmp_path / name).write_bytes(b"2")
    assert revision(tmp_path) == before
    assert revision(tmp_path / "probe") != probe
    (tmp_path / "a.safetensors").write_bytes(b"2")
    assert revision(tmp_path) != before


def test_training_reduces_the_loss(tmp_path: Path):
    part = ProbePart(VaePart().model, batch=8)
    part._make = part._pool._make = lambda index: draw_labelled(8, 1, 128)
    losses = [progress.loss for progress in fit(part, tmp_path, steps=30)]
    assert losses[-1] < 0.8 * losses[0], (
        f"30 steps on eight pictures should fit them: {losses[0]:.2f} to {losses[-1]:.2f}"
    )
    assert (tmp_path / "probe" / "config.json").exists(), "the averaged weights were not written"
    assert (tmp_path / "grid-probe.png").exists(), "no sample sheet was written"


class Pulled:
    """A part of one weight, which each process pulls towards a number of its own."""

    name = "pulled"
    schedule = Schedule(batch=1, rate=0.1, warmup=1)

    def __init__(self, target: float, start: float):
        self.target, self.model = target, torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.model.weight, start)

    def loss(self, step: int):
        return ((self.model.weight - self.target) ** 2).sum()

    def grid(self, model):
        return parts.tile(torch.zeros(1, 3, 8, 8), 1)

    def save(self, model, folder: Path):
        pass


def pull(rank: int, folder: Path) -> None:
    """One of two processes."""
    place, soon = f"file://{folder / 'meeting'}", timedelta(minutes=3)
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2, timeout=soon)
    part = Pulled(target=3.0 + 2 * rank, start=float(rank))
    *_, last = fit(part, folder / str(rank), steps=20)
    torch.save((part.model.weight.detach(), last.loss), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_processes_train_one_model_together(tmp_path: Path):
    other = torch.multiprocessing.spawn(pull, (tmp_path,), join=False)  # the first; the second is this one
    pull(1, tmp_path)
    other.join()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first == second, "the processes went apart"
    alone = Pulled(target=4.0, start=0.0)
    list(fit(alone, tmp_path / "alone", steps=20))
    assert torch.allclose(first[0], alone.model.weight, atol=1e-6), "not the gradient of the mean loss"
    assert (tmp_path / "0" / "checkpoint-pulled.pt").exists()
    assert not list((tmp_path / "1").iterdir()), "only the first process writes"


def test_a_kill_between_checkpoint_and_weights_is_mended(tmp_path: Path):
    list(fit(Pulled(target=1.0, start=0.0), tmp_path, steps=3))
    part, saved = Pulled(target=1.0, start=0.0), []
    part.save = lambda model, folder: saved.append(model.weight.item())
    assert list(fit(part, tmp_path, steps=3, resume=tmp_path)) == []
    kept = torch.load(tmp_path / "checkpoint-pulled.pt", weights_only=True)
    assert saved == [kept["ema"]["weight"].item()], "the finished training's weights were not written"


def test_weights_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = VaePart().model
    save_bf16(model, tmp_path / "vae")
    (tmp_path / "vae" / "beside.txt").touch()
    before = {path.name: path.read_bytes() for path in (tmp_path / "vae").iterdir()}

    error: Exception = OSError(28, "No space left on device")

    class Full:
        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text("{")
            raise error

    monkeypatch.setattr(AutoencoderKL, "save_pretrained", Full.save_pretrained)
    with pytest.raises(WriteError, match="disk is full"):
        save_bf16(model, tmp_path / "vae")
    monkeypatch.undo()
    error = Exception("No space left on device (os error 28)")  # as tokenizers say it
    with pytest.raises(WriteError, match="disk is full"):
        save_bf16(model, tmp_path / "vae", Full())
    assert {path.name: path.read_bytes() for path in (tmp_path / "vae").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["vae"], "half-written weights were left"


def test_stopping_writes_a_checkpoint(tmp_path: Path):
    part = make("probe")
    run = fit(part, tmp_path, steps=100)
    for _ in range(3):
        next(run)
    run.close()
    assert torch.load(tmp_path / "checkpoint-probe.pt", weights_only=True)["step"] == 3


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_within_a_step_waits_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals):
    """Else the checkpoint would hold the weights of one step under the number of another."""
    update, before = Ema.update, signal.signal(stop, signal.default_int_handler)  # as the command line has both

    def stopped(ema: Ema, model: torch.nn.Module, step: int) -> None:
        if step == 2:
            signal.raise_signal(stop)
        update(ema, model, step)

    monkeypatch.setattr(Ema, "update", stopped)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(fit(Pulled(target=1.0, start=0.0), tmp_path, steps=9))
        assert signal.getsignal(stop) is signal.default_int_handler
    finally:
        signal.signal(stop, before)
    kept = torch.load(tmp_path / "checkpoint-pulled.pt", weights_only=True)
    assert kept["step"] == 3
    assert kept["optimiser"]["state"][0]["step"] == 3


def test_a_diverged_loss_says_so(tmp_path: Path):
    part = make("probe")
    part.loss = lambda step: part.model.cells.weight.sum() * float("nan")
    with pytest.raises(DivergedError, match=r"^Step 0 has a loss of nan .* Start again with a --rate below 0.002\.$"):
        list(fit(part, tmp_path, steps=2))


def test_a_step_that_is_not_done_leaves_no_trace_in_the_buffers(tmp_path: Path):
    """Batch normalisation takes a batch's mean in the forward; one of infinity would stay, through every resume."""
    part = make("probe")
    taught = part.loss

    def loss(step: int) -> torch.Tensor:
        if step < 2:
            return taught(step)
        for buffer in part.model.buffers():
            buffer.fill_(float("nan") if buffer.is_floating_point() else 99)
        return part.model.cells.weight.sum() * float("nan")

    list(fit(make("probe"), tmp_path / "whole", steps=2))
    part.loss = loss
    with pytest.raises(DivergedError):
        list(fit(part, tmp_path / "cut", steps=4))
    kept = [torch.load(tmp_path / name / "checkpoint-probe.pt", weights_only=True) for name in ("whole", "cut")]
    buffers = [name for name, _ in part.model.named_buffers()]
    assert any("running_mean" in name for name in buffers)
    assert all(torch.equal(kept[0]["model"][name], kept[1]["model"][name]) for name in buffers)


def test_a_gradient_that_is_no_number_leaves_the_weights_of_the_step_before(tmp_path: Path):
    part, pull = Pulled(target=1.0, start=0.0), Pulled.loss
    weight = part.model.weight
    root = lambda: ((weight - weight.detach()) ** 2).sqrt().sum()  # 0, but its slope there is infinite  # noqa: E731
    part.loss = lambda step: pull(part, step) if step < 3 else root()
    with pytest.raises(DivergedError, match=f"^Step 3 has a loss of 0 .*--resume {tmp_path} with a --rate below 0.1"):
        list(fit(part, tmp_path, steps=9))
    kept = torch.load(tmp_path / "checkpoint-pulled.pt", weights_only=True)
    assert kept["step"] == 3
    assert kept["model"]["weight"].isfinite().all()
    assert kept["ema"]["weight"].isfinite().all()


def test_ema_follows_and_learning_rate_falls():
    model = torch.nn.Linear(2, 2)
    ema = Ema(model, 0.9)
    before = ema.state["weight"].clone()
    with torch.no_grad():
        model.weight += 1
    for step in range(200):
        ema.update(model, step)
    assert torch.allclose(ema.state["weight"], model.weight, atol=1e-3)
    assert not torch.allclose(before, model.weight)
    with ema.swapped(model) as averaged:
        assert not averaged.training
    schedule = replace(VaePart(batch=4).schedule, warmup=10)
    rates = [learning_rate(schedule, step, step / 100) for step in range(100)]
    assert max(rates) <= schedule.rate
    assert rates[0] < rates[20] > rates[60] > rates[99]


@pytest.mark.parametrize("turn", [1, 2])
def test_a_stop_while_weights_are_exchanged_leaves_those_of_the_training(turn):
    loads = []

    class Interrupted(torch.nn.Linear):
        def _load_from_state_dict(self, *state):
            loads.append(state)
            if len(loads) == turn:
                signal.raise_signal(signal.SIGINT)
            super()._load_from_state_dict(*state)

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), Interrupted(2, 2))
    ema = Ema(model, 0.9)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(KeyboardInterrupt), ema.swapped(model):
        pass
    assert all(map(torch.equal, model.parameters(), before))
    assert model.training


def test_condition_dropout_has_the_stated_shares():
    generator = torch.Generator().manual_seed(0)
    kept = [draw_kept(2, generator, Dropout()) for _ in range(20000)]
    share = {name: sum(getattr(k, name) for k in kept) / len(kept) for name in ("mllm", "vae", "text")}
    assert abs(share["mllm"] - 0.9 * 0.85) < 0.02
    assert abs(share["vae"] - 0.9 * 0.85) < 0.02
    assert abs(share["text"] - 0.9) < 0.02
    assert 0.1 < sum(not k.mllm and not k.vae for k in kept) / len(kept) < 0.15
    more = [draw_kept(2, generator, Dropout(each=(0.4, 0.1))) for _ in range(20000)]
    assert abs(sum(k.mllm for k in more) / len(more) - 0.9 * 0.6) < 0.02
    assert abs(sum(k.vae for k in more) / len(more) - 0.9 * 0.9) < 0.02
    assert not any(draw_kept(1, generator, Dropout()).vae for _ in range(100)), "phase 1 knows no VAE tokens"


def test_flow_path_and_times():
    x0, noise = torch.randn(2, 3, 4, 5)
    assert torch.equal(interpolate(x0, noise, torch.zeros(3)), x0)
    assert torch.equal(interpolate(x0, noise, torch.ones(3)), noise)
    assert flow_loss(noise - x0, x0, noise) == 0
    times = draw_times(10000, 0.0, torch.Generator().manual_seed(0))
    assert times.min() > 0
    assert times.max() < 1
    assert abs(float(times.mean()) - 0.5) < 0.01
    later = draw_times(10000, 1.15, torch.Generator().manual_seed(0))
    assert (later > times).all(), "a positive shift should move times towards noise"


def test_compiled_blocks_give_the_same_loss(monkeypatch):
    plain, compile_ = make("phase2").loss(0), torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **options: compile_(call, backend="eager", **options))
    part = make("phase2", compiled=True)
    for block in (part.model.transformer.transformer_blocks[0], part.model.aggregation.refine[0]):
        assert "forward" in vars(block), "the block is not compiled"
    assert torch.allclose(part.loss(0), plain, atol=1e-6)


def test_a_phase_leaves_the_attention_of_other_models_as_it_was():
    """diffusers sets a model's backend for the whole process, and pictures drawn after a training were others."""
    before = _AttentionBackendRegistry.get_active_backend()
    part = make("phase2")
    assert _AttentionBackendRegistry.get_active_backend() == before
    part.loss(0)  # which goes through the processors that weigh tokens
    assert {one._attention_backend for one in part.model.transformer.attn_processors.values()} == {"_native_math"}


def test_phases_draw_at_every_combination_of_conditions():
    part = make("phase2")
    part.model.eval()
    seen = {tuple(vars(draw_kept(2, torch.Generator().manual_seed(step), Dropout())).values()): step
            for step in range(200)}  # fmt: skip
    assert len(seen) == 8, "some combination of kept conditions never comes up"
    with torch.no_grad():
        assert all(torch.isfinite(part.loss(step)) for step in seen.values())


@pytest.mark.parametrize(("layers", "read"), [("early", [1, 2]), ("middle", [3, 4]), ("late", [5, 6]), ("all", None)])
def test_a_variant_is_what_is_trained(layers: str, read: list[int] | None):
    part = make("phase2", variant=phases.Variant(mode="single_lap", layers=layers, dropout=(0.5, 0.0)))
    config = part.model.aggregation.config
    assert (config["mode"], config["read"]) == ("single_lap", read)
    assert part._dropout == Dropout(each=(0.5, 0.0))


@torch.no_grad()
def test_white_latents_restore_the_same():
    model, pixels = VaePart().model, to_unit(draw_labelled(48, 3, 64)["pixels"])
    torch.nn.init.normal_(model.encoder.conv_out.weight)  # the channels of fresh weights hardly differ
    latents = model.encode(pixels).latent_dist.mean
    restored = model.decode(latents).sample
    white = parts.whiten(model, latents)
    covariance = torch.cov(white.transpose(0, 1).flatten(1))
    assert (covariance - torch.eye(16)).abs().max() < 1e-2, "every channel stands out of the noise alike"
    assert furthest(model.encode(pixels).latent_dist.mean, white) < 1e-3 * white.abs().max()
    assert furthest(model.decode(white).sample, restored) < 1e-3 * restored.abs().max()


def test_shipped_configs_name_no_folder(tmp_path: Path):
    VaePart().model.save_pretrained(tmp_path / "from")
    loaded = AutoencoderKL.from_pretrained(tmp_path / "from")
    save_bf16(loaded, tmp_path / "to")
    assert str(tmp_path) not in (tmp_path / "to" / "config.json").read_text()
