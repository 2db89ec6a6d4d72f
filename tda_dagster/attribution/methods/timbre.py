"""Timbre similarity: what sounds as if played by the same hands."""

from typing import ClassVar, Literal

import torch

from tda_dagster.attribution.methods.spec import Family, Material, ScoringSpec
from tda_dagster.attribution.similarity import cosine, standardised
from tda_dagster.diffusion.latents import LatentSegments


class Timbre(ScoringSpec):
    """Cosine similarity of timbre embeddings, each dimension standardised by the mean and the
    standard deviation of all training segments."""

    method: Literal["timbre"] = "timbre"
    family: ClassVar[Family] = "similarity"

    def score(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> torch.Tensor:
        train = material.embedding("timbre")
        heard = material.query_embedding("timbre").of(queries.segment_ids)
        return cosine(
            standardised(heard, train.vectors),
            standardised(train.of(segments.segment_ids), train.vectors),
        )
