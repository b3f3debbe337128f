"""Photos of real things as references of the embedded model: each must give a toy, the nearest it can draw, not noise.

Nothing in a photo is true of the embedded world, so what is measured is how sure the probe is of what it sees.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..events import finished
from ..images import open_picture, to_tensor
from ..models.loading import Models
from ..pipeline import default_request, generate
from ..plush.language import say
from ..plush.probe import Probe
from ..plush.world import FACINGS, PLACES
from .subjects import Bench

SURE = 0.8  # mean confidence from which a picture counts as a toy
HIDDEN = ("tail",)  # from the front, the way all these toys are asked to face


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One subject's outcome: the photo as the models get it, the picture, and how sure the probe is of it, in [0, 1]:
    the mean over the attributes that show."""

    subject: str
    prompt: str
    reference: Image.Image
    picture: Image.Image
    confidence: float


def evaluate(models: Models, probe: Probe, bench: Bench, **asked: Any) -> Iterator[Photo]:
    """Draws one picture from the first photo of each subject, seen from the front; place, words and seed follow from
    its name, whatever else the folder holds. `asked` are fields of Request."""
    for subject in bench.subjects:
        number = zlib.crc32(subject.name.encode())
        prompt = say(
            random.Random(number), place=number % len(PLACES), facing=FACINGS.index("front"), hat=None, size=None
        )
        photo = open_picture(subject.photos[0])
        request = default_request(
            models.profile, **{"prompt": prompt, "references": (photo,), "seed": number, "previews": False} | asked
        )
        picture = finished(generate(models, request)).image
        read = probe.read(to_tensor(picture)).confidence
        sure = [float(value) for name, value in read.items() if name not in HIDDEN]
        yield Photo(
            subject=subject.name, prompt=prompt, reference=models.profile.framed(photo), picture=picture,
            confidence=round(sum(sure) / len(sure), 4),
        )  # fmt: skip


def summary(drawn: list[Photo], skipped: Sequence[str] = ()) -> dict[str, Any]:
    """How many pictures the probe is sure of, how sure it is of each, and what of the folder was `skipped`."""
    return {
        "photos": len(drawn),
        "sure": sum(one.confidence >= SURE for one in drawn),
        "least": SURE,
        "confidence": {one.subject: one.confidence for one in drawn},
        "skipped": list(skipped),
    }


def as_markdown(figures: dict[str, Any]) -> str:
    """The summary as a table."""
    head = f"The probe is sure (at least {figures['least']:.0%}) of {figures['sure']} of {figures['photos']} pictures."
    rows = [f"| {name} | {value:.0%} |" for name, value in figures["confidence"].items()]
    skipped = [f"- {sentence}" for sentence in figures["skipped"]]
    if skipped:
        skipped = ["", f"Skipped: {len(skipped)}", "", *skipped]
    return "\n".join([head, "", "| photo of | confidence |", "|---|---:|", *rows, *skipped])
