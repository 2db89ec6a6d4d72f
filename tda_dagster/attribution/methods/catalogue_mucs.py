"""Unlearning of catalogues by bounded ascent against a retain loss."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tda_dagster.attribution.bounded_ascent import BoundedAscent
from tda_dagster.attribution.methods.catalogue import CatalogueSpec
from tda_dagster.attribution.methods.tasks import GroupAscent, Task


class CatalogueMucs(CatalogueSpec):
    """MUCS (arXiv:2605.17938) for groups: fine-tune a copy of the model on mean L(retain batch) −
    λ·min(L(group batch), L_null), the retain batch being of all other groups, until the loss of
    the group is at `ascent.bound` · L_null.

    GUDA (arXiv:2601.22651) also fine-tunes on retained data, but redirects the predictions for the
    group's images to similar retained ones (ReTrack), where this ascends their loss.

    An unlearned checkpoint costs at most `max_steps` · (3·(batch_size + draws) +
    criterion_segments) forward passes, whatever the size of the group.
    """

    method: Literal["catalogue_mucs"] = "catalogue_mucs"
    ascent: BoundedAscent = BoundedAscent()
    criterion_segments: int = Field(
        16, gt=0, description="segments of a group that the bound is checked on, at most"
    )

    @property
    def label(self) -> str:
        options = self.ascent
        return (
            f"catalogue MUCS by {self.group}, {options.layer_group.replace('_', ' ')}, "
            f"λ {options.ascent_weight:g}, at most {options.max_steps} steps to "
            f"{options.bound:g} L_null"
        )

    @property
    def slug(self) -> str:
        return f"{self.method}-{self.group}"

    def unlearning_task(self) -> Task:
        return GroupAscent(ascent=self.ascent, criterion_segments=self.criterion_segments)

    def unlearning_forwards(self, sizes: Sequence[int]) -> int:
        options = self.ascent
        step = 3 * (options.batch_size + options.draws) + self.criterion_segments
        return options.max_steps * step * len(sizes)
