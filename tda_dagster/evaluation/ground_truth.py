"""Ground truth that was computed before, as small tables, so that nobody must retrain to score.

One folder per cohort of the bench's study, with what it is about (`about.json`: the training, the
tracks, the queries), the queries' latents, and what retraining showed: the losses under random
subsets of the tracks, those without the tracks that some methods found most influential, and those
under coalitions of catalogues.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import polars as pl

from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.settings import CounterfactualSettings, TrainingSettings
from tda_dagster.store import canonical_json, digest_of

REMOVAL_TABLES = {
    "removal_losses": {
        "query_id": pl.String,
        "removed": pl.String,
        "draw": pl.Int64,
        "timestep": pl.Float64,
        "loss": pl.Float64,
        "loss_base": pl.Float64,
    },
    "removal_sounds": {
        "query_id": pl.String,
        "removed": pl.String,
        "embedding": pl.String,
        "similarity": pl.Float64,
    },
}
"""What came of leaving tracks out (`removed`: `removed_digest` of their set), by query: its loss
under each draw with and without them, and how alike the piece generated without them sounds."""
COALITION_TABLES = ("coalition_losses", "coalitions", "catalogues")
"""What came of training on coalitions, as the files of `counterfactual/coalitions` have it."""
_TABLES = ("losses", "subsets", *REMOVAL_TABLES, *COALITION_TABLES)
_ABOUT, _QUERIES = "about.json", "queries.safetensors"

SAME_PIECE = 0.02
"""Largest relative difference (root mean square) of two latents that count as the same piece:
processors round differently, and generation carries that on."""


@dataclass(frozen=True)
class GroundTruth:
    """What retraining showed of a cohort's queries. Tables by name as `counterfactual/losses`,
    `counterfactual/removal` and `counterfactual/coalitions` have them; any of them may be missing.
    """

    about: Mapping[str, Any]
    queries: LatentSegments
    tables: Mapping[str, pl.DataFrame]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _ABOUT).write_bytes(canonical_json(self.about) + b"\n")
        self.queries.save(folder / _QUERIES)
        for name, table in self.tables.items():
            table.write_parquet(folder / f"{name}.parquet", compression="zstd")

    @classmethod
    def load(cls, folder: Path) -> "GroundTruth":
        return cls(
            about=json.loads((folder / _ABOUT).read_bytes()),
            queries=LatentSegments.load(folder / _QUERIES),
            tables={
                name: pl.read_parquet(folder / f"{name}.parquet")
                for name in _TABLES
                if (folder / f"{name}.parquet").is_file()
            },
        )

    def known_removals(self) -> set[tuple[str, str]]:
        """The queries and sets of left-out tracks (`Removals`) that were trained for."""
        if "removal_losses" not in self.tables:
            return set()
        known = self.tables["removal_losses"].select("query_id", "removed").unique()
        return set(known.iter_rows())

    def fits(self, about: Mapping[str, Any], queries: LatentSegments) -> bool:
        """Whether it was found for the same training, tracks and queries."""
        if canonical_json(self.about) != canonical_json(about):
            return False
        theirs, ours = self.queries, queries
        if theirs.segment_ids != ours.segment_ids or theirs.latents.shape != ours.latents.shape:
            return False
        apart = (theirs.latents - ours.latents).square().mean(dim=(1, 2)).sqrt()
        size = theirs.latents.square().mean(dim=(1, 2)).sqrt()
        return bool((apart <= SAME_PIECE * size).all())


def about(
    training: TrainingSettings,
    counterfactual: CounterfactualSettings,
    tracks: pl.DataFrame,
    queries: pl.DataFrame,
) -> dict[str, Any]:
    """What ground truth is of: everything that decides it but the processor it is found on.

    `counterfactual` are the cohort's settings; `tracks` and `queries` are `dim_track` and the
    cohort's part of `dim_query`. Coalitions are not in it: their tables say of which they are.
    """
    members = tracks.select("track_id", "split", "caption").sort("track_id")
    return {
        "training": training.model_dump(mode="json", exclude={"checkpoint_every"}),
        "counterfactual": counterfactual.model_dump(mode="json", include=_DECISIVE),
        "tracks": digest_of(canonical_json(members.rows())),
        "queries": [list(row) for row in queries.select("query_id", "prompt", "seed").rows()],
    }


_DECISIVE = {"subsets", "fraction", "repeats", "draws", "seed"}


def removed_digest(tracks: Sequence[str]) -> str:
    """A short name for a set of tracks that were left out."""
    return digest_of(canonical_json(sorted(tracks)))[:16]


Removals = dict[tuple[str, str], tuple[str, ...]]
"""The tracks that are left out for a query, most attributed first, by the query and the
`removed_digest` of the set: as many sets of a query as there are sizes."""


def removals(most_attributed: Mapping[str, Sequence[str]], sizes: Sequence[int]) -> Removals:
    """The sets of the first of the tracks of each query, of all the `sizes`. Of fewer tracks than
    a size, all."""
    return {
        (query, removed_digest(tracks[:size])): tuple(tracks[:size])
        for query, tracks in most_attributed.items()
        for size in sizes
    }


def shipped(cohort: str) -> GroundTruth | None:
    """The ground truth of a cohort of the bench's study that comes with the package."""
    with as_file(files("tda_dagster.bench") / "ground_truth") as folder:
        own = folder / cohort
        return GroundTruth.load(own) if (own / _ABOUT).is_file() else None


def shipped_digest() -> str:
    """What is shipped for all cohorts, for recipes."""
    with as_file(files("tda_dagster.bench") / "ground_truth") as folder:
        paths = sorted(path for path in folder.rglob("*.*") if path.is_file())
        found = {
            path.relative_to(folder).as_posix(): digest_of(path.read_bytes()) for path in paths
        }
    return digest_of(canonical_json(found))
