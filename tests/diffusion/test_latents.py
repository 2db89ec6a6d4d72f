"""Shards of segments: cutting, joining, and their file."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from tda_dagster.diffusion.latents import Conditioning, LatentSegments, concatenate


def assert_same(found: LatentSegments, expected: LatentSegments) -> None:
    for field in dataclasses.fields(LatentSegments):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, torch.Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        else:
            assert one == other


def test_a_shard_comes_back_as_it_was(segments: LatentSegments, tmp_path: Path) -> None:
    odd = dataclasses.replace(
        segments, captions=tuple(f'Ünïcode "{n}"\n' for n in segments.segment_ids)
    )
    odd.save(tmp_path / "shard.safetensors")
    assert_same(LatentSegments.load(tmp_path / "shard.safetensors"), odd)


def test_the_same_segments_give_the_same_bytes(segments: LatentSegments, tmp_path: Path) -> None:
    seen = set()
    for _ in range(8):
        segments.take(range(len(segments))).save(tmp_path / "shard")
        seen.add((tmp_path / "shard").read_bytes())
    assert len(seen) == 1


def test_taking_and_joining(segments: LatentSegments) -> None:
    order = [4, 0, 2]
    taken = segments.take(order)
    assert len(taken) == 3
    for place, index in enumerate(order):
        assert_same(taken.take([place]), segments.take([index]))
    assert_same(concatenate([segments.take(range(3)), segments.take(range(3, 7))]), segments)
    assert len(segments.take([])) == 0


def test_the_mask_counts_the_valid_frames(make_segments: Callable[..., LatentSegments]) -> None:
    segments = make_segments(9)
    mask = segments.frame_mask()
    assert mask.shape == (9, segments.latents.shape[2])
    for row, valid in zip(mask.tolist(), segments.valid_frames.tolist(), strict=True):
        assert row == [True] * valid + [False] * (len(row) - valid)


def test_conditioning_is_cut_as_one() -> None:
    whole = Conditioning(torch.arange(24.0).view(4, 3, 2), torch.arange(8.0).view(4, 1, 2))
    part = whole[torch.tensor([2, 0, 2])]
    assert torch.equal(part.cross, whole.cross[[2, 0, 2]])
    assert torch.equal(part.global_, whole.global_[[2, 0, 2]])


def test_draw_keys_stay_with_their_segments(segments: LatentSegments, tmp_path: Path) -> None:
    assert segments.keys == segments.segment_ids
    keyed = dataclasses.replace(segments, draw_keys=tuple(f"k{n}" for n in range(len(segments))))
    keyed.save(tmp_path / "shard.safetensors")
    assert_same(LatentSegments.load(tmp_path / "shard.safetensors"), keyed)
    assert keyed.take([2, 0]).keys == ("k2", "k0")
    assert keyed.to(torch.device("cpu")).keys == keyed.keys
    joined = concatenate([keyed.take([1]), segments.take([3])])
    assert joined.keys == ("k1", segments.segment_ids[3])
    assert concatenate([segments.take([1]), segments.take([3])]).draw_keys == ()
    assert_same(keyed.keyed_by_id(), segments)
