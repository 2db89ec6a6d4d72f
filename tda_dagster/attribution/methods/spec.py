"""What an attribution method is: its settings, and how it scores.

A method is a class whose fields are its settings. It is one of three kinds: `UnlearningSpec` makes
an unlearned checkpoint per query, and scores follow from a loss sweep; `ScoringSpec` scores
segments directly, one by one; `JointScoringSpec` scores them all at once. Everything else (shards,
sweeps, tables) is the same for all methods.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import torch

from tda_dagster.attribution.features import GradientSpec, TrainingCheckpoint
from tda_dagster.attribution.fisher import FisherSum
from tda_dagster.attribution.groups import Groups
from tda_dagster.attribution.unlearning import Unlearned
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.embedding import Embedding
from tda_dagster.errors import TdaError
from tda_dagster.settings import (
    NoiseSettings,
    ScoringSettings,
    Section,
    Settings,
    SweepSettings,
    validated,
)

if TYPE_CHECKING:
    from tda_dagster.attribution.methods.tasks import Result, Work

Family = Literal["unlearning", "similarity", "gradient", "peer", "control"]


class Material(Protocol):
    """What a method may read of a study. Each part is opened when it is first asked for."""

    @property
    def model(self) -> MusicModel:
        """The base model θ₀."""

    @property
    def fisher(self) -> FisherSum:
        """Diagonal Fisher information of the base model."""

    @property
    def train(self) -> LatentSegments:
        """All training segments, in memory."""

    @property
    def checkpoints(self) -> tuple[TrainingCheckpoint, ...]:
        """The stored checkpoints of the base model's training, in order; none for a model that was
        trained elsewhere."""

    def model_at(self, checkpoint: TrainingCheckpoint | None) -> MusicModel:
        """The model as it was at a checkpoint, until the next call (None: the base model)."""

    def features(
        self, spec: GradientSpec, checkpoint: TrainingCheckpoint | None = None
    ) -> torch.Tensor:
        """Gradient features of all training segments, float32 [segments, dimension] in the order of
        `train`, under the base model or at a checkpoint. They are computed once for all methods."""

    def groups(self, column: str) -> Groups:
        """The training segments by the value that their tracks have in a column of `dim_track`;
        raises GroupError listing the columns there are."""

    def shards(self) -> Sequence[LatentSegments]:
        """The training segments in the shards of the dataset, in the order of `train`."""

    def results(self, work: Sequence["Work"]) -> list["Result"]:
        """What tasks have computed, in order. A result that is not in the store yet is computed
        and stored there, to be found again by whoever asks for the same."""

    def embedding(self, name: str) -> Embedding:
        """An audio embedding of the training segments; raises TdaError when there is none."""

    def query_embedding(self, name: str) -> Embedding:
        """The same embedding of the queries."""


class MethodSpec(Section):
    """An attribution method with everything that determines its scores.

    Subclasses narrow `method` to their own name. A field named as a section of `params.yaml` takes
    its value from there.
    """

    method: str
    family: ClassVar[Family]
    groups: ClassVar[bool] = False
    """Whether scores are effects of groups, each divided equally among the group's segments: such
    a score says nothing of a single segment, and only sums over whole groups can be read."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The method as the study's settings have it: sections by the names of the fields, and on
        top of them `method_settings.<name>`. Raises SettingsError naming the key."""
        name = cls.model_fields["method"].default
        sections = set(cls.model_fields) & set(type(settings).model_fields)
        raw: dict[str, Any] = {key: getattr(settings, key).model_dump() for key in sections}
        own = settings.method_settings.get(name, {})
        spec: Self = validated(cls, _merged(raw, own), f"method_settings.{name}")
        return spec

    @property
    def label(self) -> str:
        """A name for people; subclasses add the settings that tell two specs apart."""
        return self.method.replace("_", " ")

    @property
    def slug(self) -> str:
        """The readable part of the method's id."""
        return self.method

    @property
    def method_id(self) -> str:
        """The partition key: a readable slug and eight digits of the settings' hash."""
        return f"{re.sub('[^a-z0-9]+', '-', self.slug.lower())}-{self.digest()[:8]}"


class UnlearningSpec(MethodSpec):
    """A method that unlearns the query and looks at what else the model forgot."""

    family: ClassVar[Family] = "unlearning"

    reads: ClassVar[tuple[str, ...]] = ("model", "fisher", "train")
    """What of the material `unlearn` reads ("train" stands for all that is made of the training
    segments). It is given no more, and is asked again only when some of that has changed."""

    noise: NoiseSettings
    sweep: SweepSettings
    scoring: ScoringSettings

    @abstractmethod
    def unlearn(self, material: Material, query: LatentSegments) -> Unlearned:
        """Unlearn one query (a single segment). The model of `material` is left at θ₀."""

    @property
    def unlearning_config(self) -> dict[str, Any]:
        """What determines the unlearned checkpoint: not how it is swept and scored."""
        return self.model_dump(mode="json", exclude={"noise", "sweep", "scoring"})

    @property
    @abstractmethod
    def unlearning_forwards(self) -> int:
        """About how many forward passes one unlearning costs (a backward pass is worth two): what
        an experiment's cost is foretold by."""

    def other_samples(self, material: Material, queries: LatentSegments) -> torch.Tensor | None:
        """Samples [samples, queries, training segments] of scores that the sweep's are combined
        with (`scoring.combined`); None where the sweep stands for itself."""
        return None

    @property
    def scoring_label(self) -> str:
        """What sets the scoring apart from plain differences, to be put behind a label."""
        skew = ", skew" if self.scoring.score == "skew" else ""
        noisier = f", t from {self.scoring.timestep_min:g}" if self.scoring.timestep_min else ""
        return skew + noisier

    @property
    def plan(self) -> NoisePlan:
        """The noise plan of the sweep."""
        return NoisePlan(**self.noise.model_dump()).thinned(self.sweep.draws)


class ScoringSpec(MethodSpec):
    """A method that scores segments without changing the model."""

    @abstractmethod
    def score(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> torch.Tensor:
        """Scores float64 [queries, segments] on CPU, larger = more influential.

        `segments` is any part of the training segments: what a segment is given must not depend on
        the others of its part.
        """

    def samples(
        self, material: Material, queries: LatentSegments, segments: LatentSegments
    ) -> torch.Tensor:
        """Samples [samples, queries, segments] whose mean is the score, one per noise draw for a
        method that can tell them apart: their spread is the score's standard error."""
        return self.score(material, queries, segments).unsqueeze(0)


class JointScoringSpec(MethodSpec):
    """A method whose score of one segment depends on all the others: those that set segments off
    against each other by the curvature that they make up together."""

    @abstractmethod
    def score(self, material: Material, queries: LatentSegments) -> torch.Tensor:
        """Scores float64 [queries, training segments] on CPU, larger = more influential; segments
        in the order of `material.train`."""

    def samples(self, material: Material, queries: LatentSegments) -> torch.Tensor:
        """Samples [samples, queries, segments] of the score, as those of a `ScoringSpec`."""
        return self.score(material, queries).unsqueeze(0)

    def forwards(
        self, queries: int, segments: int, group_sizes: Callable[[str], Sequence[int]]
    ) -> int:
        """About how many forward passes the scores cost (a backward pass is worth two), for a
        forecast; 0 for a method that makes no forecast.

        `group_sizes` gives the numbers of training segments of the groups of a column.
        """
        return 0


def stored_checkpoints(material: Material, method: str) -> tuple[TrainingCheckpoint, ...]:
    """The checkpoints of the training; raises TdaError when none are stored."""
    found = material.checkpoints
    if not found:
        raise TdaError(
            f"{method}: the model of model.pipeline came without checkpoints of its training; take "
            "a method that looks at the model alone, e.g. kernel_influence"
        )
    return found


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = _merged(inner, value)
        else:
            merged[key] = value
    return merged
