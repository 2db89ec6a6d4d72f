"""Real music for tests: excerpts of the corpus, as whoever one likes plays them."""

from dataclasses import replace
from functools import cache

import numpy as np

RATE_HZ = 16_000
WORKS = (
    "oneill-0987-haste-to-the-wedding",
    "bach-chorale-bwv66-6",
    "aird-0011-the-corporal",
    "bach-chorale-bwv269",
)


@cache
def rendition(
    work_id: str, ensemble: int = 0, transposition: int = 0, tempo: float = 1.0
) -> np.ndarray:
    """The first excerpt of a work, mono float32 at 16 kHz: played by one of its collection's
    ensembles, so many semitones higher, at a tempo relative to the work's own."""
    from tda_dagster.corpus.reference.arrangement import Interpretation, perform
    from tda_dagster.corpus.reference.catalogue import load_catalogue
    from tda_dagster.corpus.reference.excerpts import cut_excerpts
    from tda_dagster.corpus.reference.scores import read_score
    from tda_dagster.corpus.reference.synthesis import synthesise

    work = next(work for work in load_catalogue().works if work.id == work_id)
    once = replace(work, excerpts=1)
    excerpt = cut_excerpts(read_score(once), once, [work.bpm], seed=7)[0]
    players = work.collection.ensembles[ensemble]
    interpretation = Interpretation(players, work.bpm * tempo, transposition)
    performance = perform(excerpt, interpretation, np.random.default_rng(ensemble))
    return synthesise(performance, RATE_HZ)
