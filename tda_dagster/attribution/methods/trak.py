"""TRAK: attribution by a linearised model of random features."""

from typing import ClassVar, Literal

from pydantic import Field

from tda_dagster.attribution.methods.gradient_influence import KernelSpec
from tda_dagster.attribution.methods.spec import Family


class Trak(KernelSpec):
    """φ_q·(ΦᵀΦ)⁻¹·φ_i, with φ the randomly projected gradient of a piece's loss (Park et al.,
    arXiv:2303.14186, eq. 16), the loss itself being the model's output, as for diffusion models in
    arXiv:2311.00500. One model; the damping only keeps the inverse finite."""

    method: Literal["trak"] = "trak"
    family: ClassVar[Family] = "gradient"
    damping: float = Field(1e-3, gt=0, description="relative to the kernel's mean eigenvalue")

    @property
    def label(self) -> str:
        return f"TRAK, {self.features.label}, λ {self.damping:g}"
