"""The audio that a model works on. Known without opening the model, and without its libraries."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tda_dagster.corpus.segments import SegmentSpec
from tda_dagster.settings import DatasetSettings


@dataclass(frozen=True)
class AudioFormat:
    """The audio a model works on: rate (Hz), channels, samples per latent frame, latent frames
    per segment."""

    sampling_rate: int
    audio_channels: int
    hop_length: int
    frames: int

    @property
    def samples(self) -> int:
        """Audio samples of one segment."""
        return self.frames * self.hop_length

    @property
    def seconds(self) -> float:
        return self.samples / self.sampling_rate

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "AudioFormat":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def spec_for(audio: AudioFormat, settings: DatasetSettings) -> SegmentSpec:
    """How recordings are cut under `dataset` settings for a model of this audio format."""
    return SegmentSpec(
        sample_rate_hz=audio.sampling_rate,
        channels=audio.audio_channels,
        samples=audio.samples,
        hop_length=audio.hop_length,
        min_seconds=settings.min_seconds,
        silence_dbfs=settings.silence_dbfs,
    )
