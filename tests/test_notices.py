"""Each notice is said of the pictures it is about, and of no good one; files that mean harm do none."""

import io
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import SIDE, ball, data, good, pixels, see_through
from PIL import Image, ImageDraw, ImageFilter
from tiny import random_picture

from squeeze import checks
from squeeze.checks import SENTENCES, inspect, subject_span
from squeeze.images import open_picture
from squeeze.request import RequestError

PHOTOS = os.environ.get("DREAMBENCH_DIR")


@pytest.mark.parametrize(
    "picture",
    [good(), good(300, 400, 1), ball(0.6), ball(0.5, background=(0, 0, 0)), ball(0.9), random_picture(3, 400, 300)],
    ids=["boxes", "tall", "ball", "ball on black", "large ball", "grain"],
)
def test_a_good_picture_gets_no_notice(said, picture):
    for source in (picture, data(picture), data(picture, "JPEG", quality=90)):
        assert said(source) == set()
        assert said(source, square=False) == set()


@pytest.mark.parametrize("span", [0.05, 0.1, 0.2, 0.28])
@pytest.mark.parametrize("background", [(255, 255, 255), (20, 60, 30), (128, 128, 128)])
def test_a_small_subject(said, span, background):
    for at in ((0.5, 0.5), (0.2, 0.75)):
        assert said(ball(span, background=background, at=at)) == {"small_subject"}


def test_the_span_of_a_subject():
    for span in (0.1, 0.25, 0.5, 0.8):
        assert subject_span(ball(span, side=200)) == pytest.approx(span, rel=0.1)
    long = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(long).rectangle((20, 95, 179, 104), fill="black")
    assert abs(subject_span(long) - 0.8) < 0.02, "a thin subject is as large as it is long"


def test_a_small_subject_before_a_gradient(said):
    ramp = np.linspace(60, 220, 400)
    sky = np.stack([ramp[:, None] + ramp / 10, ramp[::-1, None] + 0 * ramp, np.full((400, 400), 120)], -1)
    picture = Image.fromarray(sky.clip(0, 255).astype(np.uint8))
    picture.paste(ball(1, 70, (150, 40, 60)), (100, 200))
    assert said(picture) == {"small_subject"}, "a smooth gradient is an even background"


def test_nothing_is_said_of_a_subject_before_a_busy_background(said):
    picture = good()
    picture.paste(ball(0.9, 60), (170, 120))
    assert subject_span(picture.resize((200, 150))) is None
    assert "small_subject" not in said(picture)


def test_a_speck_is_no_subject():
    picture = ball(0.2, side=200)
    picture.putpixel((190, 12), (0, 0, 0))
    assert subject_span(picture) < 0.25


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_transparency(said, wanting, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    file = data(see_through(0.3), kind, **options)
    assert said(file) == {"transparent"}
    looked = inspect(wanting(), file)
    assert looked.notices[0].values == {"percent": 30}
    assert pixels(looked.views.vae)[64:-64, :50].min() == 255, "the view shows what was hidden under transparency"


def test_what_is_opaque_or_cropped_away_is_not_transparent(said):
    assert said(data(good().convert("RGBA"))) == set(), "an alpha channel by itself is no transparency"
    assert said(data(see_through(0.005))) == set(), "a corner of half a percent is nobody's concern"
    file = data(see_through(0.3))
    assert said(file, box=(0.3, 0, 1, 1)) == set()
    assert said(file, box=(0.2, 0, 1, 1)) == {"transparent"}


def test_half_transparent_counts_half(wanting):
    picture = good().convert("RGBA")
    picture.putalpha(128)
    assert inspect(wanting(), data(picture)).notices[0].values == {"percent": 50}


@pytest.mark.parametrize("picture", [good(), ball(0.6)], ids=["boxes", "ball"])
def test_blur(said, picture):
    for sigma in (4, 6, 10):
        assert said(picture.filter(ImageFilter.GaussianBlur(sigma))) == {"blurred"}, f"{sigma} pixels are not seen"
    assert said(picture.filter(ImageFilter.GaussianBlur(1))) == set()


def test_a_blur_that_vanishes_at_the_models_size_is_none(said):
    soft = good().resize((1600, 1200), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(5))
    assert said(soft, reference=1024) == {"blurred"}
    assert said(soft, reference=128) == set(), "5 of 1600 pixels are less than one of 128"


def test_sharpness_depends_on_neither_contrast_nor_size():
    picture = good(300, 300)
    pale = picture.point(lambda v: 100 + v // 5)
    sharp = checks.sharpness(picture, 300)
    assert abs(checks.sharpness(pale, 300) / sharp - 1) < 0.1
    assert abs(checks.sharpness(picture.resize((1200, 1200), Image.Resampling.NEAREST), 300) / sharp - 1) < 0.2


def test_low_resolution(said, wanting):
    assert said(good(180, 120)) == {"low_resolution"}
    assert said(good(200, 120)) == set(), "three quarters of the size are near enough"
    assert said(good(180, 120), reference=128) == set()
    assert said(good(), box=(0, 0, 0.4, 0.5)) == {"low_resolution"}, "a crop is enlarged too"
    (notice,) = inspect(wanting(), good(180, 120)).notices
    assert notice.values == {"width": 180, "height": 120, "wanted": SIDE}


@pytest.mark.parametrize("size", [(800, 300), (300, 800)])
def test_a_strip(said, wanting, size):
    picture = good(*size)
    assert said(picture) == {"bordered"}
    assert said(picture, square=False) == {"squeezed"}
    percents = [inspect(wanting(square=square), picture).notices[0].values["percent"] for square in (True, False)]
    assert percents == [62, 38], "of the square, 500 of 800 rows are border; the long side shrinks to 300 of 800"
    assert said(good(480, 270)) == set(), "16:9 is usual"
    assert said(picture, box=(0, 0, 300 / size[0], 300 / size[1])) == set(), "cropping is the remedy"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_more_than_one_frame(said, kind):
    frames = [good(seed=seed) for seed in range(3)]
    moving = data(frames[0], kind, save_all=True, append_images=frames[1:])
    assert said(moving) == {"animated"}
    assert said(data(frames[0], kind)) == set(), "one frame is no animation"


def test_a_camera_photo_with_a_second_picture_inside_is_no_animation(said):
    photo = data(good(), "MPO", save_all=True, append_images=[good(seed=1)])
    assert Image.open(io.BytesIO(photo)).is_animated, "the test's own photo has one picture"
    assert said(photo) == set()


def test_dark_and_flat(said):
    assert said(good().point(lambda v: v // 5)) == {"dark"}
    assert said(Image.new("RGB", (300, 300))) == {"dark"}
    assert said(Image.new("RGB", (300, 300), (200, 120, 40))) == {"flat"}
    assert said(good().point(lambda v: 120 + v // 12)) == {"flat"}, "a veil over everything"
    assert said(good().point(lambda v: v // 2)) == set(), "an evening is not dark"
    assert said(ball(0.5, background=(0, 0, 0))) == set(), "a black background is not a dark picture"
    equal = Image.new("RGB", (300, 300), (255, 0, 0))
    ImageDraw.Draw(equal).rectangle((50, 50, 250, 250), fill=(0, 130, 0))
    assert said(equal) == set(), "colours of the same grey stand out"


def test_every_notice_has_its_test(said):
    everything = [
        ball(0.1), see_through(0.3), good(180, 120), good(800, 300), Image.new("RGB", (300, 300)),
        Image.new("RGB", (300, 300), "white"), good().filter(ImageFilter.GaussianBlur(6)),
        data(good(), "GIF", save_all=True, append_images=[good(seed=1)]),
    ]  # fmt: skip
    heard = set().union(*(said(source) for source in everything), said(good(800, 300), square=False))
    assert heard == set(SENTENCES)


@pytest.mark.parametrize("code", SENTENCES)
def test_every_sentence_names_a_remedy(code):
    last = SENTENCES[code].removesuffix(".").split(". ")[-1]
    assert any(word in last for word in ("Use a", "Use one", "Crop", "save that", "put", "Brighten")), last
    assert len(SENTENCES[code]) < 160, "a quiet list has short lines"


# --- hostile files --------------------------------------------------------------------------------------------------


def test_a_gif_of_500_frames_costs_its_first(said):
    frames = [Image.fromarray(np.full((200, 300), seed % 256, np.uint8)) for seed in range(500)]
    file = data(good(300, 200), "GIF", save_all=True, append_images=frames)
    began = time.monotonic()
    assert said(file) == {"animated"}
    assert time.monotonic() - began < 1, "the frames are being counted or decoded"


def test_a_damaged_second_frame_does_no_harm(wanting):
    frames = [good(seed=seed) for seed in range(2)]
    first, both = (data(frames[0], "GIF", save_all=True, append_images=frames[1:n]) for n in (1, 2))
    for cut in range(len(first), len(both), 997):
        looked = inspect(wanting(), both[:cut] + bytes(50))
        assert np.array_equal(pixels(looked.picture), pixels(open_picture(first)))


def test_a_picture_that_pil_has_not_loaded_can_be_looked_at_twice(wanting):
    moving = Image.open(io.BytesIO(data(good(), "GIF", save_all=True, append_images=[good(seed=1)])))
    once, again = inspect(wanting(), moving), inspect(wanting(), moving)
    assert np.array_equal(pixels(once.picture), pixels(again.picture)), "asking for more frames moved to another"
    assert [n.code for n in again.notices] == ["animated"]


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (15, 15), (16, 16), (4000, 40), (40, 4000), (5000, 1)])
def test_pictures_of_any_shape(said, wanting, size, square):
    picture = good(*size) if max(size) > 20 else random_picture(0, *size)
    heard = said(data(picture), square=square)
    assert ("low_resolution" in heard) == (max(size) < 192)
    assert (("bordered" if square else "squeezed") in heard) == (min(size) < max(size) / 2)
    assert min(inspect(wanting(square=square), data(picture)).views.vae.size) >= 16


def test_a_wholly_transparent_picture_with_hidden_pixels(said, wanting):
    hidden = good().convert("RGBA")
    hidden.putalpha(0)
    assert said(data(hidden)) == {"transparent", "flat"}
    looked = inspect(wanting(), data(hidden))
    for view in (looked.picture, looked.views.mllm, looked.views.vae):
        assert pixels(view).min() == 255, "hidden pixels are seen"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_changed_at_random_never_escape(wanting):
    rng = random.Random(1)
    small = random_picture(9, 40, 24)
    moving = {"save_all": True, "append_images": [random_picture(8, 40, 24)]}
    files = [data(small, kind, **moving) for kind in ("GIF", "PNG", "WEBP", "TIFF", "MPO")]
    files += [data(small.convert("RGBA"), "PNG"), data(small, "JPEG")]
    outcomes = set()
    for _ in range(250):
        file = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 2, 5))):
            file[rng.randrange(len(file))] = rng.randrange(256)
        try:
            outcomes |= {n.code for n in inspect(wanting(), bytes(file)).notices}
        except RequestError as error:
            outcomes.add(error.code)
    assert outcomes >= {"low_resolution", "animated", "damaged_picture"}, "the test no longer damages anything"


@pytest.mark.parametrize(
    ("source", "says"),
    [(b"", "could not be read"), (b"text", "could not be read"), ("missing.png", "There is no file")],
)
def test_what_is_no_picture(wanting, source, says):
    with pytest.raises(RequestError, match=says):
        inspect(wanting(), source)


@pytest.mark.skipif(not PHOTOS, reason="DREAMBENCH_DIR names no folder of photos")
def test_real_photos_get_no_notice(said):
    files = sorted(Path(PHOTOS).rglob("*.jpg"))
    assert files, f"there are no photos in {PHOTOS}"
    alarms = {str(path): heard for path in files if (heard := said(path, reference=512, square=False))}
    assert len(alarms) <= len(files) // 50, f"false alarms: {alarms}"
    soft = [said(open_picture(path).filter(ImageFilter.GaussianBlur(5)), reference=512) for path in files[::4]]
    assert sum("blurred" in heard for heard in soft) > 0.9 * len(soft)
