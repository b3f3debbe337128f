"""Loads a profile's models; the only place that knows devices and what can be wrong with files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from diffusers import ModelMixin
from packaging.version import Version
from torch import Tensor, nn

from ..encodings import Encodings
from .adapter import Adapter, check_fit, wanted_by
from .aggregation import Aggregation, Native
from .dit import Dit
from .failures import reason, trouble
from .hoisting import Hoisting, hoist
from .kernels import pick_backend
from .memory import Plan, check_name, choose, free_bytes, host_bytes, measure
from .mllm import Mllm
from .parts import read_aggregation, read_dit, read_mllm, read_preview, read_vae
from .profiles import Profile
from .sources import LoadError, Located, check_size, check_weights, locate, revision_of
from .turns import HOST, Turns
from .vae import PreviewMap, Vae

__all__ = ["LoadError", "Models", "check_bitsandbytes", "check_compiler", "compile_blocks", "find_device", "load"]

LEAST_BITSANDBYTES = "0.48"  # before that an 8-bit model could not be moved off the card and back


@dataclass(frozen=True, kw_only=True)
class Models:
    """Everything a generation needs, in evaluation mode. `revision` identifies the weights in recipes and caches.

    What lies where is the memory `plan`'s: `turns` brings "reading" (MLLM and aggregation) or "drawing" (transformer)
    to the device, `hoisting` are the transformer's modulations where they left it. `encodings` keeps what was read.
    """

    profile: Profile
    mllm: Mllm
    aggregation: Aggregation | Native
    dit: Dit
    vae: Vae
    preview: PreviewMap
    device: torch.device
    revision: str
    plan: Plan
    turns: Turns
    hoisting: Hoisting | None
    encodings: Encodings


def load(
    profile: Profile,
    folder: Path | None = None,
    device: str | None = None,
    *,
    adapter: Path | None = None,
    revisions: Mapping[str, str] | None = None,
    memory: str = "auto",
    compiled: bool = False,
    report: Callable[[Plan], None] = lambda plan: None,
) -> Models:
    """Loads a profile onto `device` (or its own choice): from `folder`, else from the profile's own, else from the hub.

    `adapter` is the folder of an adapter, for a profile that needs one; its stage borders become the profile's.
    `revisions` replace the hub's commits, by repository. `memory` is a plan of memory.py or "auto"; `report` is told
    which is taken, unless all is in host memory anyway. `compiled`: torch compiles the transformer's blocks at their
    first use, see warmup.py. Raises LoadError before anything is read where flags, files or this machine do not
    allow it.
    """
    profile = replace(profile, folder=folder or profile.folder)
    check_name(memory)
    if folder and revisions:
        named = next(f"{repo}@{revision}" for repo, revision in revisions.items())
        raise LoadError(f"The weights come from {folder}, so --revision {named} has no use. Leave one of the two out.")
    added = wanted_by(profile, adapter)
    place = find_device(device or profile.device)
    if profile.mllm_8bit:
        check_bitsandbytes(place)
    if compiled:
        check_compiler(place)
    if not profile.sources:
        check_size(profile)
    parts = locate(profile, (added.revisions if added else {}) | dict(revisions or {}))
    if added:
        parts["aggregation"] = added.part("aggregation")
        licence = f"{profile.licence}. Adapter: {added.licence}"
        profile = replace(profile, tau1=added.tau1, tau2=added.tau2, licence=licence)
    read = parts | ({"lora": added.part("lora")} if added else {})
    for part in read.values():
        check_weights(part)
    if added:
        check_fit(added, parts)
    sizes = measure(profile, read)
    try:
        plan = choose(memory, sizes, place, free_bytes(place), host_bytes())
    except LoadError as error:
        if (device or profile.device, memory) != ("auto", "auto") or place.type == "cpu":
            raise
        warnings.warn(f"{error} The CPU is used.", stacklevel=2)
        place = find_device("cpu")
        plan = choose(memory, sizes, place, None, host_bytes())
    if plan.free is not None or plan.turns:
        report(plan)
    try:
        models = _loaded(profile, parts, place, added, plan)
        _fits(models)
        pick_backend(models.dit.model, place)
    except RuntimeError as error:
        if trouble(error) == "memory":
            said = f"Memory plan {plan.name} does not fit on {place} after all. Start {plan.smaller}."
        elif trouble(error) == "device":
            said = f"{place} failed: {reason(error)}. Start again; if it fails again, update its driver or use another."
        else:
            raise
        raise LoadError(said) from error
    if compiled:
        compile_blocks(models.dit.model)
    return models


def _loaded(
    profile: Profile, parts: Mapping[str, Located], place: torch.device, added: Adapter | None, plan: Plan
) -> Models:
    home = HOST if plan.turns else place
    vae = read_vae(parts["vae"], profile, place)
    # an MLLM in 8-bit becomes so on the device
    mllm = read_mllm(parts, profile, place if profile.mllm_8bit else home)
    aggregation = read_aggregation(parts, profile).to(home).eval()
    turns = Turns({"reading": [mllm.model, aggregation]} if plan.turns else {}, place)
    dit = read_dit(parts["transformer"], profile, added)
    hoisting = hoist(dit.model) if plan.hoisted else None
    dit.model.to(home)
    if plan.turns:
        turns.add("drawing", [dit.model])
    return Models(
        profile=profile,
        mllm=mllm,
        aggregation=aggregation,
        dit=dit,
        vae=vae,
        preview=read_preview(parts["vae"], vae).to(place),
        device=place,
        revision=revision_of(parts, profile, added.revision if added else None),
        plan=plan,
        turns=turns,
        hoisting=hoisting,
        encodings=Encodings(),
    )


def find_device(wanted: str = "auto") -> torch.device:
    """The device of that name, tried out; raises LoadError where it is of no use. "auto" is a card where there is one
    of use, else the CPU, with a warning where the card is to blame."""
    if wanted == "auto":
        if not torch.cuda.is_available():
            return find_device("cpu")
        try:
            return find_device("cuda")
        except LoadError as error:
            warnings.warn(f"{error} The CPU is used.", stacklevel=2)
            return find_device("cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise LoadError(
            f"This is to run on {wanted}, but torch sees no CUDA device. Install a CUDA build of torch or use "
            f"--device cpu."
        )
    try:
        tried = torch.ones(1, device=wanted)
        (tried + tried).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # unknown, or it does not work
        others = "--device cpu" if wanted.startswith("cuda") else "--device cpu or --device cuda"
        raise LoadError(f"Device {wanted!r} is of no use here ({reason(error)}). Use {others}.") from error
    return tried.device


def check_bitsandbytes(place: torch.device) -> None:
    """Raises LoadError where bitsandbytes is missing, too old for a language model in 8-bit, or does not work on the
    device: transformers would go on, and then the files of the weights would have the blame."""
    try:
        found = version("bitsandbytes")
    except PackageNotFoundError:
        found = "missing"
    if found == "missing" or Version(found) < Version(LEAST_BITSANDBYTES):
        raise LoadError(
            f"The language model in 8-bit needs bitsandbytes {LEAST_BITSANDBYTES} or newer; here it is {found}. "
            f"Install it: pip install -U bitsandbytes"
        )
    try:
        from bitsandbytes.nn import Linear8bitLt

        layer = Linear8bitLt(32, 32, bias=False, has_fp16_weights=False, threshold=6.0).to(place)
        layer(torch.ones(1, 32, dtype=torch.float16, device=place))
    except Exception as error:  # a library that is missing or not for this card says so in a dozen ways
        raise LoadError(
            f"bitsandbytes {found} does not work on {place} ({reason(error)}). Install one for this card and its "
            f"driver: pip install -U bitsandbytes"
        ) from error


def check_compiler(place: torch.device) -> None:
    """Raises LoadError where torch.compile has no compiler to use; else that would only show in the first picture."""
    try:
        torch.compile(torch.sin)(torch.ones(8, device=place))
    except Exception as error:  # inductor, triton and the C++ compiler each have errors of their own
        raise LoadError(
            f"Nothing can be compiled for {place} here ({reason(error)}). Install a C++ compiler, and triton for a "
            f"card, or leave --compile out."
        ) from error


def compile_blocks(transformer: ModelMixin) -> None:
    """Has torch compile a transformer's blocks at their first use, for any number of tokens."""
    transformer.register_forward_pre_hook(_compiler_settings)
    for block in transformer.modules():
        if type(block).__name__ in transformer._repeated_blocks:
            block.register_forward_hook(_plain)
    transformer.compile_repeated_blocks(dynamic=True)


@torch.compiler.disable
def _plain(_block: nn.Module, _given: object, out: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Text and picture with the strides that the first block is given them with; with those that they have as parts of
    one tensor each block would be compiled twice. For one picture these are views."""
    return tuple(part.flatten(0, 1).view(part.shape) for part in out)


def _compiler_settings(*_: object) -> None:
    """Sets what torch compiles blocks by; before each forward, since it holds such settings by thread, and the steps of
    one run come from several."""
    # A block makes up to five graphs: without text, with a token of it or more, with and without weights. Of eight,
    # for all models of a process, torch leaves what is new uncompiled; and that two numbers of tokens are equal is
    # chance, not one more.
    torch._dynamo.config.recompile_limit = 64
    torch.fx.experimental._config.use_duck_shape = False


def _fits(models: Models) -> None:
    """Raises LoadError where two parts do not fit together."""
    mllm, dit = models.mllm, models.dit
    if models.profile.native:
        squeezed = [("the MLLM's width", mllm.width, "the transformer's text width", dit.text_width)]
    else:
        config = models.aggregation.config
        squeezed = [
            ("the MLLM's layers", mllm.layers, "the aggregation's", config["layers"]),
            ("the MLLM's width", mllm.width, "the aggregation's", config["width"]),
            ("the aggregation's text width", config["text_width"], "the transformer's", dit.text_width),
            ("the aggregation's pooled width", config["pooled_width"], "the transformer's", dit.pooled_width),
        ]
    pairs = [
        *squeezed,
        ("four times the VAE's channels", 4 * models.vae.channels, "the transformer's", dit.channels),
        ("the VAE's channels", models.vae.channels, "the preview map's", models.preview.weight.shape[1]),
    ]
    for left, a, right, b in pairs:
        if a != b:
            where = models.profile.folder or "the profile's repositories"
            raise LoadError(f"The parts in {where} do not belong together: {left} are {a}, {right} {b}.")
