"""Random scores: what any method must beat."""

from typing import ClassVar, Literal

import torch

from tda_dagster.attribution.methods.spec import Family, Material, ScoringSpec
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.noise import keyed_generator


class Random(ScoringSpec):
    """Standard normal scores, keyed by the query's content and the segment."""

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
                    for segment in segments.keys
                ]
                for query in queries.keys
            ],
            dtype=torch.float64,
        )
