"""The diagonal of the empirical Fisher information of the denoiser's weights."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tda_dagster.attribution.gradients import per_example_gradients
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import ModelError, MusicModel
from tda_dagster.diffusion.noise import NoisePlan


@dataclass(frozen=True)
class FisherSum:
    """Sums of squared per-example gradients over `segments` × `draws` examples.

    `sums` is name → float64 like the parameter. Sums of shards add up to the sum of the dataset,
    which is how the work is cut.
    """

    sums: dict[str, Tensor]
    segments: int
    draws: int

    def diagonal(self) -> dict[str, Tensor]:
        """F_j = 1/N Σᵢ 1/T Σ_t (∂L_t(zᵢ)/∂θ_j)², float64, averaged over segments and draws
        (arXiv:2506.18312, section 3; the loss here is the v-objective)."""
        return {name: total / (self.segments * self.draws) for name, total in self.sums.items()}

    def select(self, names: Sequence[str]) -> "FisherSum":
        """The same for some of the parameters; raises ModelError for one that was not measured."""
        missing = [name for name in names if name not in self.sums]
        if missing:
            raise ModelError(
                f"Fisher information was not measured for {missing[0]} and {len(missing) - 1} "
                "more parameters; widen fisher.layer_group in params.yaml"
            )
        return FisherSum({n: self.sums[n] for n in names}, self.segments, self.draws)

    def save(self, path: Path) -> None:
        """Write as one safetensors file; the same sums give the same bytes."""
        # One entry only: safetensors writes several in a different order each time.
        header = {"segments": self.segments, "draws": self.draws}
        save_file(
            {n: t.contiguous() for n, t in self.sums.items()},
            path,
            metadata={"fisher": json.dumps(header)},
        )

    @classmethod
    def load(cls, path: Path) -> "FisherSum":
        """Read what `save` wrote."""
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["fisher"])
            sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return cls(sums, header["segments"], header["draws"])


def estimate_fisher(
    model: MusicModel,
    segments: LatentSegments,
    plan: NoisePlan,
    *,
    layer_group: str = "transformer",
    mask_padding: bool = True,
    batch_size: int = 16,
) -> FisherSum:
    """Accumulate squared per-example gradients over the segments' draws, in float64; the sums are
    on the processor, wherever the model is."""
    names = model.layer_group(layer_group)
    sums = {n: torch.zeros_like(w, dtype=torch.float64) for n, w in model.weights(names).items()}
    for gradients in per_example_gradients(
        model, names, segments, plan, mask_padding=mask_padding, batch_size=batch_size
    ):
        for name, gradient in gradients.items():
            sums[name] += gradient.double().square().sum(dim=0)
    return FisherSum({n: s.cpu() for n, s in sums.items()}, len(segments), len(plan.indices))


def add_fisher(parts: Iterable[FisherSum]) -> FisherSum:
    """The sum over disjoint sets of segments under the same number of draws."""
    first, *rest = parts
    sums = {name: value.clone() for name, value in first.sums.items()}
    segments = first.segments
    for part in rest:
        segments += part.segments
        for name, value in part.sums.items():
            sums[name] += value
    return FisherSum(sums, segments, first.draws)
