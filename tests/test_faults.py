"""Faults of the machine and of the program are told in one line of plain words."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from tda_dagster.errors import TdaError
from tda_dagster.faults import about, in_words, of_environment, subjects


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as found:
        return found


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: there is no space left"),
        (OSError(errno.EROFS, "Read-only", "/a/b"), "/a/b: the filesystem is read-only"),
        (PermissionError(errno.EACCES, "Permission denied", b"/a/b"), "/a/b: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "there is no space left"),
        (sqlite3.OperationalError("database or disk is full"), "there is no space left"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "is read-only"),
        (sqlite3.OperationalError("unable to open database file"), "cannot be opened"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_faults_of_the_machine(error: Exception, words: str) -> None:
    for found in (raised(error), raised(RuntimeError("a library's words"), error)):
        told = of_environment(found)
        assert told is not None
        assert words in told
        assert "\n" not in told


def test_the_file_that_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(NotADirectoryError) as caught:
        (tmp_path / "data" / "store" / "x").mkdir(parents=True)
    told = of_environment(caught.value)
    assert told == f"{tmp_path / 'data'}: it is a file where a folder should be; move it away"


def test_other_errors_are_none_of_the_machine() -> None:
    for error in (ValueError("full of ideas"), FileNotFoundError(errno.ENOENT, "x"), KeyError("x")):
        assert of_environment(raised(error)) is None


def test_an_unexpected_error_is_one_line_without_classes_and_its_traceback_is_in_a_log(
    tmp_path: Path,
) -> None:
    (tmp_path / "params.yaml").touch()
    with pytest.raises(ValueError, match="unpack") as caught, about("query q-1"), about("track 7"):
        (_,) = ()
    assert subjects(caught.value) == ["query q-1", "track 7"]
    told = in_words(caught.value, tmp_path, "run-1")
    assert "not enough values to unpack" in told
    assert "test_faults.py, line" in told
    assert "Error" not in told
    assert "\n" not in told
    log = tmp_path / "data" / "log" / "run-1.log"
    assert str(log.relative_to(tmp_path)) in told
    assert "Traceback" in log.read_text()
    assert "query q-1" in log.read_text()
    in_words(caught.value, tmp_path, "run-1")
    assert log.read_text().count("Traceback") == 2


def test_an_error_without_words_says_where_it_was_raised(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").touch()
    assert "(test_faults.py, line" in in_words(raised(AssertionError()), tmp_path, "x")
    many = in_words(raised(ValueError("word\n" * 10_000)), tmp_path, "x")
    assert len(many) < 500
    assert "\n" not in many


def test_messages_for_the_user_stay_and_a_folder_that_is_no_study_gets_no_log(
    tmp_path: Path,
) -> None:
    assert in_words(TdaError("x.csv: line 3"), tmp_path, "x") == "x.csv: line 3"
    told = in_words(raised(ValueError("x")), tmp_path, "x")
    log = Path(told.rpartition(" ")[2])
    assert "Traceback" in log.read_text()
    log.unlink()
    assert os.listdir(tmp_path) == []  # noqa: PTH208
