"""Embeddings of several pieces: making, finding, keeping."""

from pathlib import Path

import numpy as np
import pytest
import torch
from renditions import RATE_HZ, WORKS, rendition

from tda_dagster.embedding import Embedding, embed, open_embedders
from tda_dagster.errors import TdaError


@pytest.fixture
def embedding() -> Embedding:
    vectors = torch.randn((3, 2, 5), generator=torch.Generator().manual_seed(0))
    return Embedding(("b", "a", "ç"), vectors)


def test_a_file_gives_back_what_was_saved(embedding: Embedding, tmp_path: Path) -> None:
    embedding.save(tmp_path / "one")
    loaded = Embedding.load(tmp_path / "one")
    assert loaded.ids == embedding.ids
    assert torch.equal(loaded.vectors, embedding.vectors)


def test_the_same_vectors_are_the_same_bytes(embedding: Embedding, tmp_path: Path) -> None:
    embedding.save(tmp_path / "one")
    turned = embedding.vectors.transpose(1, 2).contiguous().transpose(1, 2)
    Embedding(embedding.ids, turned).save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_vectors_are_found_by_id(embedding: Embedding) -> None:
    found = embedding.of(["ç", "b", "ç"])
    assert torch.equal(found, embedding.vectors[[2, 0, 2]])
    with pytest.raises(TdaError, match=r"x \(and 1 more\)"):
        embedding.of(["x", "b", "y"])
    with pytest.raises(TdaError, match=r"^x: "):
        embedding.of(["x"])


@pytest.mark.parametrize("name", ["timbre", "melody"])
class TestEmbedders:
    def test_padding_is_no_part_of_a_piece(self, name: str) -> None:
        audio = rendition(WORKS[0])
        padded = np.pad(audio, (0, 2 * RATE_HZ))
        made = embed(open_embedders(None)[name], [("a", audio), ("b", padded)], RATE_HZ)
        assert made.vectors.dtype == torch.float32
        assert torch.equal(made.vectors[0], made.vectors[1])

    def test_pieces_do_not_depend_on_each_other(self, name: str) -> None:
        embedder = open_embedders(None)[name]
        pieces = [(work, rendition(work)) for work in WORKS[:3]]
        together = embed(embedder, pieces, RATE_HZ)
        alone = embed(embedder, pieces[2:], RATE_HZ)
        assert torch.equal(together.of([WORKS[2]]), alone.vectors)

    @pytest.mark.parametrize("gain", [0.01, 3.0, -1.0])
    def test_gain_changes_nothing(self, name: str, gain: float) -> None:
        embedder = open_embedders(None)[name]
        audio = rendition(WORKS[1])
        louder = (gain * audio).astype(np.float32)
        np.testing.assert_allclose(embedder(louder, RATE_HZ), embedder(audio, RATE_HZ), atol=2e-3)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("samples", [1, 100, RATE_HZ // 2])
    def test_very_short_and_silent_pieces_have_a_vector(self, name: str, samples: int) -> None:
        embedder = open_embedders(None)[name]
        whole = embedder(rendition(WORKS[0]), RATE_HZ)
        for audio in (rendition(WORKS[0])[:samples], np.zeros(samples, np.float32)):
            vector = embedder(audio, RATE_HZ)
            assert (vector.shape, vector.dtype) == (whole.shape, np.dtype(np.float32))
            assert np.isfinite(vector).all()

    @pytest.mark.parametrize("rate", [1000, 11_025, 44_100])
    def test_any_sampling_rate_will_do(self, name: str, rate: int) -> None:
        import soxr

        audio = soxr.resample(rendition(WORKS[0]), RATE_HZ, rate)
        assert np.isfinite(open_embedders(None)[name](audio, rate)).all()


def test_what_cannot_be_embedded_is_named() -> None:
    embedder = open_embedders(None)["timbre"]
    for audio in (np.zeros((2, 100)), np.zeros(0), np.array([0.0, np.nan])):
        with pytest.raises(TdaError, match="piece-7"):
            embed(embedder, [("piece-7", audio.astype(np.float32))], RATE_HZ)
    with pytest.raises(TdaError, match="no pieces"):
        embed(embedder, [], RATE_HZ)


def test_clap_is_there_when_it_is_given() -> None:
    assert list(open_embedders(None)) == ["timbre", "melody"]
    with pytest.raises(TdaError, match=r"embeddings\.clap"):
        open_embedders("/nowhere/at-all")
