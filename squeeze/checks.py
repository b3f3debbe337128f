"""What the models will really get of a reference, and what may come out badly because of it: said before any device
time is spent. Nothing is refused that could be drawn; a notice says what happens and what to do.

The thresholds were set on the 129 photos of 24 subjects in DreamBench, which get no notice; beside a threshold stands
the figure of the photo nearest to it (2026-11-24).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .conditioning import mllm_view
from .identity import vae_view
from .images import Upload, open_upload, squared
from .models.loading import Models
from .request import RequestError, is_number

SENTENCES: dict[str, str] = {
    "animated": (
        "The file has more than one frame; only the first is used. If another shows the subject better, save that one "
        "as a picture."
    ),
    "transparent": (
        "{percent} % of the picture is transparent; the models see white there. If the subject is white too, put "
        "another colour behind it."
    ),
    "low_resolution": (
        "The picture has only {width} × {height} pixels and is enlarged to {wanted}; the details it lacks are lost. "
        "Use a larger one."
    ),
    "bordered": (
        "The picture is so long that {percent} % of the square the models see is its stretched border. Crop it nearer "
        "to a square."
    ),
    "squeezed": (
        "The language model sees a square, so the picture's long side is squeezed to {percent} %. Crop it nearer to a "
        "square."
    ),
    "dark": "The picture is so dark that shapes and colours can hardly be told. Brighten it or use a lighter one.",
    "flat": "The picture is nearly all of one colour. Use one in which the subject stands out.",
    "small_subject": (
        "The subject seems to span only {percent} % of the picture, so the models get few pixels of it. Crop closer."
    ),
    "blurred": "The picture is blurred even at the size the models see; fine details are lost. Use a sharper one.",
}

ENLARGED = 0.75  # a long side below this share of what a model wants is worth a word
LONG = 0.5  # short side over long side from which down a picture is a strip
CLEAR = 0.01  # a share of transparency that a visitor sees
DARK = 64  # the grey, of 255, that all but 0.1 % of a dark picture do not exceed; the darkest photo's is 136
FLAT = 24  # the widest range, of 255, that a colour channel of a flat picture has; the photos' is 136
SMALL = 0.3  # share of the frame that a small subject spans at most; the photos' is .55
EVEN = 0.06  # RGB distance of an even border from a plane, root mean square, at most, over the picture's contrast
STANDS_OUT = 8.0  # RGB distance from the border's plane at which something begins to be subject
SHARP = 0.08  # second difference of the sharpest edges over the picture's contrast; the photos' is .45
LEAST_CROP = 8  # pixels
COPY_RMS = 0.08  # on a scale of [0, 1]; in the plush world the VAE's own error is .061 at most, other scenes .10 away
THUMBNAIL = 128  # pixels on the long side, at least, in which light, colours and subject are looked at


@dataclass(frozen=True, kw_only=True)
class Views:
    """A reference as the models get it: `mllm` what the vision tower, `vae` what the autoencoder sees."""

    mllm: Image.Image
    vae: Image.Image


@dataclass(frozen=True)
class Notice:
    """Something a visitor should know of a reference. `code` is a key of SENTENCES; `values` fill its sentence."""

    code: str
    values: dict[str, Any]

    def __str__(self) -> str:
        return SENTENCES[self.code].format(**self.values)


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A reference looked at: the clean picture, cropped where that was asked, which belongs into the request; the whole
    it was cropped from; what the models get of it; what there is to say, in the order of SENTENCES."""

    picture: Image.Image
    whole: Image.Image
    views: Views
    notices: tuple[Notice, ...]


def inspect(
    models: Models,
    source: str | Path | bytes | Image.Image,
    name: str = "",
    box: Any = None,
    size: tuple[int, int] | None = None,
) -> Inspection:
    """Opens an upload once, crops it to `box` (see `cropped`; None = whole) and looks at it as the models will when
    they draw a picture of `size` (see `views`); a quarter of a second on the CPU beside the decoding. Raises
    RequestError as open_upload and cropped do, and nothing else."""
    upload = open_upload(source, name)
    whole = upload.picture
    if box is not None:
        alpha = None if upload.alpha is None else cropped(upload.alpha, box)
        upload = Upload(picture=cropped(upload.picture, box), alpha=alpha, animated=upload.animated)
    seen = views(models, upload.picture, size)
    said = notices(upload, seen, models.profile.square)
    return Inspection(picture=upload.picture, whole=whole, views=seen, notices=said)


def views(models: Models, picture: Image.Image, size: tuple[int, int] | None = None) -> Views:
    """What the models get of a clean picture, pixel for pixel: conditioning and identity use the same functions. `size`
    is the drawn picture's width and height, the profile's own if left out."""
    return Views(mllm=mllm_view(models, picture, size), vae=vae_view(models, picture, size))


def cropped(picture: Image.Image, box: Any) -> Image.Image:
    """The part of a clean picture inside `box`: (left, top, right, bottom) as shares of its sides, from 0 to 1. The
    whole box leaves any picture as it is. Raises RequestError for what is no such box, or leaves fewer than LEAST_CROP
    pixels either way."""
    numbers = isinstance(box, tuple | list) and len(box) == 4 and all(map(is_number, box))
    if not numbers or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):  # NaN fails here too
        raise RequestError("crop", value=box)
    if tuple(box) == (0, 0, 1, 1):
        return picture
    corners = [round(share * side) for share, side in zip(box, picture.size * 2, strict=True)]
    width, height = corners[2] - corners[0], corners[3] - corners[1]
    if min(width, height) < LEAST_CROP:
        raise RequestError("small_crop", value=f"{width} × {height}", limit=LEAST_CROP)
    return picture.crop(corners)


def near_copy(picture: Image.Image, reference: Image.Image) -> bool:
    """Whether a result nearly equals its reference, both squared as the models see a reference and compared at the
    picture's size: root mean square difference of all channels below COPY_RMS."""
    ours = squared(picture)
    theirs = squared(reference).resize(ours.size, Image.Resampling.LANCZOS)
    difference = (np.asarray(ours, dtype=np.float32) - np.asarray(theirs, dtype=np.float32)) / 255
    return bool(np.sqrt(np.square(difference).mean()) < COPY_RMS)


# --- what there is to say -------------------------------------------------------------------------------------------


def notices(upload: Upload, seen: Views, square: bool) -> tuple[Notice, ...]:
    """What there is to say of an upload; `square` whether the profile squares references. Where there is hardly
    anything to see, subject and sharpness are not judged."""
    picture = upload.picture
    wanted = max(*seen.mllm.size, *seen.vae.size)
    found: list[tuple[str, dict[str, Any]]] = []
    if upload.animated:
        found.append(("animated", {}))
    if (clear := _clear(upload.alpha)) >= CLEAR:
        found.append(("transparent", {"percent": _percent(clear)}))
    if max(picture.size) < ENLARGED * wanted:
        found.append(("low_resolution", {"width": picture.width, "height": picture.height, "wanted": wanted}))
    if (ratio := min(picture.size) / max(picture.size)) <= LONG:
        code, share = ("bordered", 1 - ratio) if square else ("squeezed", ratio)
        found.append((code, {"percent": _percent(share)}))
    small = _thumbnail(picture)
    if lightest(small) <= DARK:
        found.append(("dark", {}))
    elif contrast(small) <= FLAT:
        found.append(("flat", {}))
    else:
        if (span := subject_span(small)) is not None and span <= SMALL:
            found.append(("small_subject", {"percent": _percent(span)}))
        if (edge := sharpness(picture, wanted)) is not None and edge < SHARP:
            found.append(("blurred", {}))
    return tuple(Notice(code, values) for code, values in found)


def lightest(picture: Image.Image) -> float:
    """The grey, 0 to 255, that 99.9 % of a picture do not exceed."""
    return float(np.percentile(np.asarray(picture.convert("L")), 99.9))


def contrast(picture: Image.Image) -> int:
    """From the least to the greatest value of a channel, 0 to 255, in the channel where they are furthest apart."""
    return max(high - low for low, high in picture.getextrema())


def subject_span(picture: Image.Image) -> float | None:
    """The share of the frame, 0 to 1, that the subject spans in width or height, whichever is more; None where that
    cannot be told: the border is not even (one colour or a smooth gradient), or nothing stands out against it."""
    pixels = np.asarray(picture, dtype=np.float32)
    height, width, _ = pixels.shape
    if min(height, width) < 16:
        return None
    rows, columns = np.mgrid[0:height, 0:width]
    thick = min(height, width) // 16
    inside = (rows >= thick) & (rows < height - thick) & (columns >= thick) & (columns < width - thick)
    # the background is a plane over the picture in each channel, fitted to the border
    places = np.stack([np.ones_like(rows), rows / height, columns / width], -1).astype(np.float32)
    plane = np.linalg.lstsq(places[~inside], pixels[~inside], rcond=None)[0]
    distance = np.linalg.norm(pixels - places @ plane, axis=-1)
    border = distance[~inside]
    if np.sqrt(np.square(border).mean()) > EVEN * contrast(picture):
        return None
    down, across = np.nonzero(distance > max(STANDS_OUT, 1.5 * np.percentile(border, 98)))
    if not len(down):
        return None
    return float(max(_span(down) / height, _span(across) / width))


def _span(places: np.ndarray) -> float:
    """How far indices reach, without the outermost hundredth on each side: a speck is no subject."""
    first, last = np.percentile(places, (1, 99))
    return last - first + 1


def sharpness(picture: Image.Image, side: int) -> float | None:
    """How abrupt the sharpest thousandth of a picture is: the Laplacian there over the picture's contrast, once the
    long side is at most `side` pixels, since a blur that vanishes when models shrink it does no harm. A step blurred by
    a Gaussian of sigma pixels gives about .24 / sigma²; a sharp picture .4 and more. None below 16 pixels."""
    if max(picture.size) > side:
        picture = picture.copy()
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    grey = np.asarray(picture.convert("L"), dtype=np.float32) / 255
    if min(grey.shape) < 16:
        return None
    laplacian = (
        4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    )  # fmt: skip
    low, high = np.percentile(grey, (0.5, 99.5))
    return float(np.percentile(np.abs(laplacian), 99.9) / max(high - low, 0.05))


def _clear(alpha: Image.Image | None) -> float:
    """The transparent share of a picture, half-transparent pixels counted half."""
    return 0.0 if alpha is None else 1 - float(np.asarray(alpha).mean()) / 255


def _thumbnail(picture: Image.Image) -> Image.Image:
    """The picture reduced by averaging, its long side below 2 THUMBNAIL pixels; neither noise nor a few stray pixels
    outlive it."""
    return picture.reduce(max(1, max(picture.size) // THUMBNAIL))


def _percent(share: float) -> int:
    return max(1, round(100 * share))
