"""The embedded model's instruments and frozen parts by themselves, on held-out renders."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from ..images import to_picture
from ..models.loading import Models
from ..models.parts import read_model
from ..models.profiles import PROFILES, Profile
from ..models.sources import Located, read_part
from ..plush.language import Question, ask_picture, ask_request
from ..plush.probe import Probe, degrees_between
from ..plush.render import render, visible
from ..training.data import IDENTITY, Case, draw_cases, draw_labelled, draw_parts, parts_of, to_unit
from .plush import CASES_SEED, PROMPT, share


def evaluate_parts(models: Models, probe: Probe, full: InternVLForConditionalGeneration, count: int) -> dict[str, Any]:
    """The instruments and frozen parts on held-out renders: probe, VAE, MLLM. `full` is the MLLM with its lm_head."""
    size = models.profile.size
    truth = draw_labelled(count, CASES_SEED + 1, size, held_out=True)
    pixels = to_unit(truth["pixels"])
    restored = torch.cat([models.vae.restored(part).cpu() for part in pixels.split(64)])  # as the probe
    error = ((restored - pixels) / 2).square().mean((1, 2, 3))
    cases = draw_cases(count, CASES_SEED + 2, held_out=True)
    return {
        "cases": count,
        "probe": _probe_figures(probe, pixels, truth),
        "probe_after_vae": _probe_figures(probe, restored, truth),
        "vae_psnr_db": round(float((-10 * error.log10()).mean()), 2),
        "mllm_questions": answered(models, full, cases),
        "mllm_questions_cropped": answered(models, full, cases, crop=True),
    }


def _probe_figures(probe: Probe, pixels: Tensor, truth: dict[str, Tensor]) -> dict[str, float | None]:
    reads = [probe.read(part) for part in pixels.split(64)]
    figures: dict[str, float | None] = {}
    for name in reads[0].index:
        index = torch.cat([read.index[name] for read in reads])
        judged = truth[name] >= 0
        figures[name] = share((index == truth[name])[judged].tolist())
    error = degrees_between(torch.cat([read.azimuth for read in reads]), truth["azimuth"])
    off = (torch.cat([read.proportions for read in reads]) - truth["proportions"]).abs().mean()
    return figures | {"proportions_off": round(float(off), 4), "facing_error_degrees": round(float(error.median()), 2)}


@torch.inference_mode()
def answered(models: Models, full: InternVLForConditionalGeneration, cases: Case, crop: bool = False) -> dict[str, Any]:
    """The share of questions answered right, word for word, by greedy decoding: about the picture, about the request,
    all; and `about` each attribute that the picture shows, as it is framed. With `crop` the picture is a part of it
    that holds the toy."""
    drawn = render(cases.toys, cases.references, models.profile.size)
    if crop:
        drawn = parts_of(drawn, draw_parts(drawn, torch.Generator().manual_seed(CASES_SEED)))
    seen = visible(cases.toys, drawn)
    rng = random.Random(0)
    scene = [name for name in PROMPT if name != "size"]  # which no picture shows once it is framed
    right: dict[str, list[bool]] = {name: [] for name in (*scene, *IDENTITY, "request")}
    for case, wish in enumerate(cases.wishes):
        known = {name: int(getattr(cases.references, name)[case]) for name in scene}
        known |= {name: int(getattr(cases.toys, name)[case]) for name in IDENTITY if seen[name][case]}
        pixels = models.mllm.pixels([models.mllm.view(to_picture(drawn.pixels[case : case + 1] * 2 - 1))])
        asked = [("picture", q) for q in ask_picture(known, rng)] + [("request", q) for q in ask_request(wish, rng)]
        says = _answers(models, full, pixels, wish.text, [question for _, question in asked])
        for (kind, question), said in zip(asked, says, strict=True):
            right[question.about if kind == "picture" else kind].append(said == question.answer)
    about = {name: right[name] for name in (*scene, *IDENTITY)}
    picture = [said for one in about.values() for said in one]
    return {
        "picture": share(picture), "request": share(right["request"]), "all": share(picture + right["request"]),
        "about": {name: share(said) for name, said in about.items()},
    }  # fmt: skip


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


def load_probe(profile: Profile) -> Probe:
    """The probe that lies beside the profile's weights, or else the shipped one, in float32 on the CPU. Raises
    LoadError where it is damaged or another version's."""
    if not (profile.folder / "probe").is_dir():
        profile = PROFILES["plush"]
    return read_part(_beside(profile, "probe"), lambda path: read_model(Probe, path, "float32")).eval()


def load_full(models: Models) -> InternVLForConditionalGeneration:
    """The profile's MLLM with its lm_head, in float32 on the CPU."""
    kind = InternVLForConditionalGeneration
    return read_part(
        _beside(models.profile, "mllm"), lambda path: kind.from_pretrained(path, dtype=torch.float32)
    ).eval()


def _beside(profile: Profile, name: str) -> Located:
    restore = f"Restore it from the project's repository, or train it: python -m squeeze train plush --part {name}"
    return Located(path=profile.folder / name, origin="", restore=restore)
