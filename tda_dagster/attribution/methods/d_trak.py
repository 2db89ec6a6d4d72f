"""D-TRAK: TRAK with another output function, made for diffusion models."""

from typing import ClassVar, Literal

from pydantic import Field

from tda_dagster.attribution.features import GradientSpec
from tda_dagster.attribution.methods.gradient_influence import KernelSpec
from tda_dagster.attribution.methods.spec import Family
from tda_dagster.settings import GradientSettings


class DTrak(KernelSpec):
    """TRAK on the gradients of the mean square of the prediction in the loss's place (Zheng et al.,
    arXiv:2311.00500, section 3.2, "square"), which that paper found to foretell better although
    theory asks for the loss."""

    method: Literal["d_trak"] = "d_trak"
    family: ClassVar[Family] = "gradient"
    gradients: GradientSettings  # type: ignore[assignment]  # which objective is no setting here
    damping: float = Field(1e-3, gt=0, description="relative to the kernel's mean eigenvalue")

    @property
    def label(self) -> str:
        return f"D-TRAK, {self.features.label}, λ {self.damping:g}"

    @property
    def features(self) -> GradientSpec:
        return GradientSpec(**dict(self.gradients), objective="energy")
