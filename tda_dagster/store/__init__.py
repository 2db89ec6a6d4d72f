"""Artifacts: a content-addressed store of everything computed, with recipes, refs and lineage."""

from tda_dagster.store.artifacts import ArtifactStore, Materialized
from tda_dagster.store.canonical import canonical_json, digest_of
from tda_dagster.store.disk import FullDisk, UnusableFolder
from tda_dagster.store.errors import CorruptArtifact, CorruptRecord, MissingArtifact, StoreError
from tda_dagster.store.lineage import Edge, Problem, Reached
from tda_dagster.store.refs import Recipe, Ref
from tda_dagster.store.trees import Artifact, Entry

__all__ = [
    "Artifact",
    "ArtifactStore",
    "CorruptArtifact",
    "CorruptRecord",
    "Edge",
    "Entry",
    "FullDisk",
    "Materialized",
    "MissingArtifact",
    "Problem",
    "Reached",
    "Recipe",
    "Ref",
    "StoreError",
    "UnusableFolder",
    "canonical_json",
    "digest_of",
]
