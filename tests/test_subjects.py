"""A DreamBench folder: the published list, the fixed reference, and everything that can be wrong with it."""

import os
from pathlib import Path

import pytest
from tiny import random_picture
from tiny_metrics import LIST, write_bench

from squeeze.evaluation.records import EvaluationError
from squeeze.evaluation.subjects import read_bench


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_bench(tmp_path / "data")


def test_class_words_stand_in_the_prompts(data: Path):
    bench = read_bench(data)
    can, dog, sloth = bench.subjects
    assert can.prompts == ("a can in the jungle", "a red can")
    assert dog.prompts == ("a dog in the snow", "a dog wearing a red hat"), "a dog gets the prompts for live subjects"
    assert sloth.prompts[0] == "a stuffed animal in the jungle"
    assert bench.skipped == ()
    assert bench.missing == ("vase",), "the list names a subject that has no folder"


def test_the_reference_is_the_first_photo_by_name(data: Path):
    assert [path.name for path in read_bench(data).subjects[0].photos] == ["00.jpg", "01.jpg", "02.jpg"]


def test_unreadable_photos_are_named_and_left_out(data: Path):
    (data / "can" / "00.jpg").write_text("not a picture")
    cut = (data / "dog" / "01.jpg").read_bytes()
    (data / "dog" / "01.jpg").write_bytes(cut[: len(cut) // 2])
    for photo in (data / "grey_sloth_plushie").iterdir():
        photo.write_bytes(b"")
    bench = read_bench(data)
    assert [path.name for path in bench.subjects[0].photos] == ["01.jpg", "02.jpg"]
    assert [path.name for path in bench.subjects[1].photos] == ["00.jpg", "02.jpg"]
    assert [subject.name for subject in bench.subjects] == ["can", "dog"]
    said = "\n".join(bench.skipped)
    for name in ("can/00.jpg", "dog/01.jpg", "grey_sloth_plushie/02.jpg", "grey_sloth_plushie: it has no readable"):
        assert name in said, f"{name} was left out silently"
    assert len(bench.skipped) == 6


def test_a_folder_without_class_word_is_named(data: Path):
    (data / "my_mug").mkdir()
    random_picture(1).save(data / "my_mug" / "00.jpg")
    assert any(sentence.startswith("my_mug:") for sentence in read_bench(data).skipped)


def test_lines_of_ones_own_are_read_as_they_are_meant(data: Path):
    (data / "my cat").mkdir()
    random_picture(1).save(data / "my cat" / "00.jpg")
    said = LIST.replace("dog,dog\n", "dog , Dog\nmy cat,cat\n").replace(
        "'a red {0} {1}'", '"a {0} {1} in a chef\'s hat"'
    )
    (data / "prompts_and_classes.txt").write_text(said)
    can, dog, _, mine = read_bench(data).subjects
    assert can.prompts == ("a can in the jungle", "a can in a chef's hat")
    assert dog.prompts == ("a Dog in the snow", "a Dog wearing a red hat"), "a dog is alive, however it is written"
    assert mine.prompts[0] == "a cat in the snow"


@pytest.mark.parametrize(
    "line", ["'a {0} {1} in a chef's outfit'.format(a, b),", "a {0} {1}", "'a {0} {1}', 'b {0} {1}'"]
)
def test_a_line_that_is_no_prompt_is_named(data: Path, line: str):
    first = "'a red {0} {1}'.format(unique_token, class_token)"
    (data / "prompts_and_classes.txt").write_text(LIST.replace(first, line))
    with pytest.raises(EvaluationError) as caught:
        read_bench(data)
    assert line in str(caught.value)


def test_the_fingerprint_knows_photos_and_prompts(data: Path, tmp_path: Path):
    first = read_bench(data).fingerprint
    assert read_bench(write_bench(tmp_path / "again")).fingerprint == first
    random_picture(99).save(data / "can" / "02.jpg")
    second = read_bench(data).fingerprint
    assert second != first
    (data / "prompts_and_classes.txt").write_text(LIST.replace("a red", "a blue"))
    assert read_bench(data).fingerprint not in (first, second)


def test_folders_that_hold_no_benchmark(data: Path, tmp_path: Path):
    with pytest.raises(EvaluationError, match=r"There is no folder .*nowhere.*google/dreambooth"):
        read_bench(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"prompts_and_classes\.txt is missing"):
        read_bench(tmp_path / "empty")
    (tmp_path / "empty" / "prompts_and_classes.txt").write_text(LIST)
    with pytest.raises(EvaluationError, match="no photos of any subject"):
        read_bench(tmp_path / "empty")


@pytest.mark.parametrize("text", ["", "Classes\n", LIST[: LIST.index("Live")], LIST[LIST.index("Prompts") :], "\x00"])
def test_a_list_cut_short(data: Path, text: str):
    (data / "prompts_and_classes.txt").write_text(text)
    with pytest.raises(EvaluationError, match="cut short"):
        read_bench(data)


@pytest.mark.skipif("DREAMBENCH_DIR" not in os.environ, reason="DREAMBENCH_DIR names no folder of real photos")
def test_the_real_photos():
    bench = read_bench(Path(os.environ["DREAMBENCH_DIR"]))
    assert bench.skipped == (), "a published photo or folder was refused"
    assert len(bench.subjects) + len(bench.missing) == 30
    for subject in bench.subjects:
        assert len(set(subject.prompts)) == 25, f"{subject.name} has lost prompts"
        assert len(subject.photos) >= 4, f"{subject.name} has lost photos"
        assert all(f" {subject.word}" in prompt and "{" not in prompt for prompt in subject.prompts)
        hats = any("santa hat" in prompt for prompt in subject.prompts)
        assert hats == (subject.word in ("cat", "dog")), f"{subject.name} has the prompts of the other kind"
