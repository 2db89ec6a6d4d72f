"""Unlearning of catalogues, regularised by Fisher information."""

from collections.abc import Sequence
from typing import Literal

from tda_dagster.attribution.methods.catalogue import CatalogueSpec
from tda_dagster.attribution.methods.tasks import GroupUnlearning, Task
from tda_dagster.settings import UnlearningSettings


class CatalogueUnlearning(CatalogueSpec):
    """FIM-regularised ascent on the loss of a group's segments, as `fim_unlearning` has it for the
    loss of a query, and how far the loss of every query rises by it.

    All unlearned checkpoints together cost 3·steps·draws·N forward passes, with N training
    segments: each segment's gradient is taken once for its group.
    """

    method: Literal["catalogue_unlearning"] = "catalogue_unlearning"
    unlearning: UnlearningSettings

    @property
    def label(self) -> str:
        options = self.unlearning
        return (
            f"catalogue unlearning by {self.group}, {options.layer_group.replace('_', ' ')}, "
            f"{options.steps} step{'s' * (options.steps > 1)}, η {options.learning_rate:g}, "
            f"λ {options.damping:g}"
        )

    @property
    def slug(self) -> str:
        return f"{self.method}-{self.group}"

    def unlearning_task(self) -> Task:
        return GroupUnlearning(unlearning=self.unlearning)

    def unlearning_forwards(self, sizes: Sequence[int]) -> int:
        return 3 * self.unlearning.steps * self.unlearning.draws * sum(sizes)
