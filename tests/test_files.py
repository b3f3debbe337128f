"""Files are written whole or not at all, and a full disk is a sentence."""

import errno
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from squeeze import files as written
from squeeze.files import WriteError, copy_folder, whole, write_text


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EROFS, "cannot be written")],
)
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, number: int, says: str):
    path = tmp_path / "a.json"
    write_text(path, "before")

    def half() -> None:
        with whole(path) as part:
            part.write_text("hal")
            raise OSError(number, "what the system says")

    with pytest.raises(WriteError, match=says) as caught:
        half()
    assert str(path) in str(caught.value)
    assert path.read_text() == "before", "a failed write damaged the file it was to replace"
    assert files(tmp_path) == {"a.json"}, "half a file was left"


def test_a_stop_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "a.json"

    def stopped() -> None:
        with whole(path) as part:
            part.write_text("hal")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert files(tmp_path) == set()


def test_a_folder_that_cannot_be(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="choose another folder"):
        write_text(tmp_path / "file" / "a.json", "")


def test_a_full_disk_as_the_library_of_the_weights_says_it(tmp_path: Path):
    def full() -> None:
        with whole(tmp_path / "a.safetensors", "go on"):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(WriteError, match=r"^The disk is full: .* Make room, then go on\.$"):
        full()


def test_a_folder_is_copied_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """copytree tells of a full disk in its own way: a list, without an errno."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a").write_text("first")
    why = [("from", "to", str(OSError(errno.ENOSPC, "No space left on device")))]

    def full(source: Path, out: Path) -> None:
        out.mkdir()
        raise shutil.Error(why)

    with monkeypatch.context() as once:
        once.setattr(written.shutil, "copytree", full)
        with pytest.raises(WriteError, match=r"The disk is full: .*other was not written"):
            copy_folder(tmp_path / "one", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    copy_folder(tmp_path / "one", tmp_path / "other")
    (tmp_path / "one" / "a").write_text("second")
    copy_folder(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "other" / "a").read_text() == "first", "what was there was written over"
