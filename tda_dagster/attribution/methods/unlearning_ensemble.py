"""FIM unlearning and influence under the whole Fisher information, together."""

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from tda_dagster.attribution.features import GradientSpec
from tda_dagster.attribution.methods.fim_unlearning import FimUnlearning
from tda_dagster.attribution.methods.kernel_influence import KernelInfluence
from tda_dagster.attribution.methods.spec import Material
from tda_dagster.diffusion.latents import LatentSegments


class UnlearningEnsemble(FimUnlearning):
    """The mean of what `fim_unlearning` and `kernel_influence` say, each as robust z.

    Both unlearn the query under Fisher information: one by a step of some length along its
    diagonal, one by the derivative of a step along the whole of it. They are wrong about different
    segments, so that their mean is right more often than either.
    """

    method: Literal["unlearning_ensemble"] = "unlearning_ensemble"  # type: ignore[assignment]
    gradients: GradientSpec
    damping: float = Field(1.0, gt=0, description="of `kernel_influence`")

    @property
    def label(self) -> str:
        return f"Unlearning ensemble, {super().label}, with {self._kernel.label}"

    @property
    def slug(self) -> str:
        return self.method

    @property
    def unlearning_config(self) -> dict[str, Any]:
        # The checkpoints are those of FIM unlearning, and need not be made again.
        shared = FimUnlearning.model_fields
        alone = {name: getattr(self, name) for name in shared if name != "method"}
        return FimUnlearning(**alone).unlearning_config

    @property
    def _kernel(self) -> KernelInfluence:
        return KernelInfluence(gradients=self.gradients, damping=self.damping)

    def other_samples(self, material: Material, queries: LatentSegments) -> Tensor:
        return self._kernel.samples(material, queries)
