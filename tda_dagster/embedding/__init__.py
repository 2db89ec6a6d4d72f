"""Audio embeddings: what a recording sounds like, as vectors.

What belongs here: functions from audio to vectors that know nothing of the model. How vectors are
compared is the business of the methods that use them.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tda_dagster.errors import TdaError

Embedder = Callable[[np.ndarray, int], np.ndarray]
"""(mono float32 audio [samples], sampling rate in Hz) → float32 vector of a fixed shape."""


@dataclass(frozen=True)
class Embedding:
    """An embedding of several pieces: `vectors` float32 [n, *shape], row by row for `ids`."""

    ids: tuple[str, ...]
    vectors: torch.Tensor

    def of(self, ids: Sequence[str]) -> torch.Tensor:
        """The vectors of some pieces, in that order; raises TdaError for one that has none."""
        place = {name: index for index, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in place]
        if missing:
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise TdaError(f"{missing[0]}{others}: the embedding has no such piece")
        return self.vectors[[place[name] for name in ids]]

    def save(self, path: Path) -> None:
        """Write one safetensors file; the same vectors give the same bytes."""
        # One entry, for several are written in an order that varies.
        metadata = {"embedding": json.dumps({"ids": self.ids}, ensure_ascii=False)}
        save_file({"vectors": self.vectors.contiguous()}, path, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> "Embedding":
        """Read a file written by `save`."""
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["embedding"])
            return cls(ids=tuple(header["ids"]), vectors=file.get_tensor("vectors"))


def open_embedders(clap: str | None, base: Path | None = None) -> dict[str, Embedder]:
    """The embedders there are, by name: "timbre", "melody", and "clap" when its weights are given.

    `clap` is the setting `embeddings.clap`, relative to the folder `base` (by default the current
    one); raises TdaError when it cannot be opened.
    """
    # Here, because importing librosa takes longer than most commands.
    from tda_dagster.embedding.melody import melody
    from tda_dagster.embedding.timbre import timbre

    embedders: dict[str, Embedder] = {"timbre": timbre, "melody": melody}
    if clap is not None:
        from tda_dagster.embedding.clap import open_clap

        embedders["clap"] = open_clap(clap, base)
    return embedders


def embed(embedder: Embedder, pieces: Iterable[tuple[str, np.ndarray]], rate: int) -> Embedding:
    """Embed pieces: (id, mono float32 audio [samples] at `rate` Hz), one after the other.

    Zeros at the end of a piece are padding and no part of it: a padded segment has the embedding
    of its valid part. Raises TdaError naming a piece without samples or with ones not finite.
    """
    ids: list[str] = []
    vectors: list[torch.Tensor] = []
    for name, audio in pieces:
        if audio.ndim != 1 or not len(audio) or not np.isfinite(audio).all():
            raise TdaError(
                f"{name}: mono audio [samples] of finite numbers can be embedded, "
                f"not {list(audio.shape)} with {int((~np.isfinite(audio)).sum())} NaN or Inf"
            )
        ids.append(name)
        vectors.append(torch.from_numpy(embedder(_without_padding(audio), rate)))
    if not ids:
        raise TdaError("there are no pieces to embed")
    return Embedding(tuple(ids), torch.stack(vectors))


def _without_padding(audio: np.ndarray) -> np.ndarray:
    """The audio up to its last sample that is not zero; all of it when there is none."""
    sounding = np.flatnonzero(audio)
    return audio[: sounding[-1] + 1] if len(sounding) else audio
