"""Mistakes on the command line of a training get a sentence and exit 2 before anything is trained or written."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from squeeze.cli import main
from squeeze.models.profiles import PROFILES
from squeeze.models.sources import LoadError
from squeeze.training import parts
from squeeze.training.loop import fit
from squeeze.training.parts import VaePart
from squeeze.training.run import make_part

SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "plush"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "CHUNK", 8)


def train(out: Path, *options: str) -> int:
    return main(["train", "plush", "--part", "vae", "--batch", "2", "--out", str(out), *options])


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The sentence that a training is refused with."""

    def say(*options: str) -> str:
        try:
            status = train(tmp_path / "out", *options)
        except SystemExit as error:  # argparse
            status = error.code
        assert status == 2
        assert not (tmp_path / "out").exists(), "something was written"
        return capsys.readouterr().err

    return say


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        *(("--minutes", value, "a number above 0") for value in ("-1", "0", "nan", "inf", "soon")),
        *(("--steps", value, "a whole number from 1") for value in ("0", "-3", "1.5", "many")),
    ],
)
def test_the_end_of_a_training(refused, flag: str, value: str, says: str):
    assert f"argument {flag}: must be {says}, not {value}" in refused(flag, value)


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--batch", "0", "a whole number from 1"),
        *(("--seed", value, "a whole number from 0 to 999999999") for value in ("-1", "1e3", "1000000000", "9" * 23)),
        ("--rate", "nan", "a number above 0"),
        *(
            ("--dropout", value, "a number from 0 to 1 or two with a comma between")
            for value in ("2", "0,2", "0,0,0", ",")
        ),
    ],
)
def test_other_numbers(refused, flag: str, value: str, says: str):
    assert f"argument {flag}: must be {says}, not {value}" in refused("--steps", "1", flag, value)


@pytest.mark.parametrize(
    "flags", [["--size", "64"], ["--singles", "9"], ["--mode", "single_lap"], ["--compile"], ["--critic", "x"]]
)
def test_flags_of_the_phases_are_for_phases(refused, flags: list[str]):
    assert f"{flags[0]} is for the phases and has no use with --part vae" in refused("--steps", "1", *flags)


def test_the_loop_itself_takes_no_box_that_never_ends(tmp_path: Path):
    for box in ({"minutes": -1}, {"minutes": float("nan")}, {"steps": 0}, {}, {"minutes": 1, "steps": 1}):
        with pytest.raises(ValueError, match="above 0"):
            next(fit(VaePart(batch=2), tmp_path, **box))


def test_a_folder_to_resume_from_that_is_not_there_or_holds_nothing(refused, tmp_path: Path):
    said = refused("--steps", "1", "--resume", str(tmp_path / "typo"))
    assert f"There is no folder {tmp_path / 'typo'}" in said
    assert "--resume" in said
    (tmp_path / "empty").mkdir()
    said = refused("--steps", "1", "--resume", str(tmp_path / "empty"))
    assert f"{tmp_path / 'empty'} has neither checkpoint-vae.pt nor vae/" in said


@pytest.mark.parametrize(("device", "says"), [("cuda", "torch sees no CUDA device"), ("toaster", "'toaster'")])
def test_a_device_that_is_not_there(refused, monkeypatch: pytest.MonkeyPatch, device: str, says: str):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = refused("--steps", "1", "--device", device)
    assert says in said
    assert "--device cpu" in said


def test_each_process_of_a_training_together_has_a_card_of_its_own(refused, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "torchrun sets it")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert "is to run on cuda:3" in refused("--steps", "1", "--device", "cuda")


@pytest.mark.parametrize("how", ["cut", "rubbish", "empty", "another's", "hollow"])
def test_a_damaged_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str):
    file, model = tmp_path / "checkpoint-vae.pt", torch.nn.Linear(2, 2)
    state = {"model": model.state_dict(), "optimiser": {}, "ema": {}, "step": 3}
    torch.save({} if how == "hollow" else state, file)
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "rubbish": b"rubbish" * 99, "empty": b""}.get(how, whole))
    before = file.read_bytes()
    assert train(tmp_path, "--steps", "5", "--resume", str(tmp_path)) == 2
    said = capsys.readouterr().err
    assert f"The checkpoint {file} is damaged or another model's" in said
    assert said.count("\n") == 1, "one sentence, not a traceback"
    assert file.read_bytes() == before, "what may be mended was written over"


@pytest.mark.parametrize("how", ["cut", "rubbish", "another version's", "another model's"])
def test_damaged_weights_to_start_from(refused, tmp_path: Path, how: str):
    VaePart(batch=2).save(VaePart(batch=2).model, tmp_path)
    file, config = (tmp_path / "vae" / f"{name}" for name in ("diffusion_pytorch_model.safetensors", "config.json"))
    if how == "another model's":
        config.write_text(config.read_text().replace('"latent_channels": 16', '"latent_channels": 8'))
    elif how == "another version's":
        weights = load_file(file)
        weights["encoder.conv_new.weight"] = weights.pop("encoder.conv_in.weight")
        save_file(weights, file)
    else:
        file.write_bytes(b"rubbish" if how == "rubbish" else file.read_bytes()[:-99])
    said = refused("--steps", "1", "--resume", str(tmp_path))
    assert f"The weights in {tmp_path / 'vae'} are damaged or incomplete" in said
    assert "Name another folder with --resume" in said
    assert said.count("\n") == 1, "one sentence, not a traceback"


def test_frozen_parts_that_are_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    VaePart(batch=2).save(VaePart(batch=2).model, tmp_path)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"rubbish")
    assert main(["train", "plush", "--part", "probe", "--steps", "1", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"The weights in {tmp_path / 'vae'} are damaged" in said
    assert "Move that folder away" in said


@pytest.mark.parametrize("name", ["decoder", "preview"])
def test_decoder_and_preview_map_go_with_the_vae_that_is_there(tmp_path: Path, name: str):
    other = VaePart(batch=2, seed=5)
    other.save(other.model, tmp_path / "mine")
    vae = load_file(tmp_path / "mine" / "vae" / "diffusion_pytorch_model.safetensors")
    for out, resume, mine in (("mine", None, True), ("new", "mine", True), ("new", None, False)):
        part = make_part(name, tmp_path / out, resume and tmp_path / resume, "cpu", 0)
        encoder = (part.model if name == "decoder" else part._vae.model).encoder
        assert torch.equal(encoder.conv_in.weight, vae["encoder.conv_in.weight"].float()) == mine, (out, resume)
    (tmp_path / "mine" / "vae" / "preview.safetensors").write_bytes(b"rubbish")
    if name == "preview":
        with pytest.raises(LoadError, match=r"mine/vae are damaged.*another folder with --resume"):
            make_part(name, tmp_path / "new", tmp_path / "mine", "cpu", 0)


def test_a_vision_tower_goes_with_the_language_model_that_is_there(tmp_path: Path):
    shipped = load_file(PROFILES["plush"].folder / "mllm" / "model.safetensors")
    part = make_part("vision", tmp_path, None, "cpu", 0)
    words = part.model.mllm.model.language_model.embed_tokens.weight
    assert torch.equal(words, shipped["language_model.model.embed_tokens.weight"].float())
    assert (part.name, part.model.mllm.config.vision_config.image_size[0]) == ("vision", PROFILES["plush"].size)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    assert train(tmp_path, "--steps", "1") == 0
    file = tmp_path / "checkpoint-vae.pt"
    before = file.read_bytes()

    def full(path: Path, content: bytes) -> None:
        path.open("wb").write(content[:99])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    capsys.readouterr()
    assert train(tmp_path, "--steps", "2", "--resume", str(tmp_path)) == 2
    said = capsys.readouterr().err
    assert f"The disk is full: {file} was not written" in said
    assert f"Make room, then go on with --resume {tmp_path}." in said
    assert "Traceback" not in said
    assert file.read_bytes() == before
    assert not list(tmp_path.glob(".*")), "half a file was left"


def test_a_diverged_training_ends_with_a_sentence(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(VaePart, "loss", lambda self, step: self.model.encoder.conv_in.weight.sum() * float("inf"))
    assert train(tmp_path, "--steps", "1") == 2
    assert "Start again with a --rate below 0.0015." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "too little memory for this training. Give a smaller --batch"),
        (RuntimeError("CUDA error: an illegal memory access"), "The device failed: CUDA error: an illegal memory"),
    ],
)
def test_a_device_that_fails_a_training(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, error, says):
    loss = VaePart.loss

    def failing(part: VaePart, step: int) -> torch.Tensor:
        if step == 1:
            raise error
        return loss(part, step)

    monkeypatch.setattr(VaePart, "loss", failing)
    assert train(tmp_path, "--steps", "3") == 2
    said = capsys.readouterr().err
    assert says in said
    assert f"--resume {tmp_path}" in said
    assert "Traceback" not in said
    monkeypatch.setattr(VaePart, "loss", loss)
    assert train(tmp_path, "--steps", "3", "--resume", str(tmp_path)) == 0


def test_other_errors_are_not_the_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def wrong(part: VaePart, step: int) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(VaePart, "loss", wrong)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(tmp_path, "--steps", "1")


def test_steps_that_are_done_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert train(tmp_path, "--steps", "2") == 0
    capsys.readouterr()
    assert train(tmp_path, "--steps", "2", "--resume", str(tmp_path)) == 0  # a table asks for every phase again
    assert f"Nothing was left to train: {tmp_path} is at step 2 or beyond already" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": {}}', '{"runs": [], "thresholds": 7}'])
def test_a_damaged_record_is_found_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str):
    (tmp_path / "training.json").write_text(text)
    assert train(tmp_path, "--steps", "1") == 2
    assert f"{tmp_path / 'training.json'} is damaged" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["training.json"]


@pytest.mark.parametrize("flags", [["--mode", "last_layer"], ["--layers", "early"]])
def test_weights_that_are_trained_on_stay_what_they_are(refused, flags: list[str]):
    said = refused("--part", "phase2", "--steps", "1", "--resume", str(SHIPPED), *flags)
    assert f"The aggregation in {SHIPPED} was trained otherwise" in said


def test_a_file_where_the_weights_should_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "out").write_text("mine")
    assert train(tmp_path / "out", "--steps", "1") == 2
    assert f"Nothing can be written into {tmp_path / 'out'}" in capsys.readouterr().err
