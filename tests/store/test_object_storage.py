"""How settings and environment lead to an object store, and what of a study may lie in one."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from faulty_proxy import FaultyProxy
from s3_server import S3Server, enter

from tda_dagster.corpus import SegmentSpec, read_manifest
from tda_dagster.corpus.examination import Examiner, Unusable
from tda_dagster.corpus.files import audio_digests, audio_looks, audio_stamp
from tda_dagster.corpus.location import LocationError, read_bytes
from tda_dagster.object_storage import (
    ObjectStorageError,
    export_settings,
    open_url,
    side_by_side,
)


@pytest.fixture
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    enter(monkeypatch, {})
    yield
    export_settings()


def aws() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


@pytest.mark.usefixtures("_nothing_set")
def test_settings_become_the_standard_variables_for_this_process_and_its_children() -> None:
    export_settings(endpoint_url="https://s3.example.org", profile="music", region="eu-central-1")
    expected = {
        "AWS_ENDPOINT_URL_S3": "https://s3.example.org",
        "AWS_PROFILE": "music",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    assert aws() == expected
    code = "import os; print({n: v for n, v in os.environ.items() if n.startswith('AWS_')})"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert eval(child.stdout) == expected
    files, path = open_url("s3://bucket/prefix")
    assert path == "bucket/prefix"
    assert files.fs.endpoint_url == "https://s3.example.org"
    assert files.fs.client_kwargs == {"region_name": "eu-central-1"}


@pytest.mark.usefixtures("_nothing_set")
def test_what_was_exported_makes_room_for_other_settings() -> None:
    export_settings(endpoint_url="https://one.example.org", region="eu-central-1")
    export_settings(endpoint_url="https://two.example.org")
    assert aws() == {"AWS_ENDPOINT_URL_S3": "https://two.example.org"}
    export_settings()
    assert aws() == {}


@pytest.mark.usefixtures("_nothing_set")
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    theirs = {variable: "http://theirs.example.org", "AWS_PROFILE": "me", "AWS_REGION": "r1"}
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    export_settings(endpoint_url="https://s3.example.org", profile="music", region="r2")
    # botocore, and with it DVC, knows only the other name of the region.
    assert aws() == theirs | {"AWS_DEFAULT_REGION": "r1"}
    assert open_url("s3://bucket")[0].fs.endpoint_url == "http://theirs.example.org"


@pytest.mark.usefixtures("_nothing_set")
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3.example.org", "is no endpoint"),
        ("ftp://s3.example.org", "is no endpoint"),
        ("https://user:hidden@s3.example.org", "carries credentials"),
        ("https://s3.example.org?token=hidden", "carries credentials"),
    ],
)
def test_an_endpoint_that_is_none_is_refused(url: str, words: str) -> None:
    with pytest.raises(ObjectStorageError, match=f"store.endpoint_url.*{words}") as caught:
        export_settings(endpoint_url=url)
    assert "hidden" not in str(caught.value)
    assert aws() == {}


def test_side_by_side_keeps_the_order_and_stops_at_an_error() -> None:
    assert list(side_by_side(lambda n: n * n, range(100), 7)) == [n * n for n in range(100)]
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        return 1 // number

    with pytest.raises(ZeroDivisionError):
        list(side_by_side(work, range(10_000), 2))
    assert len(begun) < 10_000


# What of a study may lie in an object store


@pytest.fixture
def dataset(s3_root: str, s3_server: S3Server) -> str:
    """A manifest with three recordings and one that is missing; returns its URL."""
    fs = s3_server.filesystem()
    rows = ["audio,caption,title"]
    for number in range(3):
        tone = np.sin(np.arange(4000) * 0.01 * (number + 1)).astype("float32")
        wav = io.BytesIO()
        soundfile.write(wav, tone, 8000, format="WAV")
        fs.pipe_file(f"{s3_root}/audio/{number}.wav", wav.getvalue())
        rows.append(f"audio/{number}.wav,a tone,t{number}")
    rows.append("audio/gone.wav,nothing,gone")
    fs.pipe_file(f"{s3_root}/manifest.csv", "\n".join(rows).encode())
    return f"{s3_root}/manifest.csv"


def test_a_manifest_and_its_audio_lie_on_s3(dataset: str, s3_server: S3Server) -> None:
    assert read_manifest(dataset).total == 4
    looks = audio_looks(dataset)
    assert [(name, look is None) for name, look in looks.items()] == [
        ("audio/0.wav", False), ("audio/1.wav", False), ("audio/2.wav", False),
        ("audio/gone.wav", True),
    ]  # fmt: skip
    assert list(audio_digests(dataset, list(looks))) == [
        "audio/0.wav",
        "audio/1.wav",
        "audio/2.wav",
    ]
    stamp = audio_stamp(dataset, looks)
    assert stamp == audio_stamp(dataset, audio_looks(dataset))
    s3_server.filesystem().pipe_file(dataset.replace("manifest.csv", "audio/1.wav"), b"other")
    assert stamp != audio_stamp(dataset, audio_looks(dataset))
    with pytest.raises(LocationError, match="no such file") as caught:
        read_bytes(dataset + ".not")
    assert caught.value.missing


def test_an_outage_of_a_file_is_not_one_of_the_store(
    dataset: str,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One file that cannot be had now is left out for now; when none can, nothing is known."""
    proxy = FaultyProxy(s3_server.port)
    enter(monkeypatch, s3_server.environment(proxy.endpoint))
    monkeypatch.setattr(open_url, "__kwdefaults__", {"transfers": 8, "patience_s": 0.5})
    names = list(audio_looks(dataset))
    before = audio_stamp(dataset, audio_looks(dataset))
    try:
        proxy.add("status", "", "audio/1.wav", times=10_000, status=503)
        looks = audio_looks(dataset)
        assert [name for name in names if looks[name] is None] == ["audio/1.wav", "audio/gone.wav"]
        assert audio_stamp(dataset, looks) != before
        assert list(audio_digests(dataset, names)) == ["audio/0.wav", "audio/2.wav"]
        spec = SegmentSpec(8000, 1, 4096, 512, min_seconds=0.1)
        outcome = Examiner(dataset, spec).examine("audio/1.wav", "ab" * 32)
        assert isinstance(outcome, Unusable)
        assert outcome.sha256 is None
        proxy.add("status", "", "audio/", times=10_000, status=503)
        for read in (audio_looks, lambda uri: audio_digests(uri, names)):
            with pytest.raises(ObjectStorageError, match=r"audio/.*HTTP 503"):
                read(dataset)
    finally:
        proxy.close()


def test_a_pipeline_lies_on_s3(
    s3_root: str, s3_server: S3Server, spectral_folder: Path, tmp_path: Path
) -> None:
    from tda_dagster.diffusion.model import ModelError
    from tda_dagster.diffusion.opening import copy_pipeline, pipeline_stamp

    fs = s3_server.filesystem()
    fs.put(f"{spectral_folder}/", f"{s3_root}/pipeline/", recursive=True)
    copy_pipeline(f"{s3_root}/pipeline", tmp_path / "copy")
    here = {p.relative_to(spectral_folder): p for p in spectral_folder.rglob("*") if p.is_file()}
    for name, path in here.items():
        assert (tmp_path / "copy" / name).read_bytes() == path.read_bytes()
    stamp = pipeline_stamp(f"{s3_root}/pipeline")
    assert stamp == pipeline_stamp(f"{s3_root}/pipeline")
    fs.pipe_file(f"{s3_root}/pipeline/model_index.json", b"{}")
    assert stamp != pipeline_stamp(f"{s3_root}/pipeline")
    with pytest.raises(ModelError, match="cannot be fetched: there is nothing"):
        copy_pipeline(f"{s3_root}/nothing", tmp_path / "none")
