"""Where music comes from: a manifest of audio files in, tables and segments of audio out.

    rows = read_manifest("music/manifest.csv")
    index = index_dataset(rows, spec, heldout_fraction=0.1, seed=0, max_reject_fraction=0.05)
    for segment, samples in iter_segments(index, spec): ...

The reference study's manifest is made by `tda_dagster.corpus.reference` and read like any other.
"""

from tda_dagster.corpus.audio import AudioError, AudioFile, decode_audio, open_audio
from tda_dagster.corpus.index import (
    SEGMENTS_SCHEMA,
    TRACKS_SCHEMA,
    DatasetIndex,
    decode_segment,
    index_dataset,
    iter_segments,
)
from tda_dagster.corpus.manifest import ManifestRow, ManifestRows, read_manifest
from tda_dagster.corpus.rejects import REJECTS_SCHEMA, Reject, RejectReason, TooManyRejects
from tda_dagster.corpus.segments import SegmentSpec

__all__ = [
    "REJECTS_SCHEMA",
    "SEGMENTS_SCHEMA",
    "TRACKS_SCHEMA",
    "AudioError",
    "AudioFile",
    "DatasetIndex",
    "ManifestRow",
    "ManifestRows",
    "Reject",
    "RejectReason",
    "SegmentSpec",
    "TooManyRejects",
    "decode_audio",
    "decode_segment",
    "index_dataset",
    "iter_segments",
    "open_audio",
    "read_manifest",
]
