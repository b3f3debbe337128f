"""The recipe comes back out of text, PNG and file as it went in; everything else is a sentence."""

import json
import struct
import zlib

import pytest
from example import RECIPE
from PIL import Image, ImageFile, PngImagePlugin
from tiny import random_picture

from squeeze.recipe import (
    FIELDS,
    MAX_TEXT,
    PNG_KEY,
    VERSION,
    RecipeError,
    differences,
    from_text,
    read_file,
    read_png,
    to_text,
    write_png,
)


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


def test_a_recipe_of_the_first_version_drew_no_new_noise():
    old = text_with(version=1, eta=...)
    assert from_text(old) == RECIPE | {"eta": 0}
    assert "seed is missing" in refusal(text_with(version=1, eta=..., seed=...))


@pytest.mark.parametrize("version", [0, -1, True, 1.0])
def test_versions_that_never_were(version):
    refusal(text_with(version=version))


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "version"])
def test_each_missing_field_is_named(field):
    assert f"{field} is missing" in refusal(text_with(**{field: ...}))


def test_an_extra_field_is_named():
    assert "'weights'" in refusal(text_with(weights="evil.safetensors"))


FITS = {  # what a field takes of the values below; the others are of a wrong kind
    "profile": "x", "revision": "x", "prompt": "x", "uncond": "x", "late_text": "x",
    "balance": [1], "stage_steps": [1], "cfg": 2.5, "guidance": 2.5, "eta": 2.5,
}  # fmt: skip


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "version"])
@pytest.mark.parametrize("value", [None, True, {"a": [1]}, {"a": "b c"}, "x", 2.5, [1], ["x"], [True]], ids=repr)
def test_each_field_of_a_wrong_kind_is_named(field, value):
    if field in FITS and repr(FITS[field]) == repr(value):
        assert from_text(text_with(**{field: value}))[field] == value
    else:
        assert f"damaged: {field} is" in refusal(text_with(**{field: value}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(number):
    assert "damaged: cfg is" in refusal(text_with(cfg=0.123).replace("0.123", number))


@pytest.mark.parametrize("character", ["\0", "\n", "\x1b", "\x9b", "\ud800"], ids=ascii)
@pytest.mark.parametrize("field", ["prompt", "profile", "revision", "uncond", "late_text"])
def test_what_a_terminal_would_obey_is_refused(field, character):
    """A command made of a stranger's recipe is pasted into a terminal, where an escape sequence would end the paste."""
    assert f"damaged: {field} is" in refusal(text_with(**{field: f"a{character}b"}))


def test_hostile_text():
    tag = "<script>alert(1)</script>"
    assert from_text(text_with(prompt=tag))["prompt"] == tag, "a prompt is data; who shows it escapes it"
    for text in (text_with(seed=tag * 500), text_with(**{tag * 500: 1}), text_with(seed="\ud800\x1b[31m")):
        assert refusal(text).isprintable(), "a sentence must not carry control characters or half a character"
    assert f"{MAX_TEXT:,}" in refusal("x" * 10_000_000)
    assert f"{MAX_TEXT:,}" in refusal(text_with(prompt="x" * MAX_TEXT))


@pytest.mark.parametrize("depth", [100, 900, 49_000])
@pytest.mark.parametrize(
    ("field", "says"),
    [("prompt", "prompt is [[["), ("balance", "balance is [[["), ("extra", "'extra'"), ("version", "no version")],
)
def test_deeply_nested_json(depth, field, says):
    """In a recipe that is whole but for it, so that the nested value is looked at."""
    said = refusal(text_with(**{field: "nested"}).replace('"nested"', "[" * depth + "]" * depth))
    assert says in said or (depth > 100 and "not valid JSON" in said), said


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_a_png_or_json(tmp_path):
    write_png(random_picture(0), RECIPE, tmp_path / "made.png")
    assert read_file(tmp_path / "made.png") == RECIPE
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "made.json").write_text(to_text(RECIPE), encoding=encoding)
        assert read_file(tmp_path / "made.json") == RECIPE


def test_files_that_hold_no_recipe(tmp_path):
    random_picture(0).save(tmp_path / "bare.png")
    random_picture(0).save(tmp_path / "photo.jpg")
    (tmp_path / "words.json").write_text("hello")
    (tmp_path / "long.json").write_text("x" * 1_000_000)
    for name, says in (
        ("bare.png", "carries no recipe"), ("photo.jpg", "neither a PNG nor JSON"), ("words.json", "not valid JSON"),
        ("long.json", f"{MAX_TEXT:,}"), ("none.png", "There is no file"), ("", "There is no file"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=says) as refused:
            read_file(tmp_path / name)
        assert str(tmp_path) not in str(refused.value), "visitors are told where the server keeps their files"


# --- what differs ---------------------------------------------------------------------------------------------------


def test_nothing_differs_from_itself():
    assert differences(RECIPE, RECIPE) == []
    assert differences(RECIPE, RECIPE | {"balance": [0, 0.5, 1]}) == [], "0 and 0.0 are one balance"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"revision": "abc"}, "revision of the weights: c30424b81554 in the recipe, abc here"),
        ({"software": {"torch": "2.14.0"}}, "version of torch: 2.13.0+cpu in the recipe, 2.14.0 here"),
        ({"software": {}}, "version of torch: 2.13.0+cpu in the recipe, none here"),
        ({"references": ["f" * 16]}, "reference: 0123456789abcdef in the recipe, ffffffffffffffff here"),
        ({"picture": "f" * 16}, "picture, by its content hash: fedcba9876543210"),
        ({"seed": 8}, "seed: 9007199254740991 in the recipe, 8 here"),
        ({"balance": [1, 1, 1]}, "balance: 0.0,0.5,1.0 in the recipe, 1,1,1 here"),
        ({"prompt": "x" * 2000}, "prompt: on the beach"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_each_difference_is_a_sentence(changed, says):
    (sentence,) = differences(RECIPE, RECIPE | changed)
    assert says in sentence
    assert sentence.endswith("here.")
    assert len(sentence) < 200


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_compared(field):
    other = {"software": {}, "references": []}.get(field, [] if isinstance(RECIPE[field], list) else "other")
    recipe = RECIPE | {field: other if isinstance(other, type(RECIPE[field])) else 3}
    assert len(differences(RECIPE, recipe)) == 1
