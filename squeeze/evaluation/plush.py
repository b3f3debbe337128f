"""How well the embedded model keeps the toy and follows the prompt, read by the probe on held-out toys and prompts.

One picture a case, seed = case number. The probe takes no part in training or choosing the generator.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from ..checks import near_copy
from ..events import Finished
from ..images import to_picture, to_tensor
from ..models.loading import Models
from ..pipeline import default_request, generate
from ..plush.language import ANSWERS, Question, Wish, ask_picture, ask_request, say
from ..plush.probe import Probe, Reading, degrees_between
from ..plush.world import FACINGS, facing_of, render, visible
from ..training.data import IDENTITY, Case, draw_cases, draw_labelled, to_unit

PROMPT = ("place", "facing", "hat", "size")
JOINT = ("place", "facing", "hat", "body", "pattern")
CASES_SEED = 77_000_000  # apart from every seed that training draws from
BLIND_RECALL = 0.079  # of facings drawn without regard to the reference, by the world's distribution of azimuths
BARE_SHARE = 0.35  # share of scenes without a hat: the best blind guess


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One case's outcome: the picture, the reference it started from, the prompt, and which attributes are right
    (None: not asked for, or hidden from view in a true picture of the case)."""

    case: int
    prompt: str
    reference: Image.Image
    picture: Image.Image
    right: dict[str, bool | None]
    needs_picture: bool
    copied: bool
    turned: float  # degrees between the facing in the reference and in the picture


def evaluate(models: Models, probe: Probe, count: int, free: bool = False, **asked: Any) -> Iterator[Drawn]:
    """Draws the first `count` held-out cases with the profile's defaults, changed by `asked` (fields of Request); with
    `free` the prompts leave the facing open, so that it shows whether it is copied from the reference."""
    size = models.profile.size
    cases = draw_cases(count, CASES_SEED + 3 if free else CASES_SEED, held_out=True)
    if free:
        rng = random.Random(CASES_SEED)
        cases = replace(cases, wishes=[_without_facing(wish, rng) for wish in cases.wishes])
    references = render(cases.toys, cases.references, size).pixels
    seen = visible(render(cases.toys, cases.targets, size).coverage)
    for case in range(count):
        reference = to_picture(references[case : case + 1] * 2 - 1)
        wish = cases.wishes[case]
        request = default_request(
            models.profile, **{"prompt": wish.text, "references": (reference,), "seed": case, "previews": False} | asked
        )
        picture = next(e.image for e in generate(models, request) if isinstance(e, Finished))
        read = probe.read(to_tensor(picture))
        right = {
            name: None if getattr(wish, name) is None else _reads(read, name) == getattr(wish, name) for name in PROMPT
        }
        for name in IDENTITY:
            shown = bool(seen[name][case])
            right[name] = _reads(read, name) == int(getattr(cases.toys, name)[case]) if shown else None
        yield Drawn(
            case=case, prompt=wish.text, reference=reference, picture=picture, right=right,
            needs_picture=bool(wish.needs_picture), copied=near_copy(picture, reference),
            turned=float(degrees_between(read.azimuth, cases.references.azimuth[case])[0]),
        )  # fmt: skip


def _without_facing(wish: Wish, rng: random.Random) -> Wish:
    text = say(rng, place=wish.place, facing=None, hat=wish.hat, size=None)
    return Wish(text=text, place=wish.place, facing=None, hat=wish.hat, size=None)


def _reads(read: Reading, name: str) -> int:
    return int(facing_of(read.azimuth)[0]) if name == "facing" else int(read.index[name][0])


def chance(name: str) -> float:
    """The rate of the best blind guess."""
    if name == "hat":
        return BARE_SHARE
    return 1 / (len(FACINGS) if name == "facing" else len(ANSWERS[name]))


def summary(drawn: list[Drawn]) -> dict[str, Any]:
    """Rates over the cases that ask for or can show each attribute, with the number of cases and the chance of a
    blind guess."""
    rates: dict[str, Any] = {}
    for name in (*PROMPT, *IDENTITY):
        judged = [d.right[name] for d in drawn if d.right[name] is not None]
        rates[name] = {
            "rate": _share(judged), "interval": _interval(judged), "cases": len(judged),
            "chance": round(chance(name), 3),
        }  # fmt: skip
    relative = [d for d in drawn if d.needs_picture]
    joint = [all(d.right[name] is not False for name in JOINT) for d in drawn]
    return {
        "cases": len(drawn),
        "rates": rates,
        "joint": _share(joint),
        "joint_interval": _interval(joint),
        "prompt_mean": _mean(rates, PROMPT[:3]),
        "identity_mean": _mean(rates, IDENTITY),
        "needs_picture": {
            "rate": _share([all(d.right[name] is not False for name in PROMPT) for d in relative]),
            "cases": len(relative),
        },
        "near_copies": _share([d.copied for d in drawn]),
    }


def copy_paste(drawn: list[Drawn]) -> dict[str, Any]:
    """How the toy stands in pictures whose prompts leave the facing open, in the paper's form: degrees turned from the
    reference on average, and the share within k degrees of it averaged over k = 5, 10, 15, 20."""
    turned = [d.turned for d in drawn]
    recall = [sum(angle <= k for angle in turned) / len(turned) for k in (5, 10, 15, 20)]
    return {
        "azimuth_difference": round(sum(turned) / len(turned), 1), "recall": round(sum(recall) / 4, 4),
        "cases": len(turned),
    }  # fmt: skip


def _interval(values: list[bool | None]) -> list[float] | None:
    """The 95 % bootstrap interval of a rate over cases, each a toy of its own; 2,000 fixed resamples."""
    if not values:
        return None
    hits = torch.tensor([float(bool(value)) for value in values])
    drawn = torch.randint(len(hits), (2000, len(hits)), generator=torch.Generator().manual_seed(0))
    means = hits[drawn].mean(1)
    return [round(float(means.quantile(q)), 4) for q in (0.025, 0.975)]


def _share(values: list[bool | None]) -> float | None:
    return round(sum(map(bool, values)) / len(values), 4) if values else None


def _mean(rates: dict[str, Any], names: tuple[str, ...]) -> float | None:
    found = [rates[name]["rate"] for name in names if rates[name]["rate"] is not None]
    return round(sum(found) / len(found), 4) if found else None


# --- the parts by themselves ----------------------------------------------------------------------------------------


def evaluate_parts(models: Models, probe: Probe, full: InternVLForConditionalGeneration, count: int) -> dict[str, Any]:
    """The instruments and frozen parts on held-out renders: probe, VAE, MLLM. `full` is the MLLM with its lm_head."""
    size = models.profile.size
    truth = draw_labelled(count, CASES_SEED + 1, size, held_out=True)
    pixels = to_unit(truth["pixels"])
    restored = torch.cat([models.vae.restored(part) for part in pixels.split(64)])
    error = ((restored - pixels) / 2).square().mean((1, 2, 3))
    return {
        "cases": count,
        "probe": _probe_figures(probe, pixels, truth),
        "probe_after_vae": _probe_figures(probe, restored, truth),
        "vae_psnr_db": round(float((-10 * error.log10()).mean()), 2),
        "mllm_questions": answered(models, full, draw_cases(count, CASES_SEED + 2, held_out=True)),
    }


def _probe_figures(probe: Probe, pixels: Tensor, truth: dict[str, Tensor]) -> dict[str, float]:
    reads = [probe.read(part) for part in pixels.split(64)]
    figures = {}
    for name in reads[0].index:
        index = torch.cat([read.index[name] for read in reads])
        judged = truth[name] >= 0
        figures[name] = round(float((index == truth[name])[judged].float().mean()), 4)
    error = degrees_between(torch.cat([read.azimuth for read in reads]), truth["azimuth"])
    return figures | {"facing_error_degrees": round(float(error.median()), 2)}


@torch.inference_mode()
def answered(models: Models, full: InternVLForConditionalGeneration, cases: Case) -> dict[str, float | None]:
    """The share of questions answered right, word for word, by greedy decoding: about the picture, about the request,
    all."""
    drawn = render(cases.toys, cases.references, models.profile.size)
    seen = visible(drawn.coverage)
    rng = random.Random(0)
    right: dict[str, list[bool]] = {"picture": [], "request": []}
    for case, wish in enumerate(cases.wishes):
        known = {name: int(getattr(cases.references, name)[case]) for name in PROMPT}
        known |= {name: int(getattr(cases.toys, name)[case]) for name in IDENTITY if seen[name][case]}
        pixels = models.mllm.pixels([to_picture(drawn.pixels[case : case + 1] * 2 - 1)])
        asked = [("picture", q) for q in ask_picture(known, rng)] + [("request", q) for q in ask_request(wish, rng)]
        says = _answers(models, full, pixels, wish.text, [question for _, question in asked])
        for (kind, question), said in zip(asked, says, strict=True):
            right[kind].append(said == question.answer)
    every = right["picture"] + right["request"]
    return {"picture": _share(right["picture"]), "request": _share(right["request"]), "all": _share(every)}


def _answers(
    models: Models, full: InternVLForConditionalGeneration, pixels: Tensor, prompt: str, questions: list[Question]
) -> list[str]:
    """Greedy answers, each question put by itself after the picture and the prompt."""
    tokenizer = models.mllm.tokenizer
    texts = [tokenizer.encode(f"{prompt} . {question.text}", add_special_tokens=False) for question in questions]
    longest, before = max(map(len, texts)), models.mllm.picture_ids()
    pad, stop = tokenizer.pad_token_id, tokenizer.encode(".", add_special_tokens=False)[0]
    ids = torch.tensor([[pad] * (longest - len(text)) + before + text for text in texts])
    out = full.generate(
        input_ids=ids, attention_mask=(ids != pad).long(), pixel_values=pixels.expand(len(texts), -1, -1, -1),
        max_new_tokens=4, do_sample=False, eos_token_id=stop, pad_token_id=pad,
    )  # fmt: skip
    said = out[:, ids.shape[1] :].tolist()
    return [tokenizer.decode([token for token in row if token not in (pad, stop)]) for row in said]


def load_instruments(models: Models) -> tuple[Probe, InternVLForConditionalGeneration]:
    """The probe and the MLLM with its lm_head, from the profile's folder, in float32 on the CPU."""
    folder = models.profile.folder
    probe = Probe.from_pretrained(folder / "probe", torch_dtype=torch.float32).eval()
    full = InternVLForConditionalGeneration.from_pretrained(folder / "mllm", dtype=torch.float32).eval()
    return probe, full


def as_markdown(figures: dict[str, Any]) -> str:
    """The summary as a table, chance beside each rate."""
    lines = ["| attribute | right | 95 % interval | cases | chance |", "|---|---:|---:|---:|---:|"]
    for name, row in figures["rates"].items():
        rate = "-" if row["rate"] is None else f"{row['rate']:.1%}"
        low, high = row["interval"] or (0, 0)
        between = f"{low:.1%} to {high:.1%}" if row["interval"] else "-"
        lines.append(f"| {name} | {rate} | {between} | {row['cases']} | {row['chance']:.1%} |")
    for name in ("joint", "prompt_mean", "identity_mean", "near_copies"):
        value = figures[name]
        lines.append(
            f"| {name.replace('_', ' ')} | {'-' if value is None else f'{value:.1%}'} | | {figures['cases']} | |"
        )
    needs = figures["needs_picture"]
    if needs["cases"]:
        lines.append(f"| prompts that need the picture | {needs['rate']:.1%} | | {needs['cases']} | |")
    if "copy_paste" in figures:
        turned = figures["copy_paste"]
        lines += [
            f"| turned from the reference | {turned['azimuth_difference']:.1f}° | | {turned['cases']} | 90.0° |",
            f"| facing copied (recall) | {turned['recall']:.1%} | | {turned['cases']} | {BLIND_RECALL:.1%} |",
        ]
    return "\n".join(lines)


def sheet(drawn: list[Drawn], columns: int = 8, scale: int = 2) -> Image.Image:
    """References (above) and pictures (below) of all cases, in order."""
    side = drawn[0].picture.width * scale
    rows = -(-len(drawn) // columns)
    out = Image.new("RGB", (columns * (side + 4), rows * (2 * side + 10)), "white")
    for index, one in enumerate(drawn):
        left, top = index % columns * (side + 4), index // columns * (2 * side + 10)
        out.paste(one.reference.resize((side, side), Image.Resampling.LANCZOS), (left, top))
        out.paste(one.picture.resize((side, side), Image.Resampling.LANCZOS), (left, top + side + 2))
    return out
