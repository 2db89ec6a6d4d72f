"""Names of files: which spellings are the same name, and which are near enough to be mentioned.

Unicode can write one name in several ways (é as one character, or as e with an accent: files from
a Mac have the second form, most manifests the first). These are the same name, and the file is
found when exactly one has it. Everything else that differs (case, a suffix, backslashes, spaces)
is another name: the file is not taken, and the message says which similar one is there.
"""

import difflib
import os
import re
import unicodedata
from collections import defaultdict
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from tda_dagster.corpus.rejects import shown

_MOST_NAMES_COMPARED = 2000
_LIKENESS = 0.85


class NoSuchFileError(Exception):
    """There is no file of a name; the message is a sentence that may mention a similar one."""


def find(path: Path) -> Path:
    """The path itself if something is there, else the one path that is the same name.

    Raises `NoSuchFileError`, and `OSError` where a folder cannot be listed.
    """
    if os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        if os.path.lexists(found / part):
            found /= part
            continue
        try:
            listing = _listing(found)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NoSuchFileError("there is no such file") from error
        same = listing.same.get(unicodedata.normalize("NFC", part), ())
        if len(same) > 1:
            raise NoSuchFileError(
                f"there is no such file, but {len(same)} whose names differ from it in Unicode "
                f"form alone: {', '.join(map(ascii, same))}"
            )
        if not same:
            raise NoSuchFileError(_nothing(found, part, listing))
        found /= same[0]
    return found


def same_names(name: str) -> list[str]:
    """The other Unicode forms of a name."""
    forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return [form for form in dict.fromkeys(forms) if form != name]


def near_names(name: str) -> list[str]:
    """Names worth looking for where a folder cannot be listed: slashes and the suffix's case."""
    path = PurePosixPath(name)
    changed = [
        name.replace("\\", "/"),
        *(
            name[: len(name) - len(path.suffix)] + s
            for s in (path.suffix.lower(), path.suffix.upper())
        ),
        unquote(name),
    ]
    return [form for form in dict.fromkeys(changed) if form != name]


def mention(name: str) -> str:
    """The sentence for a file that is not there while a similar one is."""
    return f"there is no such file; a similar name is there: {shown(name)}"


class _Listing:
    """The names in a folder, by what makes them the same and what makes them similar."""

    def __init__(self, folder: Path) -> None:
        self.names = sorted(path.name for path in folder.iterdir())
        self.same: dict[str, list[str]] = defaultdict(list)
        self.similar: dict[str, list[str]] = defaultdict(list)
        self.stems: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self.same[unicodedata.normalize("NFC", name)].append(name)
            self.similar[_likeness(name)].append(name)
            self.stems[_likeness(PurePosixPath(name).stem)].append(name)


def _listing(folder: Path) -> _Listing:
    return _listing_at(folder, folder.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _listing_at(folder: Path, _changed_ns: int) -> _Listing:
    return _Listing(folder)


def _nothing(folder: Path, part: str, listing: _Listing) -> str:
    if "\\" in part:
        for form in (part.replace("\\", "/"), part.rpartition("\\")[2]):
            if form and os.path.lexists(folder / form):
                return f"{mention(form)} (folders are separated by /)"
    similar = (
        listing.similar.get(_likeness(part))
        or listing.similar.get(_likeness(unquote(part)))
        or listing.stems.get(_likeness(PurePosixPath(part).stem))
    )
    if not similar and len(listing.names) <= _MOST_NAMES_COMPARED:
        similar = difflib.get_close_matches(part, listing.names, 1, _LIKENESS)
    return mention(similar[0]) if similar else "there is no such file"


def _likeness(name: str) -> str:
    """What similar names have in common: no case, no accents' forms, no spaces or underscores."""
    return re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()
