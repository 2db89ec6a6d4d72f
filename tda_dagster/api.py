"""Attribution without Dagster, store or warehouse: a dataset in memory, scores in a frame."""

import polars as pl
import torch

from tda_dagster.attribution.scoring import score_difference
from tda_dagster.attribution.sweep import sweep
from tda_dagster.attribution.unlearning import Unlearned
from tda_dagster.corpus import SegmentSpec, index_dataset, iter_segments, read_manifest
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.numerics import fixed_numerics


@fixed_numerics()
def open_dataset(
    manifest: str,
    model: MusicModel,
    *,
    min_seconds: float = 1.0,
    max_reject_fraction: float = 0.05,
    batch_size: int = 8,
) -> LatentSegments:
    """The segments of a manifest (path or URL) in the model's latent space, all in memory.

    Rows that cannot be used are left out; more than `max_reject_fraction` of them raise.
    """
    spec = SegmentSpec(
        sample_rate_hz=model.sampling_rate,
        channels=model.audio_channels,
        samples=model.window_samples,
        hop_length=model.hop_length,
        min_seconds=min_seconds,
    )
    index = index_dataset(
        read_manifest(manifest),
        spec,
        heldout_fraction=0.0,
        seed=0,
        max_reject_fraction=max_reject_fraction,
    )
    audio = [torch.from_numpy(samples) for _, samples in iter_segments(index, spec)]
    batches = [
        model.encode(torch.stack(audio[start : start + batch_size])).cpu()
        for start in range(0, len(audio), batch_size)
    ]
    captions = dict(index.tracks.select("track_id", "caption").iter_rows())
    return LatentSegments.of(index.segments, torch.cat(batches), captions)


@fixed_numerics()
def rank(
    model: MusicModel,
    dataset: LatentSegments,
    unlearned: Unlearned,
    plan: NoisePlan,
    *,
    mask_padding: bool = False,
) -> pl.DataFrame:
    """Segments by influence on the unlearned query, largest first.

    Columns segment_id, score (rise of the loss, larger = more influential), score_se, rank.
    """
    base = sweep(model, dataset, plan)
    after = sweep(model, dataset, plan, unlearned.delta)
    return score_difference(base, after, mask_padding=mask_padding)
