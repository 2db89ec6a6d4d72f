"""Comparison methods against their formulas, and on renditions of real music."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log

import numpy as np
import pytest
import soxr
import torch
from renditions import RATE_HZ, WORKS, rendition

from tda_dagster.attribution.methods import ScoringSpec, method_class
from tda_dagster.attribution.methods.melody import TEMPI, Melody
from tda_dagster.attribution.similarity import cosine, standardised
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.embedding import Embedding, embed
from tda_dagster.embedding.melody import FRAME_S, melody
from tda_dagster.errors import TdaError
from tda_dagster.settings import Settings

SIMILARITIES = ["timbre", "melody", "clap", "caption"]
MakeSegments = Callable[..., LatentSegments]


@dataclass
class Study:
    """Material of comparison methods: embeddings that lie in memory."""

    train: LatentSegments
    train_embeddings: dict[str, Embedding]
    query_embeddings: dict[str, Embedding]

    def embedding(self, name: str) -> Embedding:
        return self.train_embeddings[name]

    def query_embedding(self, name: str) -> Embedding:
        return self.query_embeddings[name]


def random_sequences(count: int, frames: int, seed: int) -> torch.Tensor:
    """Chroma sequences of noise, some shorter than others, with pauses."""
    generator = np.random.default_rng(seed)
    sequences = np.zeros((count, 12, 256), np.float32)
    for index in range(count):
        columns = generator.standard_normal((12, frames - 3 * (index % 3)))
        columns -= columns.mean(axis=0)
        columns *= FRAME_S / np.linalg.norm(columns, axis=0)
        columns[:, 2 + index % 4] = 0
        sequences[index, :, : columns.shape[1]] = columns
    return torch.from_numpy(sequences)


@pytest.fixture(scope="module")
def queries(make_segments: MakeSegments) -> LatentSegments:
    made = make_segments(3, seed=5)
    return replace(
        made,
        segment_ids=("q0", "q1", "q2"),
        captions=(
            "slow piano, in F# minor",
            "a dance a dance",
            "something else entirely: xylophone",
        ),
    )


@pytest.fixture(scope="module")
def study(make_segments: MakeSegments, queries: LatentSegments) -> Study:
    train = make_segments(11)
    generator = torch.Generator().manual_seed(3)

    def vectors(ids: tuple[str, ...], scale: float) -> dict[str, Embedding]:
        timbre = 5 + scale * torch.randn((len(ids), 6), generator=generator)
        timbre[:, 4] = 2.5  # a dimension that says nothing
        return {
            "timbre": Embedding(ids, timbre),
            "clap": Embedding(ids, torch.randn((len(ids), 8), generator=generator)),
            "melody": Embedding(ids, random_sequences(len(ids), 14, seed=len(ids))),
        }

    # Embeddings know their pieces by id, not by position.
    return Study(train, vectors(train.segment_ids[::-1], 2.0), vectors(queries.segment_ids, 3.0))


def spec(name: str) -> ScoringSpec:
    found = method_class(name).of(Settings())
    assert isinstance(found, ScoringSpec)
    return found


@pytest.mark.parametrize("name", SIMILARITIES)
class TestEveryMethod:
    def test_scores_are_finite_float64_by_query_and_segment(
        self, name: str, study: Study, queries: LatentSegments
    ) -> None:
        scores = spec(name).score(study, queries, study.train)
        assert (scores.dtype, scores.shape) == (torch.float64, (3, 11))
        assert torch.isfinite(scores).all()
        assert scores.abs().max() <= 1 + 1e-9
        assert spec(name).family == "similarity"

    def test_a_segments_score_does_not_depend_on_its_shard(
        self, name: str, study: Study, queries: LatentSegments
    ) -> None:
        method = spec(name)
        together = method.score(study, queries, study.train)
        for part in ([4], [9, 2, 7], [10, 0]):
            alone = method.score(study, queries, study.train.take(part))
            torch.testing.assert_close(alone, together[:, part], rtol=0, atol=1e-12)

    def test_a_querys_score_does_not_depend_on_the_other_queries(
        self, name: str, study: Study, queries: LatentSegments
    ) -> None:
        method = spec(name)
        together = method.score(study, queries, study.train)
        alone = method.score(study, queries.take([1]), study.train)
        torch.testing.assert_close(alone, together[1:2], rtol=0, atol=1e-12)

    def test_a_training_segment_is_most_similar_to_itself(self, name: str, study: Study) -> None:
        itself = Study(study.train, study.train_embeddings, study.train_embeddings)
        scores = spec(name).score(itself, study.train, study.train)
        np.testing.assert_allclose(scores.diagonal(), 1)
        np.testing.assert_allclose(scores.max(dim=1).values, 1)


def test_timbre_is_the_cosine_of_standardised_vectors(
    study: Study, queries: LatentSegments
) -> None:
    reference = study.embedding("timbre").vectors.double().numpy()
    mean, deviation = reference.mean(axis=0), reference.std(axis=0)
    scores = spec("timbre").score(study, queries, study.train)
    kept = [0, 1, 2, 3, 5]
    for row, query in enumerate(queries.segment_ids):
        a = (study.query_embedding("timbre").of([query])[0].double().numpy() - mean)[kept]
        a /= deviation[kept]
        for column, segment in enumerate(study.train.segment_ids):
            b = (study.embedding("timbre").of([segment])[0].double().numpy() - mean)[kept]
            b /= deviation[kept]
            expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert float(scores[row, column]) == pytest.approx(expected)


def test_clap_is_the_cosine(study: Study, queries: LatentSegments) -> None:
    scores = spec("clap").score(study, queries, study.train)
    for row, query in enumerate(queries.segment_ids):
        a = study.query_embedding("clap").of([query])[0].double()
        for column, segment in enumerate(study.train.segment_ids):
            b = study.embedding("clap").of([segment])[0].double()
            assert float(scores[row, column]) == pytest.approx(float(a @ b / a.norm() / b.norm()))


def test_nothing_is_similar_to_nothing() -> None:
    vectors = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert cosine(vectors, vectors)[0].tolist() == [0, 0]
    same = torch.full((5, 3), 0.1)
    assert standardised(same, same).tolist() == [[0.0] * 3] * 5


class TestCaption:
    def test_it_is_the_cosine_of_tf_idf(self, study: Study, queries: LatentSegments) -> None:
        def words(caption: str) -> list[str]:
            for mark in ",:":
                caption = caption.replace(mark, " ")
            return caption.lower().split()

        known = [words(caption) for caption in study.train.captions]
        vocabulary = sorted({word for caption in known for word in caption})
        idf = [
            log((1 + len(known)) / (1 + sum(word in caption for caption in known))) + 1
            for word in vocabulary
        ]

        def vector(caption: str) -> np.ndarray:
            counted = np.array([words(caption).count(word) for word in vocabulary])
            weighted = counted * np.array(idf)
            return weighted / max(np.linalg.norm(weighted), 1e-12)

        expected = [
            [vector(asked) @ vector(there) for there in study.train.captions]
            for asked in queries.captions
        ]
        scores = spec("caption").score(study, queries, study.train)
        np.testing.assert_allclose(scores, expected, atol=1e-12)
        assert (scores[2] == 0).all()  # no word of it is known

    def test_sharps_count(self, study: Study) -> None:
        captions = ("a piece in F# minor", "a piece in F minor")
        pair = replace(study.train.take([0, 1]), captions=captions)
        scores = spec("caption").score(Study(pair, {}, {}), pair, pair)
        assert scores[0, 1] < 0.9

    def test_captions_without_words_are_refused(self, study: Study) -> None:
        empty = replace(study.train, captions=("",) * len(study.train))
        with pytest.raises(TdaError, match="caption"):
            spec("caption").score(Study(empty, {}, {}), empty, empty)


class TestMelody:
    def test_it_is_the_best_over_tempi_transpositions_and_displacements(
        self, study: Study, queries: LatentSegments
    ) -> None:
        scores = spec("melody").score(study, queries, study.train)
        for row, query in enumerate(queries.segment_ids):
            heard = study.query_embedding("melody").of([query])[0].double().numpy()
            for column in (0, 3, 8):
                name = study.train.segment_ids[column]
                there = study.embedding("melody").of([name])[0].double().numpy()
                expected = max(self.similarity(self.played(heard, tempo), there) for tempo in TEMPI)
                assert float(scores[row, column]) == pytest.approx(expected, abs=1e-6)

    @staticmethod
    def played(sequence: np.ndarray, tempo: float) -> np.ndarray:
        """At another tempo: a frame is the sum of the parts of frames that it covers."""
        used = int(np.flatnonzero(sequence.any(axis=0))[-1]) + 1
        frames = round(used / tempo)
        width = used / frames
        columns = np.zeros((12, frames))
        for new in range(frames):
            for old in range(used):
                part = min((new + 1) * width, old + 1) - max(new * width, old)
                columns[:, new] += max(0.0, part) * sequence[:, old]
        return columns

    @staticmethod
    def similarity(heard: np.ndarray, there: np.ndarray) -> float:
        def unit(sequence: np.ndarray) -> list[np.ndarray]:
            lengths = np.linalg.norm(sequence, axis=0)
            return [
                column / length if length > 1e-9 else np.zeros(12)
                for column, length in zip(sequence.T, lengths, strict=True)
            ]

        a, b = unit(heard), unit(there)
        sounding = sum(bool(column.any()) for column in a)
        best = -np.inf
        for semitones in range(12):
            turned = [np.roll(column, semitones) for column in a]
            for shift in range(-len(a), len(b)):
                pairs = [
                    (turned[i], b[i + shift]) for i in range(len(a)) if 0 <= i + shift < len(b)
                ]
                meeting = [(x, y) for x, y in pairs if x.any() and y.any()]
                total = sum(float(x @ y) for x, y in meeting)
                best = max(best, total / np.sqrt(max(len(meeting), 1) * sounding))
        return float(best)

    @pytest.fixture(scope="class")
    def library(self) -> Embedding:
        """Four works, each played by the first ensemble of its collection."""
        return embed(melody, [(work, rendition(work)) for work in WORKS], RATE_HZ)

    @staticmethod
    def compare(library: Embedding, audio: np.ndarray, make_segments: MakeSegments) -> np.ndarray:
        """Scores of the works for a recording."""
        train = replace(make_segments(len(WORKS)), segment_ids=library.ids)
        query = replace(make_segments(1), segment_ids=("query",))
        asked = {"melody": embed(melody, [("query", audio)], RATE_HZ)}
        scores = Melody().score(Study(train, {"melody": library}, asked), query, train)
        return scores[0].numpy()

    @pytest.mark.parametrize("work", WORKS)
    @pytest.mark.parametrize(
        ("ensemble", "semitones", "tempo"),
        [(1, 0, 1.0), (0, 3, 1.0), (0, 0, 1.2), (1, -4, 0.84), (1, 5, 1.15)],
    )
    def test_other_renditions_are_found(
        self,
        work: str,
        ensemble: int,
        semitones: int,
        tempo: float,
        library: Embedding,
        make_segments: MakeSegments,
    ) -> None:
        audio = rendition(work, ensemble, semitones, tempo)
        scores = self.compare(library, audio, make_segments)
        index = WORKS.index(work)
        assert scores.argmax() == index
        assert scores[index] > 1.15 * np.delete(scores, index).max()

    def test_transposing_the_recording_itself_hardly_matters(
        self, library: Embedding, make_segments: MakeSegments
    ) -> None:
        audio = rendition(WORKS[1])
        higher = soxr.resample(audio, RATE_HZ, RATE_HZ / 2 ** (2 / 12))  # and faster by as much
        scores = self.compare(library, higher, make_segments)
        assert scores[1] > 0.85
        assert scores.argmax() == 1

    def test_a_part_is_found_wherever_it_lies(
        self, library: Embedding, make_segments: MakeSegments
    ) -> None:
        part = rendition(WORKS[2])[2 * RATE_HZ : 6 * RATE_HZ]
        scores = self.compare(library, part, make_segments)
        assert scores.argmax() == 2
        assert scores[2] > 0.85

    def test_pieces_with_frames_of_different_lengths_are_compared(
        self, library: Embedding, make_segments: MakeSegments
    ) -> None:
        long = np.concatenate([rendition(work) for work in WORKS])
        assert len(long) > 24.6 * RATE_HZ
        scores = self.compare(embed(melody, [("long", long)], RATE_HZ), long, make_segments)
        assert scores[0] == pytest.approx(1)
        both = Embedding(
            (*library.ids, "long"),
            torch.cat([library.vectors, torch.from_numpy(melody(long, RATE_HZ))[None]]),
        )
        excerpt = rendition(WORKS[1])
        train = replace(make_segments(5), segment_ids=both.ids)
        query = replace(make_segments(1), segment_ids=("query",))
        asked = {"melody": embed(melody, [("query", excerpt)], RATE_HZ)}
        found = Melody().score(Study(train, {"melody": both}, asked), query, train)[0]
        # The medley holds the excerpt: second only to the excerpt itself.
        assert found.argsort(descending=True)[:2].tolist() == [1, 4]

    def test_silence_is_similar_to_nothing(
        self, library: Embedding, make_segments: MakeSegments
    ) -> None:
        silence = np.zeros(RATE_HZ, np.float32)
        assert (self.compare(library, silence, make_segments) == 0).all()
