"""Segments as the diffusion model sees them: latents with their conditioning.

What belongs here: the in-memory form of a shard of segments and its file. A shard is one
safetensors file: the latents as a tensor, everything else as JSON in the header.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors import safe_open
from safetensors.torch import save as serialised
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told: `cross` [n, S, D] for cross-attention (text, start, end) and
    `global_` [n, 1, G] prepended to the sequence (start, end)."""

    cross: Tensor
    global_: Tensor

    def __getitem__(self, index: Tensor | slice) -> "Conditioning":
        return Conditioning(self.cross[index], self.global_[index])


@dataclass(frozen=True)
class LatentSegments:
    """Segments in latent space, in the order of `segment_ids`.

    `latents` float32 [n, C, T]; `valid_frames` int64 [n], the leading frames that are music and
    not padding; `captions`; `seconds_start` and `seconds_total` (s), each segment's place in its
    track and the track's length. `draw_keys` are what random draws for a segment are keyed by;
    empty: by its id. Queries are keyed by their content, so that equal pieces meet equal draws.
    """

    segment_ids: tuple[str, ...]
    latents: Tensor
    valid_frames: Tensor
    captions: tuple[str, ...]
    seconds_start: tuple[float, ...]
    seconds_total: tuple[float, ...]
    draw_keys: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, rows: pl.DataFrame, latents: Tensor, captions: Mapping[str, str]
    ) -> "LatentSegments":
        """The segments of `rows` (columns of `dim_segment`), whose `latents` are in the same
        order, with their tracks' captions by track id."""
        return cls(
            segment_ids=tuple(rows["segment_id"]),
            latents=latents,
            valid_frames=torch.tensor(rows["valid_frames"].to_list()),
            captions=tuple(captions[track] for track in rows["track_id"]),
            seconds_start=tuple(rows["start_s"]),
            seconds_total=tuple(rows["seconds_total"]),
        )

    def __len__(self) -> int:
        return len(self.segment_ids)

    @property
    def keys(self) -> tuple[str, ...]:
        """What random draws for each segment are keyed by."""
        return self.draw_keys or self.segment_ids

    def keyed_by_id(self) -> "LatentSegments":
        """The same segments with draws that are keyed by their ids."""
        return replace(self, draw_keys=())

    def frame_mask(self) -> Tensor:
        """Bool [n, T], true where a frame is valid."""
        frames = torch.arange(self.latents.shape[2], device=self.valid_frames.device)
        return frames < self.valid_frames.unsqueeze(1)

    def take(self, indices: Sequence[int]) -> "LatentSegments":
        """The segments at `indices`, in that order."""
        return LatentSegments(
            segment_ids=tuple(self.segment_ids[i] for i in indices),
            latents=self.latents[list(indices)],
            valid_frames=self.valid_frames[list(indices)],
            captions=tuple(self.captions[i] for i in indices),
            seconds_start=tuple(self.seconds_start[i] for i in indices),
            seconds_total=tuple(self.seconds_total[i] for i in indices),
            draw_keys=tuple(self.draw_keys[i] for i in indices) if self.draw_keys else (),
        )

    def to(self, device: torch.device) -> "LatentSegments":
        return replace(
            self, latents=self.latents.to(device), valid_frames=self.valid_frames.to(device)
        )

    @cached_property
    def digest(self) -> str:
        """sha256 of the file that `save` writes."""
        return hashlib.sha256(serialised(**self._file())).hexdigest()

    def save(self, path: Path) -> None:
        """Write the shard as safetensors; the same segments give the same bytes."""
        save_file(filename=path, **self._file())

    def _file(self) -> dict[str, Any]:
        """The tensors and the metadata of the file."""
        header = {
            "segment_ids": self.segment_ids,
            "captions": self.captions,
            "seconds_start": self.seconds_start,
            "seconds_total": self.seconds_total,
        }
        if self.draw_keys:
            header["draw_keys"] = self.draw_keys
        return {
            "tensors": {
                "latents": self.latents.contiguous(),
                "valid_frames": self.valid_frames.contiguous(),
            },
            "metadata": {"segments": json.dumps(header, ensure_ascii=False)},
        }

    @classmethod
    def load(cls, path: Path) -> "LatentSegments":
        """Read a shard written by `save`."""
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["segments"])
            latents, valid_frames = file.get_tensor("latents"), file.get_tensor("valid_frames")
        return cls(
            segment_ids=tuple(header["segment_ids"]),
            latents=latents,
            valid_frames=valid_frames,
            captions=tuple(header["captions"]),
            seconds_start=tuple(header["seconds_start"]),
            seconds_total=tuple(header["seconds_total"]),
            draw_keys=tuple(header.get("draw_keys", ())),
        )


def concatenate(shards: Sequence[LatentSegments]) -> LatentSegments:
    """All segments of the shards in one, in order."""
    keyed = any(s.draw_keys for s in shards)
    return LatentSegments(
        segment_ids=tuple(name for s in shards for name in s.segment_ids),
        latents=torch.cat([s.latents for s in shards]),
        valid_frames=torch.cat([s.valid_frames for s in shards]),
        captions=tuple(c for s in shards for c in s.captions),
        seconds_start=tuple(x for s in shards for x in s.seconds_start),
        seconds_total=tuple(x for s in shards for x in s.seconds_total),
        draw_keys=tuple(key for s in shards for key in s.keys) if keyed else (),
    )
