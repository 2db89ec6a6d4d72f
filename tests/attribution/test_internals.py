"""Methods that look inside the denoiser, against their definitions: LPIPS, representer points."""

import gc
from collections.abc import Callable

import pytest
import torch

from tda_dagster.attribution.methods import Material
from tda_dagster.attribution.methods.lpips import Lpips
from tda_dagster.attribution.methods.representer import Representer
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.objective import diffuse

pytestmark = pytest.mark.usefixtures("untouched")


def test_activations_are_those_the_blocks_give(model: MusicModel, segments: LatentSegments) -> None:
    conditioning = model.condition(
        segments.captions, segments.seconds_start, segments.seconds_total
    )
    times = torch.full((len(segments),), 0.3)
    found = model.activations(segments.latents, times, conditioning)
    assert len(found) == len(model.blocks)
    for activation in found:
        assert activation.shape[:2] == (len(segments), segments.latents.shape[2])
    # Nothing is left behind, and a second pass gives the same.
    assert all(not block._forward_hooks for block in model.blocks)
    again = model.activations(segments.latents, times, conditioning)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def distance_by_hand(
    model: MusicModel, spec: Lpips, one: LatentSegments, other: LatentSegments
) -> float:
    """The mean over draws, blocks and shared frames of the squared distance, frame by frame."""
    plan = NoisePlan(draws=spec.draws, seed=spec.seed, mode="shared")
    frames = min(int(one.valid_frames), int(other.valid_frames))
    distances = []
    for k, time in enumerate(plan.timesteps()):
        activations = []
        for piece in (one, other):
            noise = plan.noise(piece.segment_ids, model.latent_shape)[:, k]
            noised, _ = diffuse(piece.latents, noise, time.view(1))
            condition = model.condition(piece.captions, piece.seconds_start, piece.seconds_total)
            activations.append(model.activations(noised, time.view(1), condition))
        for a, b in zip(*activations, strict=True):
            for frame in range(frames):
                u, v = a[0, frame], b[0, frame]
                distances.append(float((u / u.norm() - v / v.norm()).square().sum()))
    return sum(distances) / len(distances)


def test_lpips_is_the_mean_distance_of_unit_activations(
    study: Material, segments: LatentSegments, make_segments: Callable[..., LatentSegments]
) -> None:
    spec, queries = Lpips(batch_size=3), make_segments(3, seed=8)
    scores = spec.score(study, queries, segments)
    assert scores.shape == (3, len(segments))
    for q, s in ((0, 0), (1, 4), (2, 1)):
        by_hand = distance_by_hand(study.model, spec, queries.take([q]), segments.take([s]))
        assert float(scores[q, s]) == pytest.approx(-by_hand, abs=1e-5)


def test_lpips_of_a_segment_with_itself_is_zero(study: Material, segments: LatentSegments) -> None:
    scores = Lpips().score(study, segments, segments)
    assert torch.allclose(scores.diagonal(), torch.zeros(len(segments)).double(), atol=1e-5)
    assert torch.allclose(scores, scores.T, atol=1e-5)
    assert float(scores.max()) < 1e-5
    assert float((scores - torch.diag(scores.diagonal())).sum()) < -0.01


def test_lpips_holds_one_batch_of_segments_at_a_time(
    study: Material,
    model: MusicModel,
    segments: LatentSegments,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Lpips().score(study, segments.take([0]), segments)
    width = model.weights([model.output_layer])[model.output_layer].shape[1]
    flat = segments.latents.shape[2] * width
    held: list[int] = []
    compute = type(model).activations

    def watched(self: MusicModel, *rows: object) -> list[torch.Tensor]:
        kept = [x for x in gc.get_objects() if type(x) is torch.Tensor and x.shape[1:] == (flat,)]
        held.append(sum(len(x) for x in kept))
        return compute(self, *rows)  # type: ignore[arg-type]

    monkeypatch.setattr(type(model), "activations", watched)
    scores = Lpips(batch_size=2).score(study, segments.take([0]), segments)
    # Pieces whose activations are held: the query and no more than a batch, in every block.
    assert 0 < max(held) <= (1 + 2) * len(model.blocks) < len(segments) * len(model.blocks)
    assert torch.allclose(scores, whole, atol=1e-5)


def test_representer_is_the_product_of_gradients_of_the_output_layer(
    study: Material,
    twin: MusicModel,
    segments: LatentSegments,
    gradient_by_hand: Callable[..., dict[str, torch.Tensor]],
    make_segments: Callable[..., LatentSegments],
) -> None:
    spec, queries = Representer(draws=2), make_segments(2, seed=8)
    plan = NoisePlan(draws=2, seed=spec.seed)

    def gradients(pieces: LatentSegments) -> torch.Tensor:
        return torch.stack(
            [
                sum(
                    gradient_by_hand(twin, pieces.take([i]), plan, k, True)[twin.output_layer]
                    for k in range(2)
                ).flatten()  # type: ignore[union-attr]
                / 2
                for i in range(len(pieces))
            ]
        )

    expected = gradients(queries) @ gradients(segments).T
    found = spec.score(study, queries, segments)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("spec", [Lpips(batch_size=3), Representer(draws=2, batch_size=3)])
def test_a_score_does_not_depend_on_the_rest_of_the_shard(
    study: Material, segments: LatentSegments, spec: Lpips | Representer
) -> None:
    queries = segments.take([0, 1])
    whole = spec.score(study, queries, segments)
    parts = [spec.score(study, queries, segments.take(p)) for p in ([0, 1, 2], [3, 4, 5, 6])]
    assert torch.allclose(whole, torch.cat(parts, dim=1), rtol=1e-4, atol=1e-5)


def test_fresh_weights_are_those_of_an_untrained_model(model: MusicModel) -> None:
    fresh = model.freshly_initialised(3)
    linear = {n for n in model.layer_group("transformer") if "norm" not in n}
    assert linear <= set(fresh)
    for name, value in fresh.items():
        assert value.shape == dict(model.denoiser.named_parameters())[name].shape
        if value.dim() == 2:
            bound = value.shape[1] ** -0.5
            assert float(value.abs().max()) <= bound
            assert float(value.std()) == pytest.approx(bound / 3**0.5, rel=0.2)
    again, other = model.freshly_initialised(3), model.freshly_initialised(4)
    assert all(torch.equal(fresh[n], again[n]) for n in fresh)
    assert not torch.equal(fresh[model.output_layer], other[model.output_layer])
