"""The reference model again, trained on a part of its data: what it would have been.

A retraining differs from the base model's training in the data alone: the tokenizer and the
first weights are those of the whole dataset, and batches are drawn by the same rule.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableAudioPipeline
from torch import Tensor

from tda_dagster.diffusion.autoencoder import open_autoencoder
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.reference import ReferenceTraining, Trainer, build_pipeline
from tda_dagster.diffusion.stable_audio import StableAudioModel

TRAINED = ("transformer", "projection_model", "text_encoder")
"""The parts of a pipeline that training changes."""


class Retrainer:
    """Trains one pipeline again and again from its first weights; a thread needs its own.

    Building a pipeline draws from torch's global generator: make instances one at a time.
    """

    def __init__(
        self, autoencoder: Path, train: LatentSegments, training: ReferenceTraining, seeds: int
    ) -> None:
        self._train, self._training = train, training
        frames = int(train.latents.shape[2])
        self._first = {}
        for repeat in range(seeds):
            self._pipeline = build_pipeline(
                open_autoencoder(autoencoder),
                train.captions,
                frames,
                replace(training, seed=training.seed + repeat),
            )
            self._first[repeat] = trained_weights(self._pipeline)

    def train(self, rows: list[int], repeat: int) -> dict[str, Tensor]:
        """The weights after training on those rows of the training segments alone, under the
        base model's seed (repeat 0) or another one; name → float32."""
        put_weights(self._pipeline, self._first[repeat])
        settings = replace(self._training, seed=self._training.seed + repeat)
        trainer = Trainer(self._pipeline, self._train.take(rows), self._train.take([]), settings)
        for _ in trainer.advance(settings.steps):
            pass
        return trained_weights(trainer.finish())

    def model(self, weights: Mapping[str, Tensor]) -> MusicModel:
        """The model with those weights, until the next `train` or `model`."""
        put_weights(self._pipeline, weights)
        return StableAudioModel(self._pipeline)


def trained_weights(pipeline: StableAudioPipeline) -> dict[str, Tensor]:
    """A copy of all weights of the trained parts, by name with the part's name before it."""
    return {
        f"{part}.{name}": parameter.detach().clone()
        for part in TRAINED
        for name, parameter in getattr(pipeline, part).named_parameters()
    }


@torch.no_grad()
def put_weights(pipeline: StableAudioPipeline, weights: Mapping[str, Tensor]) -> None:
    """Overwrite weights of the trained parts by those of the same names; others stay."""
    for part in TRAINED:
        for name, parameter in getattr(pipeline, part).named_parameters():
            if f"{part}.{name}" in weights:
                parameter.copy_(weights[f"{part}.{name}"])
