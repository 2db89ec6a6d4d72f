"""Influence under the whole Fisher information: the derivative of unlearning."""

from typing import ClassVar, Literal

from pydantic import Field

from tda_dagster.attribution.methods.gradient_influence import KernelSpec
from tda_dagster.attribution.methods.spec import Family


class KernelInfluence(KernelSpec):
    """How fast each segment's loss rises as the query is unlearned: g_i·(F + λI)⁻¹·g_q/N.

    FIM-regularised unlearning (arXiv:2506.18312, section 3) moves the weights along F⁻¹∇L(ẑ); this
    is the derivative of the losses along that way, with F the whole empirical Fisher information of
    the training segments rather than its diagonal, and no step size. All queries share one pass
    over the training segments.

    With `objective: energy` what is unlearned, and looked for, is not the loss but the mean square
    of the prediction: the output function of D-TRAK (arXiv:2311.00500), of which this is the form
    that unlearning gives it, with a damping as strong as the curvature.
    """

    method: Literal["kernel_influence"] = "kernel_influence"
    family: ClassVar[Family] = "unlearning"
    damping: float = Field(1.0, gt=0, description="relative to the kernel's mean eigenvalue")

    @property
    def label(self) -> str:
        return f"kernel influence, {self.gradients.label}, λ {self.damping:g}"
