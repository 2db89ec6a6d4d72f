"""How much of a loss sweep is bare model forward?

    python benchmarks/sweep_overhead.py            # in the folder of a study that has been run

Times the sweep of one shard under a delta, as the main job does it, against nothing but the
model's forward passes on the same rows, in turns, and prints the medians and their ratio.
"""

import statistics
import time

import torch

from tda_dagster.attribution.gradients import draw_rows
from tda_dagster.attribution.sweep import sweep
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.objective import diffuse
from tda_dagster.diffusion.opening import open_model
from tda_dagster.store import Artifact
from tda_dagster.workspace import Workspace

REPEATS = 5


def main() -> None:
    workspace = Workspace.find()

    def live(asset: str) -> Artifact:
        head = workspace.store.head(asset)
        assert head is not None, f"{asset} has not been materialised; run `tda run` first"
        return workspace.store.artifact(head.digest)

    folder = workspace.cache / "benchmark"
    live("base/checkpoint").export(folder)
    model = open_model(folder / "pipeline")
    latents = live("dataset/latents")
    segments = LatentSegments.load(latents.path(latents.entries[-1]))
    settings = workspace.settings
    plan = NoisePlan(**settings.noise.model_dump())
    delta = {
        n: torch.full_like(w, 1e-5)
        for n, w in model.weights(model.layer_group("transformer")).items()
    }
    batches = [
        (*diffuse(r.latents, r.noise, r.timesteps), r.timesteps, r.conditioning)
        for r in draw_rows(model, segments, plan, settings.sweep.batch_size)
    ]
    whole, bare = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        sweep(model, segments, plan, delta, batch_size=settings.sweep.batch_size)
        whole.append(time.perf_counter() - start)
        start = time.perf_counter()
        with torch.no_grad():
            for noised, _target, timesteps, conditioning in batches:
                model(noised, timesteps, conditioning)
        bare.append(time.perf_counter() - start)
    rows = len(segments) * plan.draws
    print(f"{rows} rows, {torch.get_num_threads()} threads, median of {REPEATS}")
    print(f"sweep          {statistics.median(whole):.2f} s")
    print(f"bare forward   {statistics.median(bare):.2f} s")
    ratios = [b / w for b, w in zip(bare, whole, strict=True)]
    print(
        f"bare / sweep   {statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
