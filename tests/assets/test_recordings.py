"""A dataset's recordings are worked on in shards: what is decoded again, and what is not."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

import assets  # noqa: F401  (declares them)
from tda_dagster.corpus import TooManyRejects, examination
from tda_dagster.corpus.files import audio_looks, audio_stamp
from tda_dagster.materialization import STUDY_ASSETS, Job, settings_view
from tda_dagster.store import Artifact
from tda_dagster.workspace import Workspace

Record = Callable[[], list[str]]


def make(root: Path, name: str) -> tuple[Artifact, bool]:
    """Materialise an asset as a run does; returns it, and whether it was found."""
    workspace = Workspace(root)
    declared = STUDY_ASSETS[name]
    inputs = {n: ref.digest for n, ref in declared.heads(workspace.store, None).items()}
    recipe = declared.recipe(workspace.settings, inputs, None, workspace)
    job = Job(
        asset=declared,
        workspace=workspace,
        settings=settings_view(workspace.settings, declared.settings, None),
        inputs={n: workspace.store.artifact(digest) for n, digest in inputs.items()},
        recipe=recipe,
        partition=None,
        run_id="",
        progress=lambda done, total: None,
    )
    made = workspace.store.materialize(recipe, lambda out: declared.produce(job, out))
    return made.artifact, made.cached


def index(root: Path) -> tuple[set[str], dict[str, str]]:
    """Make the index; returns its tracks, and its rejects with their reasons."""
    for name in ("base/autoencoder", "dataset/manifest"):
        make(root, name)
    artifact, _ = make(root, "dataset/index")
    tracks = pl.read_parquet(artifact.path("tracks.parquet"))["track_id"]
    rejects = pl.read_parquet(artifact.path("rejects.parquet"))
    return set(tracks), dict(rejects.select("audio", "reason").iter_rows())


def write_track(root: Path, number: int) -> None:
    noise = np.random.default_rng(number).uniform(-0.5, 0.5, 24_000)
    soundfile.write(root / "music" / f"t{number}.wav", noise, 16_000)


def write_manifest(root: Path, names: list[str]) -> None:
    rows = "".join(f"{name},a caption\n" for name in names)
    (root / "music" / "manifest.csv").write_text(f"audio,caption\n{rows}")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of six tracks of a manifest."""
    (tmp_path / "music").mkdir()
    (tmp_path / "params.yaml").write_text(
        "dataset: {manifest: music/manifest.csv, max_reject_fraction: 0.5}\n"
    )
    for number in range(6):
        write_track(tmp_path, number)
    write_manifest(tmp_path, [f"t{number}.wav" for number in range(6)])
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Record:
    """Returns the names of the files that were decoded since it was asked last."""
    names: list[str] = []
    genuine = examination.open_audio

    def open_audio(uri: str, spec: examination.SegmentSpec) -> object:
        names.append(Path(uri).name)
        return genuine(uri, spec)

    monkeypatch.setattr(examination, "open_audio", open_audio)

    def since() -> list[str]:
        found = sorted(names)
        names.clear()
        return found

    return since


def test_only_new_and_changed_files_are_decoded(study: Path, decoded: Record) -> None:
    assert index(study) == ({f"t{number}" for number in range(6)}, {})
    assert decoded() == [f"t{number}.wav" for number in range(6)]
    write_track(study, 6)
    write_manifest(study, [f"t{number}.wav" for number in range(7)])
    assert index(study)[0] == {f"t{number}" for number in range(7)}
    assert decoded() == ["t6.wav"]
    soundfile.write(study / "music" / "t2.wav", np.full(40_000, 0.5), 16_000)
    assert index(study)[0] == {f"t{number}" for number in range(7)}
    assert decoded() == ["t2.wav"]
    text = (study / "music" / "manifest.csv").read_text()
    (study / "music" / "manifest.csv").write_text(text.replace("t3.wav,a", "t3.wav,another"))
    index(study)
    assert decoded() == []


def test_the_index_is_the_same_whatever_was_known_before(study: Path, tmp_path: Path) -> None:
    write_manifest(study, [f"t{number}.wav" for number in range(4)])
    index(study)
    write_manifest(study, [*(f"t{number}.wav" for number in range(6)), "gone.wav"])
    index(study)
    grown, _ = make(study, "dataset/index")
    text = (study / "params.yaml").read_text()
    (study / "params.yaml").write_text(
        f"{text}store: {{root: elsewhere}}\ncompute: {{workers: 1}}\n"
    )
    index(study)
    fresh, _ = make(study, "dataset/index")
    assert grown.digest == fresh.digest


def test_a_run_that_was_killed_leaves_its_shards(
    study: Path, decoded: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assets import recordings

    monkeypatch.setattr(recordings, "FILES_PER_SHARD", 1)
    genuine = recordings.Examiner.examine

    def interrupted(self: recordings.Examiner, audio: str, sha256: str | None = None) -> object:
        if audio == "t5.wav":
            raise KeyboardInterrupt
        return genuine(self, audio, sha256)

    monkeypatch.setattr(recordings.Examiner, "examine", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index(study)
    first = decoded()
    monkeypatch.setattr(recordings.Examiner, "examine", genuine)
    assert len(index(study)[0]) == 6
    again = decoded()
    assert "t5.wav" in again
    assert first
    assert not set(first) & set(again)


def test_all_rejects_are_listed_in_a_file(study: Path) -> None:
    write_manifest(study, ["t0.wav", *(f"gone{number}.wav" for number in range(9))])
    with pytest.raises(TooManyRejects, match=r"9 of 10 rows.*\n.*(.*\n)*.*rejects\.csv"):
        index(study)
    listed = pl.read_csv(study / "data" / "rejects.csv")
    assert listed["line"].to_list() == list(range(3, 12))
    write_manifest(study, ["t0.wav", "t1.wav"])
    index(study)
    assert not (study / "data" / "rejects.csv").exists()


def test_a_file_that_appears_is_a_track_in_the_next_run(study: Path) -> None:
    write_manifest(study, ["t0.wav", "t1.wav", "t7.wav"])
    assert index(study) == ({"t0", "t1"}, {"t7.wav": "missing_file"})
    write_track(study, 7)
    assert index(study) == ({"t0", "t1", "t7"}, {})
    (study / "music" / "t7.wav").unlink()
    assert index(study) == ({"t0", "t1"}, {"t7.wav": "missing_file"})


@pytest.mark.parametrize("fails_for", ["dataset/manifest", "dataset/index"])
def test_a_file_that_could_not_be_read_is_tried_again(
    study: Path, monkeypatch: pytest.MonkeyPatch, fails_for: str
) -> None:
    """Nothing about the file changes: only the attempt fails, as with a bad network."""
    from tda_dagster.corpus import audio, files
    from tda_dagster.corpus.location import LocationError, read_bytes

    def fail(uri: str) -> bytes:
        if uri.endswith("t1.wav"):
            raise LocationError("it cannot be read: the disk is tired", missing=False)
        return read_bytes(uri)

    monkeypatch.setattr(audio, "read_bytes", fail)
    if fails_for == "dataset/manifest":
        monkeypatch.setattr(files, "read_bytes", fail)
    for _ in range(2):
        tracks, rejects = index(study)
        assert len(tracks) == 5
        assert rejects == {"t1.wav": "unreadable"}
    monkeypatch.setattr(audio, "read_bytes", read_bytes)
    monkeypatch.setattr(files, "read_bytes", read_bytes)
    for _ in range(2):
        assert len(index(study)[0]) == 6
    _, found = make(study, "dataset/index")
    assert found


def test_access_that_is_given_later_counts(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rights of a file change neither its size nor its time."""
    manifest = str(study / "music" / "manifest.csv")
    before = audio_stamp(manifest, audio_looks(manifest))
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("t1.wav"))
    assert audio_stamp(manifest, audio_looks(manifest)) != before
