"""Random scores: what any method must beat."""

from typing import ClassVar, Literal

import torch

from tda_dagster.attribution.methods.spec import Family, Material, ScoringSpec
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.noise import keyed_generator


class Random(ScoringSpec):
    """Standard normal scores, keyed by query and segment."""

    method: Literal["random"] = "random"
    family: ClassVar[Family] = "control"
    seed: int = 0

    def score(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> torch.Tensor:
        return torch.tensor(
            [
                [
                    float(torch.randn((), generator=keyed_generator(self.seed, query, segment)))
                    for segment in segments.segment_ids
                ]
                for query in queries.segment_ids
            ],
            dtype=torch.float64,
        )
