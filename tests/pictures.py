"""Pictures to look at: sharp and bright ones of which nothing is to be said, and ways to spoil them."""

import io
import random

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
