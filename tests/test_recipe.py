"""The recipe comes back out of a PNG as it went in; everything else is a sentence."""

import json
import struct
import zlib

import pytest
from PIL import Image, ImageFile, PngImagePlugin
from tiny import random_picture

from squeeze.recipe import FIELDS, MAX_TEXT, PNG_KEY, VERSION, RecipeError, from_text, read_png, to_text, write_png

RECIPE = {
    "version": VERSION,
    "profile": "plush",
    "revision": "c30424b81554",
    "prompt": 'on the beach 🏖️ "quoted" \\ <b>玩具</b>',
    "references": ["0123456789abcdef"],
    "balance": [0.0, 0.5, 1.0],
    "stage_steps": [4, 5, 16],
    "steps": 25,
    "cfg": 2.5,
    "guidance": 1.0,
    "seed": 2**53 - 1,
    "height": 64,
    "width": 64,
    "uncond": "lean",
    "late_text": "drop",
    "software": {"torch": "2.13.0"},
}


def text_with(**changed):
    """The recipe as JSON with fields changed, or left out where the value is `...`."""
    return json.dumps({key: value for key, value in (RECIPE | changed).items() if value is not ...})


def refusal(text):
    """The sentence a text is refused with; anything but RecipeError fails."""
    with pytest.raises(RecipeError) as caught:
        from_text(text)
    sentence = str(caught.value)
    assert sentence[0].isupper(), sentence
    assert sentence.endswith("."), sentence
    assert len(sentence) < 200, "the sentence repeats too much of a hostile text"
    return sentence


def test_text_round_trip():
    assert from_text(to_text(RECIPE)) == RECIPE
    assert list(json.loads(to_text(dict(reversed(RECIPE.items()))))) == list(FIELDS), "keys in the order of FIELDS"
    assert "\n" not in to_text(RECIPE)


def test_the_example_has_every_field():
    assert RECIPE.keys() == FIELDS.keys(), "a field was added: give it an example here"


def test_png_round_trip(tmp_path):
    picture = random_picture(0)
    made = write_png(picture, RECIPE, tmp_path / "made.png")
    assert read_png(made.path) == RECIPE
    assert Image.open(made.path).tobytes() == picture.tobytes(), "the recipe changed the picture"


def test_reading_decodes_no_pixels(tmp_path, monkeypatch):
    write_png(random_picture(0), RECIPE, tmp_path / "made.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    assert read_png(tmp_path / "made.png") == RECIPE


def test_a_picture_resaved_has_none(tmp_path):
    write_png(random_picture(0), RECIPE, tmp_path / "made.png")
    Image.open(tmp_path / "made.png").convert("RGB").save(tmp_path / "again.png")
    with pytest.raises(RecipeError, match="carries no recipe"):
        read_png(tmp_path / "again.png")


@pytest.mark.parametrize("kind", ["text", "JPEG", "empty", "none", "folder", "cut"])
def test_what_is_no_png(kind, tmp_path):
    path = tmp_path / "file.png"
    if kind == "text":
        path.write_text("hello")
    elif kind == "JPEG":
        random_picture(0).save(path, "JPEG")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "cut":
        write_png(random_picture(0), RECIPE, path)
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(RecipeError, match=r"could not be read as a PNG|carries no recipe"):
        read_png(path)


def png_with(text, path, compressed=False):
    info = PngImagePlugin.PngInfo()
    info.add_itxt(PNG_KEY, text, zip=compressed)
    random_picture(0).save(path, pnginfo=info)


@pytest.mark.parametrize("compressed", [False, True])
def test_ten_megabytes_in_a_png(compressed, tmp_path):
    png_with("[" * 10_000_000, tmp_path / "big.png", compressed)
    with pytest.raises(RecipeError):
        read_png(tmp_path / "big.png")


def test_a_bomb_for_a_recipe(tmp_path):
    head = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    body = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    with pytest.raises(RecipeError, match="PNG"):
        read_png(tmp_path / "bomb.png")


@pytest.mark.parametrize("text", ["", "{", "nonsense", '{"version": 1,}', to_text(RECIPE)[:-5], "\0", '{"a":' * 9])
def test_damaged_json(text):
    assert "not valid JSON" in refusal(text)


@pytest.mark.parametrize("text", ["[]", "1", '"text"', "null", "{}", '{"version": "1"}', '{"version": null}', "NaN"])
def test_json_that_is_no_recipe(text):
    assert "no version" in refusal(text)


@pytest.mark.parametrize("version", [VERSION + 1, 10**30])
def test_a_newer_version(version):
    sentence = refusal(text_with(version=version, something_new=1))
    assert str(version) in sentence
    assert "Update" in sentence, "a newer recipe must not be called damaged"


@pytest.mark.parametrize("version", [0, -1, True, 1.0])
def test_versions_that_never_were(version):
    refusal(text_with(version=version))


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "version"])
def test_each_missing_field_is_named(field):
    assert f"{field} is missing" in refusal(text_with(**{field: ...}))


def test_an_extra_field_is_named():
    assert "'weights'" in refusal(text_with(weights="evil.safetensors"))


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "version"])
@pytest.mark.parametrize("value", [None, True, {"a": [1]}, "x", 2.5, [1]], ids=repr)
def test_each_field_of_a_wrong_kind_is_named(field, value):
    if isinstance(value, FIELDS[field]) and not isinstance(value, bool):
        assert from_text(text_with(**{field: value}))[field] == value
    else:
        assert f"damaged: {field} is" in refusal(text_with(**{field: value}))


def test_hostile_text():
    tag = "<script>alert(1)</script>"
    assert from_text(text_with(prompt=tag))["prompt"] == tag, "a prompt is data; who shows it escapes it"
    for text in (text_with(seed=tag * 500), text_with(**{tag * 500: 1}), text_with(seed="\ud800\x1b[31m")):
        assert refusal(text).isprintable(), "a sentence must not carry control characters or half a character"
    assert f"{MAX_TEXT:,}" in refusal("x" * 10_000_000)
    assert f"{MAX_TEXT:,}" in refusal(text_with(prompt="x" * MAX_TEXT))


@pytest.mark.parametrize("depth", [100, 400, 700, 900, 960, 1000, 5000, 49_000])
@pytest.mark.parametrize("field", ["prompt", "balance", "extra", "version"])
def test_deeply_nested_json(depth, field):
    refusal(f'{{"version": 1, "profile": "x", "revision": "x", "{field}": {"[" * depth}{"]" * depth}}}')
