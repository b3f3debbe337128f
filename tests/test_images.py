"""Whatever is uploaded becomes clean RGB or a sentence; pictures and tensors are one."""

import io
import os
import random
import resource
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import data, display_p3, grey, one_ink, pixels
from PIL import Image, ImageCms, ImageFile, ImageOps
from tiny import random_picture

from squeeze import images
from squeeze.images import KEPT_SIDE, content_hash, fitted, open_picture, padded, squared, to_picture, to_tensor
from squeeze.request import RequestError

T = Image.Transpose
P3_IN_SRGB = (216, 93, 97)
PHOTOS = os.environ.get("DREAMBENCH_DIR")


def refused(source):
    """The code that a source is refused with; anything but RequestError fails."""
    with pytest.raises(RequestError) as caught:
        open_picture(source)
    return caught.value.code


def grain(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- every kind of picture ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
def test_every_format_the_sentence_names(kind):
    flat = Image.new("RGB", (24, 16), (200, 40, 90))
    got = open_picture(data(flat, kind))
    assert (got.mode, got.size) == ("RGB", (24, 16)), f"{kind} is promised to the user"
    assert abs(pixels(got) - (200, 40, 90)).max() <= 8, f"{kind} came out in another colour"


def test_a_path_a_string_and_a_picture_give_the_same(tmp_path):
    picture = random_picture(1)
    picture.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), data(picture), picture):
        assert np.array_equal(pixels(open_picture(source)), pixels(picture)), f"{type(source)} was read differently"


@pytest.mark.parametrize(("kind", "near"), [("TIFF", 2), ("JPEG", 12)])
def test_cmyk(kind, near):
    picture = open_picture(data(Image.new("RGB", (16, 16), (230, 60, 20)).convert("CMYK"), kind))
    assert picture.mode == "RGB"
    assert abs(pixels(picture) - (230, 60, 20)).max() <= near, "CMYK was read inverted or not converted"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colours_of_another_profile_are_brought_to_srgb(kind):
    """By hand: (200, 100, 100) in Display P3, through XYZ, is (216, 93, 97)."""
    flat = Image.new("RGB", (24, 16), (200, 100, 100))
    got = open_picture(data(flat, kind, icc_profile=display_p3()))
    assert abs(pixels(got) - P3_IN_SRGB).max() <= (2 if kind in ("PNG", "TIFF") else 6)


def test_colours_of_srgb_by_a_profile_stay_to_the_bit():
    picture, profile = grain(64, 64), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(pixels(open_picture(data(picture, icc_profile=profile))), pixels(picture))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_greys_of_another_profile_are_brought_to_srgb(kind):
    """A linear 51 of 255, a fifth of the light, is 124 in sRGB."""
    got = open_picture(data(Image.new("L", (16, 16), 51), kind, icc_profile=grey(256)))
    assert abs(pixels(got) - 124).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_every_mode_goes_with_a_profile(mode):
    colour = (200, 100, 100)
    picture = Image.new("RGB", (24, 16), colour).convert(mode, palette=Image.Palette.ADAPTIVE)
    got = open_picture(data(picture, icc_profile=display_p3(256 if mode == "LA" else 563)))
    light = pixels(picture.convert("RGB"))[0, 0] / 255  # a grey stays one, and linear it is as bright as its number
    wanted = 255 * (1.055 * light ** (1 / 2.4) - 0.055) if mode == "LA" else P3_IN_SRGB
    assert abs(pixels(got) - wanted).max() <= 2


def test_cmyk_by_its_profile():
    """Lab (50, 68, 48) is a strong red, whatever ink it is printed with."""
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    got = open_picture(data(inks, "TIFF", icc_profile=one_ink((127, 196, 176))))
    assert abs(pixels(got) - (224, 41, 42)).max() <= 3
    paper = open_picture(data(Image.new("CMYK", (16, 16)), "TIFF", icc_profile=one_ink((127, 196, 176))))
    assert pixels(paper).min() >= 250


def test_a_profile_of_another_mode_or_a_damaged_one_is_left_alone():
    picture = random_picture(2)
    sound = display_p3()
    for other in (one_ink((0, 128, 128)), b"rubbish", sound[:90], sound[:200], sound.replace(b"XYZ ", b"ZYX ")):
        assert np.array_equal(pixels(open_picture(data(picture, icc_profile=other))), pixels(picture))
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(sound)
        for _ in range(rng.choice((1, 3, 9))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        assert open_picture(data(picture, icc_profile=bytes(damaged))).size == picture.size


def test_a_profile_as_large_as_a_printers():
    large = display_p3() + np.random.default_rng(0).bytes(3_000_000)
    assert open_picture(data(random_picture(2), icc_profile=large)).mode == "RGB"


def test_16_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    got = pixels(open_picture(data(Image.fromarray(ramp))))
    assert abs(got - np.arange(256).reshape(16, 16, 1)).max() <= 1, "16 bits must be scaled to 8, not cut at 255"


def test_a_dark_16_bit_grey_stays_dark():
    dark = Image.fromarray(np.full((8, 8), 200, np.uint16))
    assert pixels(open_picture(data(dark))).max() <= 1, "200 of 65535 is black, not light grey"


def test_32_bit_and_float_greys():
    wide = Image.fromarray(np.full((8, 8), 40000, np.int32))
    assert abs(pixels(open_picture(data(wide, "TIFF"))) - 155).max() <= 1
    real = Image.fromarray(np.full((8, 8), 128.0, np.float32))
    assert abs(pixels(open_picture(data(real, "TIFF"))) - 128).max() <= 1


def test_palette_with_a_transparent_colour():
    picture = Image.new("P", (4, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2, 1])
    got = pixels(open_picture(data(picture, transparency=1)))[0].tolist()
    assert got == [[255, 0, 0], [255, 255, 255], [0, 0, 255], [255, 255, 255]], "the transparent index must turn white"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_colours_hidden_under_alpha_are_white(mode):
    picture = Image.new("RGBA", (3, 1))
    picture.putdata([(10, 10, 10, 0), (10, 10, 10, 255), (0, 0, 0, 128)])
    got = pixels(open_picture(data(picture.convert(mode))))[0, :, 0].tolist()
    assert got[:2] == [255, 10], "alpha 0 must show white, whatever colour lies under it"
    assert abs(got[2] - 127) <= 1, "half-transparent black on white is middle grey"


def test_rgb_with_a_transparent_colour():
    picture = Image.new("RGB", (2, 1), (1, 2, 3))
    picture.putpixel((1, 0), (9, 9, 9))
    got = pixels(open_picture(data(picture, transparency=(1, 2, 3))))[0].tolist()
    assert got == [[255, 255, 255], [9, 9, 9]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    got = open_picture(data(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert (pixels(got) == (255, 0, 0)).all(), f"{kind}: not the first frame"


def test_one_bit_and_one_pixel():
    assert pixels(open_picture(data(Image.new("1", (5, 3), 1)))).min() == 255
    got = open_picture(data(Image.new("RGB", (1, 1), (1, 2, 3))))
    assert pixels(got).tolist() == [[[1, 2, 3]]]


STORED = {  # how an upright picture lies in a file with each EXIF orientation
    1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90,
    7: T.TRANSVERSE, 8: T.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", STORED)
def test_turned_upright(orientation, kind):
    upright = random_picture(3, 48, 32)
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    got = open_picture(data(upright if turn is None else upright.transpose(turn), kind, exif=exif, **options))
    assert got.size == upright.size, f"orientation {orientation} was not followed"
    assert abs(pixels(got) - pixels(upright)).mean() < 6, f"orientation {orientation} was followed wrongly"
    assert not got.getexif(), "the picture would be turned a second time"
    assert not got.info, "metadata, which may name a place, must not travel on"


def test_the_callers_picture_is_left_alone():
    mine = random_picture(4, KEPT_SIDE + 100, 40)
    before = mine.tobytes()
    open_picture(mine)
    assert (mine.size, mine.tobytes()) == ((KEPT_SIDE + 100, 40), before), "open_picture shrank the caller's picture"


# --- large ones -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size", "options"), [("PNG", (3000, 2300), {"compress_level": 1}), ("JPEG", (4000, 3000), {"quality": 97})]
)
def test_a_large_photo_is_brought_to_the_kept_side(kind, size, options):
    photo = Image.blend(random_picture(5, *size), grain(*size), 0.99)
    file = data(photo, kind, **options)
    assert len(file) > 12_000_000, "the test's own photo is too small to test anything"
    began = time.monotonic()
    got = open_picture(file)
    assert time.monotonic() - began < 10, "a 20 MB photo must not take long"
    assert max(got.size) == KEPT_SIDE
    assert abs(got.width / got.height - size[0] / size[1]) < 0.01, "the photo was squeezed"
    inside = pixels(got.resize((40, 30), Image.Resampling.BOX)) - pixels(photo.resize((40, 30), Image.Resampling.BOX))
    assert abs(inside).mean() < 4, "the photo came out darker, brighter or shifted"


def test_a_large_jpeg_is_not_decoded_whole(monkeypatch):
    sizes = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: sizes.append(self.size) or load(self))
    assert max(open_picture(data(random_picture(6, 4200, 300), "JPEG")).size) == KEPT_SIDE
    assert max(sizes[0]) < 4200, "draft() must let the decoder leave out what is not kept"


def test_a_small_picture_keeps_its_size_and_pixels():
    picture = grain(KEPT_SIDE, 7)
    assert np.array_equal(pixels(open_picture(data(picture))), pixels(picture))


def bomb(width, height):
    """A PNG of a few hundred KB that unpacks to width x height bits."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes((width + 7) // 8 + 1)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(30000, 30000), (12000, 12000), (8001, 8000)])
def test_a_bomb_is_refused_without_being_decoded(width, height, monkeypatch):
    file = bomb(width, height)
    assert len(file) < 2_000_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("the bomb was decoded"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RequestError) as caught:
            open_picture(file, "bomb.png")
    assert time.monotonic() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "refusing it cost 100 MB"
    assert caught.value.code == "picture_too_large"
    assert f"{width * height:,}" in str(caught.value), "the sentence must name the picture's own number of pixels"


def test_a_picture_may_claim_any_size(monkeypatch):
    huge = bomb(8, 8).replace(struct.pack(">II", 8, 8), struct.pack(">II", 2**31 - 1, 2**31 - 1), 1)
    body = huge[12:29]
    huge = huge.replace(huge[29:33], struct.pack(">I", zlib.crc32(body)), 1)
    with pytest.raises(RequestError, match="4,611,686,014,132,420,609 pixels"):
        open_picture(huge, "claims.png")


def test_large_pictures_are_decoded_two_at_a_time(monkeypatch):
    going, most, lock = [0], [0], threading.Lock()

    def clean(opened, name):
        with lock:
            going[0] += 1
            most[0] = max(most[0], going[0])
        time.sleep(0.05)
        with lock:
            going[0] -= 1

    monkeypatch.setattr(images, "_cleaned", clean)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(images.open_upload, [bomb(8, 8)] * 6))
    assert most == [2]


def test_a_bomb_can_be_decoded_where_nobody_refuses_it(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 10**9)
    assert open_picture(bomb(3000, 10)).size == (KEPT_SIDE, 7), (
        "the test's bomb is no picture: the tests above test nothing"
    )


def test_too_many_bytes_are_refused_unread(tmp_path):
    with open(tmp_path / "big.png", "wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(RequestError, match=r"big\.png is 51 MB; the limit is 50 MB"):
        open_picture(tmp_path / "big.png")


# --- what is no picture ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [b"", b"\0", b"just text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0"],
)
def test_what_is_no_picture(file):
    assert refused(file) == "not_a_picture"


def test_missing_files_folders_and_impossible_names(tmp_path):
    for path, code in ((tmp_path / "none.png", "no_file"), (tmp_path, "not_a_picture"), ("a\0b.png", "no_file")):
        assert refused(path) == code
    with pytest.raises(RequestError, match=r"There is no file none\.png"):
        open_picture(tmp_path / "none.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_file_cut_short(kind, tmp_path):
    whole = data(random_picture(7, 200, 150), kind)
    for share in (0.5, 0.9):
        assert refused(whole[: int(len(whole) * share)]) in ("damaged_picture", "not_a_picture")
    (tmp_path / "cut.png").write_bytes(data(random_picture(7, 200, 150))[:-2000])
    with pytest.raises(RequestError, match=r"cut\.png is damaged"):
        open_picture(tmp_path / "cut.png")


def test_a_lazy_picture_cut_short():
    lazy = Image.open(io.BytesIO(data(random_picture(7, 200, 150))[:-2000]))
    assert refused(lazy) == "damaged_picture"


@pytest.mark.parametrize(
    "error", [OSError, SyntaxError, struct.error, TypeError, RuntimeError, KeyError, EOFError, IndexError]
)
def test_whatever_a_decoder_raises_is_damage(error, monkeypatch):
    def broken(picture):
        raise error("seen while changing bytes of real files at random")

    monkeypatch.setattr(ImageOps, "exif_transpose", broken)
    assert refused(data(random_picture(8))) == "damaged_picture"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_changed_at_random_never_escape():
    rng = random.Random(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "hello"
    small = random_picture(9, 20, 12)
    files = [data(small, kind, exif=exif) for kind in ("PNG", "JPEG", "WEBP", "AVIF")] + [data(small, "GIF")]
    outcomes = set()
    for _ in range(600):
        file = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 2, 5))):
            file[rng.randrange(len(file))] = rng.randrange(256)
        try:
            outcomes.add(open_picture(bytes(file)).mode)
        except RequestError as error:
            outcomes.add(error.code)
    assert outcomes >= {"RGB", "not_a_picture", "damaged_picture"}, "the test no longer damages anything"


# --- hashes, shapes, tensors ----------------------------------------------------------------------------------------


def test_the_hash_depends_on_pixels_alone(tmp_path):
    picture = random_picture(10)
    picture.save(tmp_path / "slow.png", compress_level=9, dpi=(72, 72))
    exif = Image.Exif()
    exif[0x010E] = "a caption"
    same = [
        content_hash(open_picture(s)) for s in (tmp_path / "slow.png", data(picture, exif=exif), data(picture, "BMP"))
    ]
    assert set(same) == {content_hash(picture)}, "file format or metadata leaks into the hash"
    assert len(content_hash(picture)) == 16
    other = picture.copy()
    other.putpixel((47, 31), tuple(255 - c for c in other.getpixel((47, 31))))
    assert content_hash(other) != content_hash(picture), "one changed pixel must change the hash"
    flat = [content_hash(Image.new("RGB", size)) for size in ((4, 6), (6, 4), (2, 12))]
    assert len(set(flat)) == 3, "pictures of other shapes with the same bytes share a hash"


def test_pictures_survive_the_way_to_tensors_and_back():
    every = np.arange(256, dtype=np.uint8)
    picture = Image.fromarray(np.stack([every, every[::-1], np.roll(every, 100)], -1).reshape(8, 32, 3))
    tensor = to_tensor(picture)
    assert tensor.shape == (1, 3, 8, 32)
    assert (tensor.min().item(), tensor.max().item()) == (-1, 1)
    assert np.array_equal(pixels(to_picture(tensor)), pixels(picture)), "rounding changes a value"
    assert tensor[0, 0, 0, 1] == every[1] / 127.5 - 1, "(1, 3, H, W): channels or axes are mixed up"


def test_tensors_beyond_the_range_are_clipped():
    beyond = torch.tensor([-9.0, 9.0, 0.0]).view(1, 3, 1, 1)
    assert pixels(to_picture(beyond)).tolist() == [[[0, 255, 128]]]


@pytest.mark.parametrize(("width", "height", "wanted"), [(48, 32, (48, 96)), (10, 50, (25, 50)), (30, 60, (30, 60))])
def test_padded_to_proportions(width, height, wanted):
    picture = random_picture(12, width, height)
    canvas = padded(picture, 64, 128)
    assert canvas.size == wanted, "sides in the proportion 1 : 2, none shorter than before"
    left, above = (wanted[0] - width) // 2, (wanted[1] - height) // 2
    assert np.array_equal(pixels(canvas.crop((left, above, left + width, above + height))), pixels(picture))


@pytest.mark.parametrize(("width", "height"), [(48, 32), (32, 48), (1, 50), (7, 6), (9, 9)])
def test_squared(width, height):
    picture = random_picture(11, width, height)
    square = squared(picture)
    side = max(width, height)
    assert square.size == (side, side)
    left, above = (side - width) // 2, (side - height) // 2
    inside = square.crop((left, above, left + width, above + height))
    assert np.array_equal(pixels(inside), pixels(picture)), "something of the picture was cut off or moved"
    if width > height + 1:
        assert np.array_equal(pixels(square)[0], pixels(picture)[0]), "the border's own colours must be stretched"
        assert np.array_equal(pixels(square)[-1], pixels(picture)[-1])


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 480), (64, 48)), ((480, 640), (48, 64)), ((10, 10), (64, 64)), ((2048, 1), (64, 16))]
)
def test_fitted(size, expected):
    assert fitted(Image.new("RGB", size), 64, 16).size == expected, (
        "long side to 64, sides to multiples of 16, at least one"
    )


@pytest.mark.skipif(not PHOTOS, reason="DREAMBENCH_DIR names no folder of photos")
def test_real_photos():
    files = [path for kind in ("jpg", "png") for path in sorted(Path(PHOTOS).rglob(f"*.{kind}"))]
    assert files, f"there are no photos in {PHOTOS}"
    for path in files:
        picture = open_picture(path)
        assert picture.mode == "RGB"
        assert max(picture.size) <= KEPT_SIDE
        assert np.array_equal(pixels(to_picture(to_tensor(picture))), pixels(picture)), path
