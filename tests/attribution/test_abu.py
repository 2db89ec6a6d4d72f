"""AbU's sweep, and what its noise depends on."""

import pytest
import torch
from attribution.conftest import Study
from torch import Tensor

from tda_dagster.attribution.methods import JointScoringSpec, method_class
from tda_dagster.attribution.unlearning import unlearn
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.noise import keyed_generator
from tda_dagster.diffusion.objective import denoising_loss
from tda_dagster.settings import Settings, overridden

TIMES = 3


def scores(study: Study, queries: LatentSegments, batch: int, cached: int) -> Tensor:
    own = {"timesteps": TIMES, "batch_size": batch, "cached_batch_size": cached}
    settings = overridden(
        Settings(), {"unlearning.draws": 2, "method_settings": {"abu": own}}, "test"
    )
    method = method_class("abu").of(settings)
    assert isinstance(method, JointScoringSpec)
    return method.score(study, queries)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def queries(segments: LatentSegments) -> LatentSegments:
    return segments.take([2, 5])


def test_scores_are_rises_under_noise_by_the_batch(study: Study, queries: LatentSegments) -> None:
    model, train = study.model, study.train
    found = scores(study, queries, 4, 4)
    options = dict(Settings().unlearning) | {"draws": 2}
    for q in range(len(queries)):
        delta = unlearn(model, queries.take([q]), study.fisher, **options).delta
        for i in range(len(train)):
            one = train.take([i])
            batch, place = divmod(i, 4)
            in_batch = min(4, len(train) - 4 * batch)
            generator = keyed_generator(0, "batch", str(batch))
            noise = torch.randn((in_batch, TIMES, *model.latent_shape), generator=generator)[place]
            rise = 0.0
            for k in range(TIMES):
                arguments = (
                    one.latents,
                    model.condition(one.captions, one.seconds_start, one.seconds_total),
                    noise[k : k + 1],
                    torch.tensor([max(k / TIMES, 1e-4)]),
                )
                before = denoising_loss(model, *arguments)
                with model.shifted(delta):
                    rise += float(denoising_loss(model, *arguments) - before) / TIMES
            assert float(found[q, i]) == pytest.approx(rise, rel=1e-2, abs=1e-6)


def test_another_batch_size_breaks_the_pairs(study: Study, queries: LatentSegments) -> None:
    paired, broken = scores(study, queries, 4, 4), scores(study, queries, 4, 3)
    assert float(broken.abs().mean()) > 3 * float(paired.abs().mean())
    # The first segment of the first batch meets the same noise in both.
    torch.testing.assert_close(paired[:, 0], broken[:, 0], rtol=1e-2, atol=1e-6)
