"""Which segments of a dataset may be chosen as targets. By the index alone, before any audio."""

import polars as pl


def _trained(_tracks: pl.DataFrame, segments: pl.DataFrame) -> pl.DataFrame:
    return segments.filter(split="train")


def _with_versions(tracks: pl.DataFrame, segments: pl.DataFrame) -> pl.DataFrame:
    """Training segments of tracks of which another rendition was trained on too."""
    train = tracks.filter(split="train").with_columns(excerpt=pl.coalesce("version_of", "track_id"))
    again = train.filter(pl.len().over("excerpt") > 1)
    return segments.filter(split="train").join(again, on="track_id", how="semi")


def _planted(tracks: pl.DataFrame, segments: pl.DataFrame) -> pl.DataFrame:
    """The first segments of held-out tracks of which another rendition was trained on."""
    of = tracks.with_columns(excerpt=pl.coalesce("version_of", "track_id"))
    planted = of.filter(split="heldout").join(of.filter(split="train"), on="excerpt", how="semi")
    return segments.filter(segment_index=0).join(planted, on="track_id", how="semi")


ELIGIBLE = {"train": _trained, "versions": _with_versions, "planted": _planted}
"""Which segments can be targets, by the name that `targets.among` gives them."""
