"""CLAP similarity, the comparison of arXiv:2506.18312."""

from typing import ClassVar, Literal

import torch

from tda_dagster.attribution.methods.spec import Family, Material, ScoringSpec
from tda_dagster.attribution.similarity import cosine
from tda_dagster.diffusion.latents import LatentSegments


class Clap(ScoringSpec):
    """Cosine similarity of CLAP embeddings. A study has them if `embeddings.clap` names a model;
    the error of one that has not says so."""

    method: Literal["clap"] = "clap"
    family: ClassVar[Family] = "similarity"

    def score(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> torch.Tensor:
        train, heard = material.embedding("clap"), material.query_embedding("clap")
        return cosine(heard.of(queries.segment_ids), train.of(segments.segment_ids))
