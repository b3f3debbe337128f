"""Pictures to look at: sharp and bright ones of which nothing is to be said, and ways to spoil them."""

import io
import random
import struct

import numpy as np
from PIL import Image, ImageDraw

SIDE = 256  # pixels that the models of most tests with these pictures want


def data(picture, kind="PNG", **options):
    """A picture as the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pixels(picture):
    return np.asarray(picture).astype(int)


def good(width=400, height=300, seed=0):
    """Sharp boxes in bright colours from edge to edge."""
    rng = random.Random(seed)
    picture = Image.new("RGB", (width, height), (90, 140, 200))
    draw = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y, w, h = rng.randrange(-20, width), rng.randrange(-20, height), rng.randrange(5, 90), rng.randrange(5, 90)
        draw.rectangle((x, y, x + w, y + h), fill=tuple(rng.randrange(256) for _ in range(3)))
    return picture


def ball(span, side=400, background=(255, 255, 255), colour=(200, 60, 40), at=(0.5, 0.5)):
    """A disc that spans that share of a square frame."""
    picture = Image.new("RGB", (side, side), background)
    centre, radius = [place * side for place in at], span * side / 2
    corners = [c - radius for c in centre] + [c + radius for c in centre]
    ImageDraw.Draw(picture).ellipse(corners, fill=colour)
    return picture


def see_through(clear, hidden=(200, 30, 30)):
    """Boxes, the left `clear` share of them transparent with a colour hidden under it."""
    picture = good().convert("RGBA")
    width = round(clear * picture.width)
    picture.paste((*hidden, 0), (0, 0, width, picture.height))
    return picture


def profile(space, tags):
    """An ICC profile (version 2) of a colour space with four letters, from the content of its tags."""
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name.encode() + struct.pack(">II", at + len(body), len(content))
        body += content
    connected = b"Lab " if space == "CMYK" else b"XYZ "
    size = struct.pack(">I", at + len(body))
    head = size + bytes(4) + b"\x02\x40\0\0" + b"mntr" + space.encode() + connected + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)  # the white of D50
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def described(text):
    return b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text.encode() + bytes(1 + 78)


def display_p3(gamma=563):
    """A profile with the primaries of Display P3 (adapted to D50) and a plain gamma, in parts of 256; it is named as
    some that are not sRGB's are."""
    columns = {"rXYZ": (0.5151, 0.2412, -0.0011), "gXYZ": (0.2919, 0.6922, 0.0419), "bXYZ": (0.1572, 0.0666, 0.7841)}
    tags = {"desc": described("Display P3, not sRGB"), "wtpt": _xyz((0.9642, 1.0, 0.8249))}
    tags |= {name: _xyz(values) for name, values in columns.items()}
    return profile("RGB ", tags | {f"{one}TRC": _curve(gamma) for one in "rgb"})


def grey(gamma):
    """A profile of grey, likewise."""
    return profile("GRAY", {"desc": described("Grey"), "wtpt": _xyz((0.9642, 1.0, 0.8249)), "kTRC": _curve(gamma)})


def _curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, gamma)


def _xyz(values):
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def one_ink(lab):
    """A CMYK profile in which paper is white, K black, and any other ink in full one colour: 8-bit Lab."""
    black = bytes((0, 128, 128))
    grid = bytes((255, 128, 128)) + black + (bytes(lab) + black) * 7
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    return profile("CMYK", {"desc": described("One ink"), "A2B0": table + ramp * 4 + grid + ramp * 3})
