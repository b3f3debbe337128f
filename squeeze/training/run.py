"""What `python -m squeeze train plush` does: picks the part, trains it in its time box, writes down how."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, GotOcr2ImageProcessorPil, InternVLForConditionalGeneration

from ..files import copy_folder, write_text
from ..models.framing import Framing
from ..models.loading import LoadError, find_device
from ..models.mllm import Mllm
from ..models.parts import read_model
from ..models.profiles import PROFILES, Profile
from ..models.sources import Located, read_part, read_record, revision
from ..models.vae import Vae
from .critic import Critic, CriticPart
from .framing import FramingPart
from .loop import Part, Progress, checkpoint_name, fit, rank_and_world, show_progress
from .mllm import MllmPart
from .parts import ProbePart, VaePart
from .phases import PhasePart, Variant
from .preview import PreviewPart

# phases write aggregation and transformer
WRITES = {
    "vae": ("vae",), "decoder": ("vae",), "preview": ("vae",), "mllm": ("mllm",), "vision": ("mllm",),
    "framing": ("framing",), "probe": ("probe",), "critic": ("critic",),
}  # fmt: skip
FROZEN = ("framing", "mllm", "vae")  # what phases are trained beside


def train_plush(
    part: str, out: Path, *, command: str, minutes: float | None = None, steps: int | None = None,
    resume: Path | None = None, device: str = "cpu", seed: int = 0, rate: float | None = None,
    batch: int | None = None, compiled: bool = False, singles: int | None = None, critic: Path | None = None,
    variant: Variant | None = None,
) -> Progress | None:  # fmt: skip
    """Trains one part of the embedded model into `out`, a folder of the shipped layout; notes the run in
    `training.json`. Beside what phases write stands what they were trained beside, so that the folder can be drawn
    with.

    `compiled` fuses the blocks of the phases' models first: it takes minutes and a C++ compiler, and then a step takes
    two thirds of the time on a CPU; `singles` deepens the phases' transformer to so many single blocks; `critic` is
    a folder with a trained one, before which phases are trained; `variant` is what an ablation changes in phases that
    start afresh. Under `torchrun` its processes train one model together, each on its own samples. What phases,
    probe and critic are trained beside comes from `out`, or from the shipped weights where it has none yet; decoder,
    preview map and vision tower go with the VAE or MLLM of `resume`, `out` or the shipped weights, the first that is
    there; phase 2 starts from phase 1's aggregation and transformer in `resume`. Raises LoadError before anything is
    written where `resume` or `critic` holds nothing whole or the device is of no use; see `fit` for what can end it
    early.
    """
    launched = dist.is_torchelastic_launched()
    if launched and device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"  # a card for each process
    device = str(find_device(device))
    if launched:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    rank, world = rank_and_world()
    if world > 1:
        command = command.replace("python", f"torchrun --nproc-per-node {world}", 1)
    read_record(out)  # before the work, which is noted there, is done
    trainee = make_part(part, out, resume, device, seed * world + rank, rate, batch, compiled, singles, critic, variant)
    if rank == 0 and part not in WRITES:
        for name in FROZEN:
            copy_folder(PROFILES["plush"].folder / name, out / name)
    # on a card (H200, torch 2.11) cuDNN's attention, which torch takes first, fails at once in the backward pass
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION) if device.startswith("cuda") else nullcontext():
        last = show_progress(fit(trainee, out, minutes=minutes, steps=steps, resume=resume), part)
    if last is not None and rank == 0:
        note(out, part, command, trainee, last, device, trained_profile(part, variant))
    return last


def make_part(
    part: str,
    out: Path,
    resume: Path | None,
    device: str,
    seed: int,
    rate: float | None = None,
    batch: int | None = None,
    compiled: bool = False,
    singles: int | None = None,
    critic: Path | None = None,
    variant: Variant | None = None,
) -> Part:
    """A part ready to train, from the weights in `resume` where it has them. Raises LoadError where it has neither
    weights nor a checkpoint of the part."""
    names = WRITES.get(part, ("aggregation", "transformer"))
    start = resume if resume is not None and all((resume / name / "config.json").exists() for name in names) else None
    if resume is not None and start is None and not (resume / checkpoint_name(part)).is_file():
        wanted = " and ".join(f"{name}/" for name in names)
        what = f"The folder {resume} has neither {checkpoint_name(part)} nor {wanted}, so {part} cannot start from it"
        raise LoadError(
            f"{what if resume.is_dir() else f'There is no folder {resume} to start from'}. Name another with --resume, "
            f"or leave it out to start afresh."
        )
    profile = trained_profile(part, variant)
    options: dict[str, Any] = {"device": device, "seed": seed, "start": start, "batch": batch, "rate": rate}

    def frozen(name: str, reader: Callable[[Path], Any]) -> Any:
        folder, restore = profile.folder / name, "Restore them from the project's repository."
        if (out / name / "config.json").exists():
            folder, restore = out / name, "Move that folder away, and the shipped ones are used."
        return read_part(Located(path=folder, origin=str(folder), restore=restore), reader)

    if part in ("decoder", "preview", "vision") and start is None:  # parts of what is there
        options["start"] = out if (out / names[0] / "config.json").exists() else profile.folder
    if part == "preview":
        return PreviewPart(profile.size, **options)
    if part in ("vae", "decoder"):
        return VaePart(profile.size, **options, decoder_only=part == "decoder")
    if part in ("mllm", "vision"):
        return MllmPart(profile.size, **options, vision_only=part == "vision")
    if part == "framing":
        return FramingPart(profile.size, **options)
    vae = frozen("vae", partial(read_model, AutoencoderKL, dtype="float32"))
    if part in ("probe", "critic"):
        return (ProbePart if part == "probe" else CriticPart)(vae, profile.size, **options)

    judge = None if critic is None else read_critic(critic, profile.size // Vae(vae).factor)
    mllm = Mllm(
        frozen("mllm", partial(read_model, InternVLForConditionalGeneration, dtype="float32")),
        frozen("mllm", AutoTokenizer.from_pretrained),
        frozen("mllm", GotOcr2ImageProcessorPil.from_pretrained),
        profile.template,
        frozen("framing", partial(read_model, Framing, dtype="float32")),
    )
    return PhasePart(
        int(part[-1]), mllm, vae, size=profile.size, mu=profile.shift or 0.0, compiled=compiled, singles=singles,
        critic=judge, variant=variant, **options,
    )  # fmt: skip


def read_critic(folder: Path, side: int) -> Critic:
    """The critic in `folder`, for latents of `side` x `side`. Raises LoadError where there is none, or one for
    others."""
    restore = "Train one with --part critic, or name another folder with --critic."
    if not (folder / "critic" / "config.json").is_file():
        raise LoadError(f"There is no critic/ in {folder}. {restore}")
    located = Located(path=folder / "critic", origin=str(folder), restore=restore)
    critic = read_part(located, partial(read_model, Critic, dtype="float32"))
    if critic.config["side"] != side:
        has = critic.config["side"]
        raise LoadError(f"The critic in {folder} reads latents of {has} x {has}, not of {side} x {side}. {restore}")
    return critic


def trained_profile(part: str, variant: Variant | None) -> Profile:
    """The embedded model's row; for phases at the variant's size."""
    profile = PROFILES["plush"]
    sized = part not in WRITES and variant is not None and variant.size is not None
    return profile.at(variant.size) if sized else profile


def note(out: Path, part: str, command: str, trainee: Part, last: Progress, device: str, profile: Profile) -> None:
    """Adds a run to `training.json`, with the revision of all weights in the folder and the profile's thresholds."""
    kept = read_record(out)
    kept["revision"] = revision(out)
    thresholds = {"tau1": profile.tau1, "tau2": profile.tau2, "shift": profile.shift}
    kept["thresholds"] = (kept["thresholds"] or thresholds) if part in WRITES else thresholds  # the phases' pictures
    kept["runs"].append({
        "part": part, "command": command, "steps": last.step,
        "batch": trainee.schedule.batch * rank_and_world()[1],
        "rate": trainee.schedule.rate, "loss": round(last.loss, 5), "seconds": round(last.seconds),
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {platform.machine()}",
        "torch": torch.__version__,
    })  # fmt: skip
    write_text(out / "training.json", json.dumps(kept, indent=1) + "\n", f"go on with --resume {out}")
