"""One generation is a generator: `generate(models, request)` yields what happens, from first reading to picture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice, repeat
from typing import Any

import torch
from torch import Tensor

from . import balance
from .conditioning import condition
from .events import Encoded, Event, Finished, StageStarted, StepDone
from .identity import identify
from .images import content_hash
from .models.dit import Conditioning, Dit, Identity
from .models.failures import reason, trouble
from .models.loading import Models
from .models.profiles import Profile
from .previews import preview
from .recipe import OPTIONS, VERSION, plain
from .request import Request, RequestError, clean_prompt
from .sampling import Velocity, denoise, draw_noise, grid_ids, schedule, shift_for


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Where to go on: `step` steps are done, `img` (1, N, 4 C) is the latent after them (events.StepDone.img)."""

    step: int
    img: Tensor


def generate(models: Models, request: Request, resume: Resume | None = None) -> Iterator[Event]:
    """Draws one picture, step by step. With `resume` only the steps from there are done, with this request's balances.

    Raises RequestError before the first event where the request is not within the profile's limits, and at any time
    where the device fails, or has too little memory for it; the next request then finds the device cleared.
    """
    try:
        return (yield from _generate(models, request, resume))
    except RuntimeError as error:
        kind, said = trouble(error), reason(error)
        if kind is None:
            raise
    # raised here, where the error's frames no longer hold their tensors
    if kind == "device":
        raise RequestError("device", value=said)
    models.turns.clear()
    models.encodings.clear()
    torch.cuda.empty_cache()
    size = f"{request.width} × {request.height}"
    raise RequestError("memory", value=size, name=models.plan.name, choices=models.plan.smaller)


@torch.inference_mode()
def _generate(models: Models, request: Request, resume: Resume | None) -> Iterator[Event]:
    began = time.monotonic()
    # 1 the request, within the profile's limits
    request = request.checked(models.profile.limits)
    times, counts = plan(models.profile, request)
    first = _start(request, resume)
    # 2 the canvas: its size in latents and tokens
    height, width = request.height // models.vae.factor, request.width // models.vae.factor
    rows, columns = height // 2, width // 2
    # 3 and 4 the MLLM reads references and prompt together; the aggregation squeezes its layers
    prompt = clean_prompt(request.prompt)
    size = (request.width, request.height)
    conditioning = condition(models, request.references, prompt, size)
    negative = None
    if request.cfg != 1 and request.uncond == "full" and models.profile.negative is not None:
        negative = condition(models, request.references, models.profile.negative, size)
    # 5 the VAE's identity tokens
    identity = identify(models, request.references, rows, columns)
    # 6 noise, positions, schedule
    img_ids = grid_ids(rows, columns)
    noise = draw_noise(request.seed, rows * columns, models.dit.channels)
    start = next(noise)
    img = (resume.img.float() if resume else start).to(models.device)
    yield Encoded(
        seconds=time.monotonic() - began,
        unknown_words=tuple(models.mllm.unknown_words(prompt)),
        stage_steps=counts,
        times=tuple(times[:-1]),
    )

    velocity = guided(models.dit, request, counts, img_ids, conditioning, negative, identity)
    vecs = [conditioning.vec, conditioning.null_vec, *([negative.vec] if negative else [])]
    velocity = placed(models, velocity, times[:-1], vecs, request.guidance)
    # 8 the steps, each with 7 the balance of its stage (see guided)
    stepped = time.monotonic()
    for moved in denoise(img, times, velocity, first, fresh(request, counts, first, noise), request.eta):
        img = moved.img
        stage = balance.stage_of(moved.index, counts)
        if moved.index == first or moved.index == sum(counts[:stage]):
            yield StageStarted(stage=stage, step=moved.index, balance=request.balance_at(moved.index, counts))
        # 9 a look at x0, at a stage's end by the autoencoder; after the last step it is the picture
        done, shown = moved.index + 1, None
        if done == request.steps:
            shown = picture = preview(models, img, height, width, decoded=True)
        elif request.previews:
            shown = preview(models, moved.x0, height, width, decoded=done == sum(counts[: stage + 1]))
        now = time.monotonic()
        yield StepDone(
            step=moved.index, steps=request.steps, stage=stage, t=moved.t, seconds=now - stepped,
            preview=shown if request.previews else None, img=img.detach().cpu().clone(),
        )  # fmt: skip
        stepped = time.monotonic()
    # 10 the picture and its recipe
    recipe = recipe_of(models, request, counts) | {"picture": content_hash(picture)}
    yield Finished(image=picture, recipe=recipe, seconds=time.monotonic() - began)


def fresh(
    request: Request, counts: tuple[int, int, int], first: int, noise: Iterator[Tensor]
) -> Iterator[Tensor | None]:
    """Which steps from `first` take of the `noise` that is drawn for each of them: none where `eta` is 0, else all but
    those in which no token says what was asked for. What the picture shows of that would be lost with the old
    noise."""
    if request.eta == 0:
        return (yield from repeat(None))
    for step, drawn in enumerate(islice(noise, first, None), first):  # each step that is done has taken one
        said = request.late_text == "keep" or balance.weights(request.balance_at(step, counts)).mllm > 0
        yield drawn if said else None


def plan(profile: Profile, request: Request) -> tuple[list[float], tuple[int, int, int]]:
    """The times of a request (N + 1) and its whole steps per stage."""
    tokens = request.height * request.width // 256
    mu = shift_for(tokens) if profile.shift is None else profile.shift
    times = schedule(request.steps, mu)
    return times, request.stage_steps or balance.steps_per_stage(times[:-1], profile.tau1, profile.tau2)


def guided(
    dit: Dit,
    request: Request,
    counts: tuple[int, int, int],
    img_ids: Tensor,
    conditioning: Conditioning,
    negative: Conditioning | None,
    identity: Identity,
) -> Velocity:
    """The velocity with each step's balance, with and without true classifier-free guidance.

    With `uncond = full` the unconditional branch keeps the reference tokens as they weigh at that step, and reads
    `negative` in the MLLM's place, which weighs as the prompt does; where that is None it reads nothing there. With
    `lean` it sees neither.
    """

    def velocity(img: Tensor, index: int, t: float) -> tuple[Tensor, Tensor]:
        weights = balance.weights(request.balance_at(index, counts))
        same = {"identity": identity, "guidance": request.guidance}
        kept = dit.velocity(
            img, img_ids, t, conditioning=conditioning, weights=weights, late_text=request.late_text, **same
        ).float()
        # where no MLLM token is left in either branch, guidance has no difference to enlarge
        same_input = weights.mllm == 0 and request.uncond == "full" and request.late_text == "drop"
        if request.cfg == 1 or same_input:
            return kept, kept
        if request.uncond == "full" and negative is not None:
            free = dit.velocity(
                img, img_ids, t, conditioning=negative, weights=weights, late_text=request.late_text, **same
            )
        else:
            without = balance.Weights(mllm=0.0, vae=weights.vae if request.uncond == "full" else 0.0)
            free = dit.velocity(img, img_ids, t, conditioning=conditioning, weights=without, **same)
        free = free.float()
        return free + request.cfg * (kept - free), kept

    return velocity


def placed(
    models: Models, velocity: Velocity, times: Sequence[float], vecs: Sequence[Tensor], guidance: float
) -> Velocity:
    """A velocity that first sees to it that the transformer is on the device and, where its modulations were hoisted,
    that the rows of all `times` and pooled vectors are there: another run may have had its turn since the last step."""

    def there(img: Tensor, index: int, t: float) -> tuple[Tensor, Tensor]:
        models.turns.take("drawing")
        if models.hoisting:
            models.hoisting.prepare(times, vecs, guidance)
        return velocity(img, index, t)

    return there


def branched(request: Request, step: int, balance: tuple[float, float, float]) -> Request:
    """The request of a run that keeps its first `step` steps and goes on with other balances; run from the start it
    gives the same picture as resumed there."""
    kept = tuple(row for row in request.earlier if row[0] < step)
    held = next((row[1:] for row in request.earlier if row[0] >= step), request.balance)
    return replace(request, balance=balance, earlier=(*kept, (step, *held)))


def recipe_of(models: Models, request: Request, counts: tuple[int, int, int]) -> dict[str, Any]:
    """Everything that makes the picture again, see recipe.py; `picture`, its hash, is known once it is drawn. What no
    part of the model reads is as the profile has it."""
    guidance = request.guidance if models.dit.embeds_guidance else models.profile.guidance
    return {
        "version": VERSION,
        "profile": models.profile.name,
        "revision": models.revision,
        "prompt": clean_prompt(request.prompt),
        "references": [content_hash(picture) for picture in request.references],
        "balance": [plain(b) for b in request.balance],
        "stage_steps": list(counts),
        "steps": request.steps,
        "cfg": plain(request.cfg),
        "guidance": plain(guidance),
        "seed": request.seed,
        "height": request.height,
        "width": request.width,
        "eta": plain(request.eta),
        "uncond": request.uncond,
        "late_text": request.late_text,
        "earlier": [[plain(number) for number in row] for row in request.earlier],
        "software": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }


def _start(request: Request, resume: Resume | None) -> int:
    if resume is None:
        return 0
    tokens = request.height * request.width // 256
    if not 0 < resume.step < request.steps or resume.img.shape[1] != tokens:
        raise RequestError("resume", value=resume.step, total=request.steps)
    return resume.step


def default_request(profile: Profile, **asked: Any) -> Request:
    """A request with the profile's defaults where nothing was asked; `asked` are fields of Request."""
    defaults: dict[str, Any] = {
        "profile": profile.name, "balance": profile.balance, "steps": profile.steps, "cfg": profile.cfg,
        "guidance": profile.guidance, "seed": 0, "height": profile.size, "width": profile.size,
        "eta": profile.eta, "uncond": profile.uncond, "late_text": profile.late_text,
    }  # fmt: skip
    return Request(**(defaults | asked))


def settings(profile: Profile, asked: dict[str, Any]) -> dict[str, Any]:
    """What all pictures of a run are drawn with, as JSON has it: the profile's defaults, changed by `asked` (fields of
    Request)."""
    request = default_request(profile, **{"prompt": "", "references": ()} | asked)
    held = {name: getattr(request, name) for name in OPTIONS if name not in ("prompt", "seed")}
    held["stage_steps"] = plan(profile, request)[1]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in held.items()}
