"""FIM-regularised unlearning, the method of arXiv:2506.18312."""

from typing import ClassVar, Literal

from tda_dagster.attribution.methods.spec import Material, UnlearningSpec
from tda_dagster.attribution.unlearning import Unlearned, unlearn
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.settings import UnlearningSettings


class FimUnlearning(UnlearningSpec):
    """Gradient ascent on the query's loss, preconditioned by Fisher information."""

    method: Literal["fim_unlearning"] = "fim_unlearning"
    reads: ClassVar[tuple[str, ...]] = ("model", "fisher")
    unlearning: UnlearningSettings

    @property
    def label(self) -> str:
        """What the paper's grid varies."""
        options = self.unlearning
        masks = {(True, False): "M_U", (False, True): "M_L", (True, True): "M_U and M_L"}
        used = masks.get((options.mask_padding, self.scoring.mask_padding), "no mask")
        return (
            f"FIM unlearning, {options.layer_group.replace('_', ' ')}, {used}, "
            f"{options.steps} step{'s' * (options.steps > 1)}, "
            f"η {options.learning_rate:g}, λ {options.damping:g}{self.scoring_label}"
        )

    @property
    def slug(self) -> str:
        return f"{self.method}-{self.unlearning.layer_group}-{self.unlearning.steps}step"

    @property
    def unlearning_forwards(self) -> int:
        return 3 * self.unlearning.steps * self.unlearning.draws

    def unlearn(self, material: Material, query: LatentSegments) -> Unlearned:
        return unlearn(material.model, query, material.fisher, **dict(self.unlearning))
