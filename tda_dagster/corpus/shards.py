"""Cutting a dataset into shards: the parts that are computed, stored and found again one by one.

Belongs here: which segments, or files, share a shard, and what the shard is called.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import polars as pl

Shards = Iterator[tuple[str, pl.DataFrame]]
"""Names of shards and their rows of `segments`; sorted names are the order of the segments."""

_SPLITS = ("train", "heldout")  # never share a shard
_BITS = 64


def shards(segments: pl.DataFrame, size: int, manifest: str | None) -> Shards:
    """The shards of the dataset of a manifest (None: of the reference study), of at most `size`
    segments each.

    Tracks of a manifest come and go, so its shards are `stable_shards`. Those of the reference
    study are given by its settings, with which everything changes: it is cut evenly.
    """
    return (even_shards if manifest is None else stable_shards)(segments, size)


def even_shards(segments: pl.DataFrame, size: int) -> Shards:
    """As few shards as there can be, in the order of the table."""
    for split in _SPLITS:
        rows = segments.filter(split=split)
        for number, start in enumerate(range(0, rows.height, size)):
            yield f"{split}-{number:05d}", rows.slice(start, size)


def stable_shards(segments: pl.DataFrame, size: int) -> Shards:
    """Shards that depend on no more than the tracks in them and, where those would fill less than
    one shard, on their neighbours: a track that comes or goes changes one shard, or makes two of
    one or one of two. All others have the names and the segments that they had.

    Tracks lie in the order of the sha256 of their ids. What is too much for a shard is parted by
    the next bit of it, again and again; a track of more than `size` segments has several shards of
    its own. A shard is called after the place of its first track.
    """
    places = {track: _place(track) for track in segments["track_id"].unique()}
    placed = segments.with_columns(_place=pl.col("track_id").replace_strict(places))
    for split in _SPLITS:
        rows = placed.filter(split=split).sort("_place", "segment_index")
        for name, part in _parted(split, rows, size, depth=0):
            yield name, part.drop("_place")


def stable_groups(names: Iterable[str], size: int) -> Iterator[tuple[str, list[str]]]:
    """Names in groups of at most `size`, sorted within each, with a name for each group. As in
    `stable_shards`, a name that comes or goes changes one group, or makes two of one or one of two.
    """
    placed = sorted((_place(name), name) for name in set(names))
    yield from _grouped(placed, size, depth=0)


def _grouped(
    placed: Sequence[tuple[str, str]], size: int, depth: int
) -> Iterator[tuple[str, list[str]]]:
    if not placed:
        return
    if len(placed) <= size or depth == _BITS:
        yield f"{int(placed[0][0], 2):0{_BITS // 4}x}", sorted(name for _, name in placed)
        return
    for bit in "01":
        yield from _grouped([item for item in placed if item[0][depth] == bit], size, depth + 1)


def _place(track_id: str) -> str:
    """The leading bits of the id's sha256, as text."""
    head = hashlib.sha256(track_id.encode()).digest()[: _BITS // 8]
    return f"{int.from_bytes(head):0{_BITS}b}"


def _parted(split: str, rows: pl.DataFrame, size: int, depth: int) -> Shards:
    if rows.is_empty():
        return
    if rows.height <= size or rows["_place"].n_unique() == 1:
        first = f"{int(rows['_place'][0], 2):0{_BITS // 4}x}"  # not the part: that may be halved
        for number, start in enumerate(range(0, rows.height, size)):
            yield f"{split}-{first}-{number:05d}", rows.slice(start, size)
        return
    for bit in "01":
        half = rows.filter(pl.col("_place").str.slice(depth, 1) == bit)
        yield from _parted(split, half, size, depth + 1)
