"""How much faster are the parts of FIM unlearning on an accelerator, and do they agree?

    python benchmarks/device.py [--layers 24 --heads 24 --head-dim 64 --frames 216 --rows 32]

Builds a Stable Audio transformer of the given size with random weights and, on the processor and
on the accelerator in turns, times the Fisher information, the unlearning of one piece and the loss
sweep after it; prints medians, their ratio, and how far apart the results are.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tda_dagster.attribution.fisher import FisherSum, estimate_fisher
from tda_dagster.attribution.sweep import sweep
from tda_dagster.attribution.unlearning import unlearn
from tda_dagster.diffusion.autoencoder import SpectralAutoencoder
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.reference import ReferenceTraining, build_pipeline
from tda_dagster.diffusion.stable_audio import StableAudioModel

CHANNELS = 8
TURNS = 3
PLAN = NoisePlan(draws=4, seed=0)
CAPTIONS = ("a calm chorale for string quartet", "a lively jig for solo flute")


def main() -> None:
    options = _options()
    size = options.layers, options.heads, options.head_dim, options.frames
    models = [_model(*size, device) for device in ("cpu", "cuda")]
    parameters = sum(p.numel() for p in models[0].denoiser.parameters())
    print(
        f"{parameters / 1e6:.1f} M parameters, {options.frames} frames, {options.rows} rows, "
        f"{torch.get_num_threads()} threads, {torch.cuda.get_device_name()}; median of {TURNS}"
    )
    segments = _segments(options.rows // PLAN.draws, options.frames)
    # A Fisher information of ones, so that every size can be unlearned from without waiting.
    weights = models[0].weights(models[0].layer_group("transformer"))
    flat = FisherSum(
        {n: torch.ones(w.shape, dtype=torch.float64) for n, w in weights.items()}, 1, 1
    )

    def fisher(model: MusicModel) -> Tensor:
        found = estimate_fisher(model, segments, PLAN, batch_size=options.batch)
        return torch.cat([value.flatten() for value in found.sums.values()])

    def unlearned(model: MusicModel) -> dict[str, Tensor]:
        return unlearn(
            model, segments.take([0]), flat, learning_rate=1e-3, draws=options.rows, damping=1.0,
            seed=1, batch_size=options.batch,
        ).delta  # fmt: skip

    def unlearning(model: MusicModel) -> Tensor:
        return torch.cat([value.flatten().double().cpu() for value in unlearned(model).values()])

    delta = unlearned(models[1])

    def swept(model: MusicModel) -> Tensor:
        losses = sweep(model, segments, PLAN, delta, batch_size=options.batch)
        return losses["loss"].to_torch().double()

    for name, part in (("Fisher", fisher), ("unlearning", unlearning), ("sweep", swept)):
        _compare(name, part, models)


def _compare(name: str, part: Callable[[MusicModel], Tensor], models: list[MusicModel]) -> None:
    seconds: list[list[float]] = [[], []]
    results = [part(model) for model in models]  # the first call warms up
    for _ in range(TURNS):
        for model, taken in zip(models, seconds, strict=True):
            start = time.perf_counter()
            part(model)  # ends on the processor, so nothing is still running
            taken.append(time.perf_counter() - start)
    slow, fast = map(statistics.median, seconds)
    apart = ((results[1] - results[0]).norm() / results[0].norm()).item()
    print(
        f"{name:<11} cpu {slow:8.3f} s   cuda {fast:8.3f} s   ratio {slow / fast:7.1f}   "
        f"apart {apart:.1e}",
        flush=True,
    )


def _model(layers: int, heads: int, head_dim: int, frames: int, device: str) -> MusicModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = SpectralAutoencoder(
            sampling_rate=1000, fft_size=64, frame_hop=16, stack=2, latent_channels=CHANNELS,
            width=8, phase_iterations=3,
        )  # fmt: skip
        training = ReferenceTraining(
            steps=1, batch_size=1, learning_rate=1e-3, warmup_steps=1, caption_dropout=0.0,
            ema_decay=0.9, layers=layers, heads=heads, head_dim=head_dim, seed=0,
        )  # fmt: skip
        pipeline = build_pipeline(autoencoder, CAPTIONS, frames, training)
        with torch.no_grad():
            for parameter in pipeline.transformer.parameters():
                if not parameter.any():  # fresh, its output is zero and most gradients are
                    parameter.normal_(std=0.02)
    return StableAudioModel(pipeline.to(device))


def _segments(count: int, frames: int) -> LatentSegments:
    generator = torch.Generator().manual_seed(0)
    return LatentSegments(
        segment_ids=tuple(f"segment-{row}" for row in range(count)),
        latents=torch.randn((count, CHANNELS, frames), generator=generator),
        valid_frames=torch.full((count,), frames),
        captions=tuple(CAPTIONS[row % 2] for row in range(count)),
        seconds_start=(0.0,) * count,
        seconds_total=(10.0,) * count,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (
        ("layers", 4), ("heads", 4), ("head-dim", 32), ("frames", 216), ("rows", 32), ("batch", 16),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
