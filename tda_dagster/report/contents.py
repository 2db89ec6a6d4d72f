"""What a report page is made from: plain values that know nothing of the store or of Dagster.

Whoever has the artifacts fills these in; `page.render_page` only lays them out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

UNATTRIBUTED = "unattributed"
"""Name of the share that the evidence gives to nobody."""


@dataclass(frozen=True)
class Sound:
    """Mono float32 audio [samples], full scale ±1, and its sampling rate in Hz."""

    samples: np.ndarray
    sampling_rate: int


@dataclass(frozen=True)
class Influence:
    """A training track among the most influential of one query, by its best segment.

    `rank` counts from 1; `start_s` is where the segment begins in the track (seconds); `score` is
    larger for more influence and `score_se` its standard error (None when there was one draw);
    `share` (0 to 1) is the track's part of the query's whole attribution. `window_start_s` is where
    the window of the piece begins in which the track stands out furthest (seconds), None for a
    piece of one window. Unknown texts are "".
    """

    rank: int
    track_id: str
    title: str
    artist: str
    rightsholder: str
    composer: str
    collection: str
    caption: str
    licence: str
    segment_id: str
    start_s: float
    score: float
    score_se: float | None
    share: float
    sound: Sound
    audio_sha256: str
    window_start_s: float | None = None


@dataclass(frozen=True)
class Window:
    """A window of a piece that is longer than the model's: where it is (seconds), what stands out
    in it (None: nothing), and the part of it (0 to 1) that is attributed to nobody. A `silent`
    window is not attributed."""

    start_s: float
    seconds: float
    silent: bool
    top_title: str | None
    top_share: float | None
    top_rightsholder: str | None
    unattributed: float


@dataclass(frozen=True)
class Share:
    """The part (0 to 1) of one query's attribution that goes to a rightsholder, or to nobody.

    `payout` is what the rightsholder is paid when the unattributed part is paid pro rata, and
    `payout_low` to `payout_high` its interval of 90 %; None where they are not known.
    """

    name: str
    share: float
    payout: float | None = None
    payout_low: float | None = None
    payout_high: float | None = None


@dataclass(frozen=True)
class QueryReport:
    """What one method answered about one piece.

    `kind` is generated, audio or segment; `seconds` the length of the piece; `scores` holds the
    score of every training segment [segments]; `rightsholders` are all shares of the piece, the
    `UNATTRIBUTED` one among them; `figures` are measurements by name. A piece that is longer than
    the model's window has several `windows`: shares are then those of its windows weighted by their
    seconds, figures are means over them (the highest prominence, the lowest reliability), and there
    are no scores of the whole. `sound` may be only the beginning of it.
    """

    query_id: str
    kind: str
    prompt: str
    seed: int | None
    seconds: float
    sound: Sound
    influences: tuple[Influence, ...]
    rightsholders: tuple[Share, ...]
    scores: np.ndarray
    figures: Mapping[str, float]
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True)
class MethodReport:
    """One attribution method, its settings and its answers."""

    method_id: str
    label: str
    config: Mapping[str, object]
    queries: tuple[QueryReport, ...]


@dataclass(frozen=True)
class Provenance:
    """Where it all came from: rows of (asset, partition, digest, code version)."""

    rows: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class CohortReport:
    """Everything one page shows.

    `reconstruction` holds (metric, mean value, unit) of the autoencoder, and its pictures (name,
    PNG bytes that carry their own title); `loss_curve` holds (step, training loss, held-out loss
    or None); `dataset` facts such as tracks, segments and hours, shown in the order given.
    """

    cohort: str
    methods: tuple[MethodReport, ...]
    reconstruction: tuple[tuple[str, float, str], ...]
    reconstruction_pictures: tuple[tuple[str, bytes], ...]
    loss_curve: Sequence[tuple[int, float, float | None]]
    dataset: Mapping[str, str | float]
    provenance: Provenance
