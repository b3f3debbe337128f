"""Uploads to clean RGB pictures, pictures to and from tensors, and tensors seen through an affine map."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from .request import RequestError

MAX_PIXELS = 64_000_000  # a 64-megapixel photo; more is refused before it is decoded
MAX_BYTES = 50_000_000
KEPT_SIDE = 2048  # the long side that later steps see at most
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")  # others, EPS above all, run foreign programs
DECODING = threading.BoundedSemaphore(2)  # pictures at once: one of MAX_PIXELS takes more than a gigabyte meanwhile
COLOURS = np.ascontiguousarray(51 * np.indices((6, 6, 6)).reshape(3, -1, 1).transpose(1, 2, 0), dtype=np.uint8)
NEAR = 2  # levels by which the numbers of a profile that is sRGB's by another name may differ
# for the whole process, in bytes: with the megabyte of Pillow's own a PNG with a large colour profile is refused
PngImagePlugin.MAX_TEXT_CHUNK = 4 * 2**20
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, TypeError, LookupError, struct.error)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An upload, cleaned. `picture` is RGB: first frame, turned upright, transparency on white, at most KEPT_SIDE
    pixels on the long side, in sRGB by the colour profile of the file. `alpha` is its opacity at the same size (mode L,
    255 opaque), None where nothing was transparent. `animated`: the file has more frames than the one taken."""

    picture: Image.Image
    alpha: Image.Image | None
    animated: bool


def open_picture(source: str | Path | bytes | Image.Image, name: str = "") -> Image.Image:
    """A file, its bytes or a PIL picture as clean RGB, see Upload. Raises RequestError as open_upload does."""
    return open_upload(source, name).picture


def open_upload(source: str | Path | bytes | Image.Image, name: str = "") -> Upload:
    """A file, its bytes or a PIL picture as a clean picture and what was lost in the cleaning, decoded once. Raises
    RequestError for what is not there, no picture, damaged or too large."""
    name = name or (Path(source).name if isinstance(source, str | Path) else "The picture")
    if not isinstance(source, Image.Image):
        size = len(source) if isinstance(source, bytes) else _file_size(source, name)
        if size > MAX_BYTES:
            raise RequestError("file_too_large", value=name, size=-(-size // 1_000_000), limit=MAX_BYTES // 1_000_000)
    try:
        if isinstance(source, Image.Image):
            return _cleaned(source, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we hold our own limit
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with DECODING, Image.open(file, formats=FORMATS) as picture:
                return _cleaned(picture, name)
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        pixels = int(re.search(r"\d+", str(error))[0])  # Pillow names them, and nobody else has read them yet
        raise RequestError("picture_too_large", value=name, pixels=pixels, limit=MAX_PIXELS) from error
    except UnidentifiedImageError as error:
        raise RequestError("not_a_picture", value=name) from error
    except DAMAGED as error:
        raise RequestError("damaged_picture", value=name) from error


def _file_size(source: str | Path, name: str) -> int:
    if not os.path.exists(source):
        raise RequestError("no_file", value=name)
    if not os.path.isfile(source):
        raise RequestError("not_a_picture", value=name)
    return os.path.getsize(source)


def _cleaned(opened: Image.Image, name: str) -> Upload:
    picture, alpha = opened, None
    pixels = picture.width * picture.height
    if pixels > MAX_PIXELS:
        raise RequestError("picture_too_large", value=name, pixels=pixels, limit=MAX_PIXELS)
    if picture.format == "JPEG":
        scale = KEPT_SIDE / max(picture.size)  # decode a large photo at a half, a quarter or an eighth of its size
        picture.draft("RGB", (max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":  # 16-bit and float greys
        values = np.array(picture, dtype=np.float64)
        values /= 65535.0 if picture.mode.startswith("I;16") or values.max() > 255 else 255.0
        values *= 255
        picture = Image.fromarray(values.clip(0, 255, out=values).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    to_srgb = _to_srgb(opened.info.get("icc_profile"), picture.mode)
    picture = picture.convert(to_srgb.input_mode if to_srgb else "RGB")
    picture.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    clean = Image.new("RGB", picture.size)  # without metadata
    clean.paste(to_srgb.apply(picture) if to_srgb else picture)
    if alpha is not None:
        alpha = None if alpha.getextrema()[0] == 255 else alpha.resize(clean.size, Image.Resampling.BOX)
    return Upload(picture=clean, alpha=alpha, animated=_has_more_frames(opened))


def _to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What brings the numbers of a file's colour profile to sRGB's. A phone's are those of Display P3, and an artist's
    often Adobe RGB's: taken for sRGB they would be dull. None where they are sRGB's, or the profile is damaged or
    another mode's."""
    if not profile:
        return None
    try:
        colours = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        given = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L"}.get(colours.profile.xcolor_space.strip())
        if given != mode and (given != "RGB" or mode in ("CMYK", "LAB")):
            return None
        transform = ImageCms.buildTransform(colours, ImageCms.createProfile("sRGB"), given, "RGB")
        if given == "RGB":
            moved = np.asarray(ImageCms.applyTransform(Image.fromarray(COLOURS), transform)).astype(int) - COLOURS
            return transform if abs(moved).max() > NEAR else None
        return transform
    except (ImageCms.PyCMSError, *DAMAGED):
        return None


def _has_more_frames(opened: Image.Image) -> bool:
    """Asked after the first frame is decoded: a GIF has to be read on for the answer, and a damaged second frame is no
    damage to the first. Not counted, since that would read the whole file."""
    if opened.format == "MPO":  # a camera's photo with a second one for depth or 3D, no animation to its owner
        return False
    try:
        return bool(getattr(opened, "is_animated", False))
    except DAMAGED:
        return True


def content_hash(picture: Image.Image) -> str:
    """The first 16 hex digits of the SHA-256 of a clean picture's size and pixels."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()[:16]


def fitted(picture: Image.Image, long_side: int, multiple: int) -> Image.Image:
    """The picture with its long side brought to `long_side`, both sides rounded to a multiple (at least one)."""
    scale = long_side / max(picture.size)
    width, height = (max(multiple, round(side * scale / multiple) * multiple) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def squared(picture: Image.Image) -> Image.Image:
    """The picture on a square canvas, see padded."""
    return padded(picture, 1, 1)


def padded(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture on a canvas of the proportions width : height, its border colours stretched outwards, nothing cut
    off."""
    across = max(picture.width, round(picture.height * width / height))
    down = max(picture.height, round(picture.width * height / width))
    if (across, down) == picture.size:
        return picture
    above, left = (down - picture.height) // 2, (across - picture.width) // 2
    padding = ((above, down - picture.height - above), (left, across - picture.width - left), (0, 0))
    return Image.fromarray(np.pad(np.asarray(picture), padding, mode="edge"))


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (1, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_picture(pixels: Tensor) -> Image.Image:
    """A tensor (1, 3, H, W) in [-1, 1] as an RGB picture."""
    values = ((pixels[0].float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).cpu().contiguous().numpy())


def moved(pixels: Tensor, theta: Tensor, size: int | None = None) -> Tensor:
    """Pictures (B, C, H, W) seen through `theta` (B, 2, 3), as large as they are or (B, C, size, size), mirrored beyond
    their edges; in float32 whatever autocast says, since bfloat16 knows no third of a pixel."""
    height, width = (size, size) if size else pixels.shape[-2:]
    with torch.autocast(pixels.device.type, enabled=False):
        grid = F.affine_grid(theta, [*pixels.shape[:2], height, width], align_corners=False)
        return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
