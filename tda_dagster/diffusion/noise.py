"""The noise plan: the fixed draws under which losses are compared.

What belongs here: everything random in a loss. A draw is keyed by what it is for (seed, draw
index, key of the segment: `LatentSegments.keys`), never by its place in a batch, so that batch
size, shard size, device count and order cannot change which noise a segment meets.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

NoiseMode = Literal["shared", "per_segment"]


@dataclass(frozen=True)
class NoisePlan:
    """K paired draws (timestep t_k, noise ε_k) of the diffusion process.

    Timesteps are stratified: t_k is uniform in the k-th of K equal parts of
    [`timestep_min`, `timestep_max`] and the same for every segment. The noise is the same for
    every segment (`shared`, as in MUCS, arXiv:2605.17938) or its own (`per_segment`, as in AbU,
    arXiv:2406.09408). A plan may be thinned: it then has only some of its draws, each the same as
    before, so that losses under it pair with losses under the whole plan.
    """

    draws: int
    seed: int
    mode: NoiseMode = "per_segment"
    timestep_min: float = 0.0
    timestep_max: float = 1.0
    kept: tuple[int, ...] | None = None

    @property
    def indices(self) -> tuple[int, ...]:
        """The draws the plan has, by their index k counted from 0."""
        return tuple(range(self.draws)) if self.kept is None else self.kept

    def thinned(self, count: int | None) -> "NoisePlan":
        """The plan with only `count` of its draws, evenly spaced; whole for None or enough."""
        if count is None or count >= self.draws:
            return self
        width = self.draws / count
        return replace(self, kept=tuple(int((i + 0.5) * width) for i in range(count)))

    def timesteps(self) -> Tensor:
        """The timesteps of the plan's draws, float32 [draws], ascending, in (0, 1)."""
        width = (self.timestep_max - self.timestep_min) / self.draws
        offsets = [
            torch.rand((), generator=self._generator("timestep", str(k)), dtype=torch.float64)
            for k in self.indices
        ]
        starts = self.timestep_min + width * torch.tensor(self.indices, dtype=torch.float64)
        times = starts + width * torch.stack(offsets)
        return times.clamp(1e-4, 1 - 1e-4).to(torch.float32)

    def noise(self, keys: Sequence[str], latent_shape: tuple[int, int]) -> Tensor:
        """Standard normal noise, float32 [segments, draws, channels, frames] for segments by their
        draw keys and `latent_shape` = (channels, frames)."""
        if self.mode == "shared":
            drawn = torch.stack([self._draw(k, "", latent_shape) for k in self.indices])
            return drawn.expand(len(keys), *drawn.shape)
        return torch.stack(
            [torch.stack([self._draw(k, key, latent_shape) for k in self.indices]) for key in keys]
        )

    def _draw(self, k: int, key: str, latent_shape: tuple[int, int]) -> Tensor:
        return torch.randn(latent_shape, generator=self._generator("noise", str(k), key))

    def _generator(self, *key: str) -> torch.Generator:
        return keyed_generator(self.seed, *key)


def keyed_generator(seed: int, *key: str) -> torch.Generator:
    """A CPU generator that depends on the seed and the key alone, alike on every machine."""
    text = "\x1f".join([str(seed), *key])
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(number & (2**63 - 1))
