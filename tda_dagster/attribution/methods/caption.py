"""Caption similarity: what was described in the same words, whatever it sounds like."""

from typing import ClassVar, Literal

import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from tda_dagster.attribution.methods.spec import Family, Material, ScoringSpec
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.errors import TdaError

_WORD = r"\w+#?"  # one letter is a word, too, and sharps matter: "in F# minor"


class Caption(ScoringSpec):
    """Cosine similarity of the captions' term frequencies × inverse document frequencies.

    Frequencies of documents are those of the training segments' captions, smoothed
    (scikit-learn's: ln((1 + n)/(1 + df)) + 1).
    """

    method: Literal["caption"] = "caption"
    family: ClassVar[Family] = "similarity"

    def score(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> torch.Tensor:
        """Raises TdaError when no training segment has words in its caption."""
        words = TfidfVectorizer(token_pattern=_WORD)
        try:
            words.fit(material.train.captions)
        except ValueError as error:
            raise TdaError(
                "method caption: the captions of the training segments hold no words; give the "
                "manifest a column `caption`, or leave the method out"
            ) from error
        asked, there = words.transform(queries.captions), words.transform(segments.captions)
        return torch.from_numpy((asked @ there.T).toarray())
