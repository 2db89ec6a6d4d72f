"""What methods have in common that are linear in the gradient of the query."""

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from tda_dagster.attribution.features import GradientSpec
from tda_dagster.attribution.influence import kernel_influence
from tda_dagster.attribution.methods.spec import JointScoringSpec, Material
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel

Ask = Callable[[MusicModel], Tensor]
"""Gradient features of what is asked about, float32 [rows, dimension], under a model."""


class GradientInfluenceSpec(JointScoringSpec):
    """A method whose scores are linear in the query's gradient features. What the gradient of one
    noise draw says is then a sample of the score, and samples say how sure it is."""

    gradients: GradientSpec

    @property
    def features(self) -> GradientSpec:
        """The features that are compared."""
        return self.gradients

    @abstractmethod
    def influence(self, material: Material, ask: Ask) -> Tensor:
        """Scores float64 [rows, training segments] of what is asked about, linear in it."""

    def samples(self, material: Material, queries: LatentSegments) -> Tensor:
        rows = self.influence(
            material, lambda model: self.features.by_draw(model, queries).flatten(0, 1)
        )
        return rows.reshape(-1, len(queries), rows.shape[1])

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        return self.samples(material, queries).mean(dim=0)


class KernelSpec(GradientInfluenceSpec):
    """One that compares features under the whole of their damped second moment: what TRAK and
    unlearning under Fisher information have in common. They differ in the features, and in how
    strong the damping is."""

    damping: float

    def influence(self, material: Material, ask: Ask) -> Tensor:
        segments = material.features(self.features)
        return kernel_influence(ask(material.model), segments, self.damping)
