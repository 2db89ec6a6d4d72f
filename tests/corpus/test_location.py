"""Finding files: the same name in another form is found, a similar one is mentioned, and what is
no file, or cannot be reached, is a reject of its own row."""

import http.server
import os
import socket
import threading
import time
import unicodedata
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import fsspec
import numpy as np
import polars as pl
import pytest
import soundfile

from tda_dagster.corpus import (
    DatasetIndex,
    SegmentSpec,
    index_dataset,
    iter_segments,
    location,
    read_manifest,
    web,
)
from tda_dagster.corpus.files import audio_digests, audio_looks, audio_stamp
from tda_dagster.corpus.location import (
    LocationError,
    look,
    read_bytes,
    resolve,
    shown_location,
    suffix,
)

SPEC = SegmentSpec(sample_rate_hz=8000, channels=1, samples=8192, hop_length=512, min_seconds=0.5)
NFC, NFD = (unicodedata.normalize(form, "Señorita café") for form in ("NFC", "NFD"))


@pytest.fixture(autouse=True)
def _hosts_are_not_known() -> Iterator[None]:
    web.forget_hosts()
    yield
    web.forget_hosts()


def tone(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 8000)
    soundfile.write(path, noise, 8000, format="WAV")


def manifest(folder: Path, audio: list[str]) -> str:
    path = folder / "manifest.parquet"
    ids = [str(number) for number in range(len(audio))]
    pl.DataFrame({"audio": audio, "caption": "a tone", "track_id": ids}).write_parquet(path)
    return str(path)


def index(uri: str) -> DatasetIndex:
    rows = read_manifest(uri)
    return index_dataset(rows, SPEC, heldout_fraction=0, seed=0, max_reject_fraction=1, workers=2)


def stamp_of(uri: str) -> str:
    return audio_stamp(uri, audio_looks(uri))


def digests_of(uri: str) -> dict[str, str]:
    return audio_digests(uri, list(audio_looks(uri)))


def details(dataset: DatasetIndex) -> dict[str, str]:
    return dict(dataset.rejects.select("audio", "detail").iter_rows())


# Names


@pytest.mark.parametrize(("on_disk", "written"), [(NFD, NFC), (NFC, NFD)])
def test_unicode_forms_of_a_name_are_one_name(tmp_path: Path, on_disk: str, written: str) -> None:
    tone(tmp_path / on_disk / f"{on_disk}.wav")
    uri = manifest(tmp_path, [f"{written}/{written}.wav"])
    dataset = index(uri)
    assert details(dataset) == {}
    assert len(list(iter_segments(dataset, SPEC))) == 1
    assert len(digests_of(uri)) == 1
    stamp = stamp_of(uri)
    tone(tmp_path / on_disk / f"{on_disk}.wav", seed=1)
    os.utime(tmp_path / on_disk / f"{on_disk}.wav", (1, 1))
    assert stamp_of(uri) != stamp


def test_of_two_forms_the_exact_one_is_taken_and_a_third_is_ambiguous(tmp_path: Path) -> None:
    mixed = NFC[:8] + NFD[9:]
    assert unicodedata.normalize("NFC", mixed) == NFC
    assert mixed not in (NFC, NFD)
    (tmp_path / f"{NFC}.wav").write_bytes(b"composed")
    (tmp_path / f"{NFD}.wav").write_bytes(b"decomposed")
    assert read_bytes(str(tmp_path / f"{NFC}.wav")) == b"composed"
    assert read_bytes(str(tmp_path / f"{NFD}.wav")) == b"decomposed"
    with pytest.raises(LocationError, match="2 whose names differ from it in Unicode form") as e:
        read_bytes(str(tmp_path / f"{mixed}.wav"))
    assert e.value.missing


@pytest.mark.parametrize(
    ("on_disk", "written", "mentioned"),
    [
        ("a b.WAV", "a b.wav", "a b.WAV"),
        ("Song.wav", "song.wav", "Song.wav"),
        ("disc 1/a.wav", "disc 1\\a.wav", "disc 1/a.wav"),
        ("a.wav", "C:\\Music\\a.wav", "a.wav"),
        ("Disc 1/a.wav", "disc 1/a.wav", "Disc 1"),
        ("a.flac", "a.wav", "a.flac"),
        ("a b.wav", "a%20b.wav", "a b.wav"),
        ("a b.wav", "a_b.wav", "a b.wav"),
        ("a.wav", "a.wav ", "a.wav"),
        ("moonlight sonata.wav", "moonligth sonata.wav", "moonlight sonata.wav"),
        (f"{NFD}.wav", f"{NFC.upper()}.wav", f"{NFD}.wav"),
    ],
)
def test_a_similar_name_is_mentioned_and_not_taken(
    tmp_path: Path, on_disk: str, written: str, mentioned: str
) -> None:
    tone(tmp_path / on_disk)
    (tmp_path / "something else.wav").touch()
    tone(tmp_path / "found" / "0.wav")
    dataset = index(manifest(tmp_path, [written, "found/0.wav"]))
    assert dataset.rejects["reason"].to_list() == ["missing_file"]
    detail = details(dataset)[written]
    assert "there is no such file; a similar name is there: " in detail
    assert detail.split("is there: ")[1].startswith(repr(mentioned))
    assert str(tmp_path) not in detail


def test_no_similar_name(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    for name in ("b.wav", "no folder/a.wav", "a.wav/b.wav", "x" * 300):
        with pytest.raises(LocationError, match=r"^there is no such file$") as caught:
            read_bytes(str(tmp_path / name))
        assert caught.value.missing


def test_names_in_a_store_without_folders() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"/names/{NFD} #1.wav", b"found")
    fs.pipe_file("/names/sub/a.WAV", b"not taken")
    assert read_bytes(f"memory://names/{NFC} #1.wav") == b"found"
    assert look(f"memory://names/{NFC} #1.wav")["size"] == 5
    with pytest.raises(LocationError, match=r"a similar name is there: 'a\.WAV'"):
        read_bytes("memory://names/sub/a.wav")
    with pytest.raises(LocationError, match=r"a similar name is there: 'sub/a\.WAV'"):
        read_bytes("memory://names/sub\\a.WAV")


# What is no regular file


def test_pipes_sockets_devices_and_folders_are_not_opened(tmp_path: Path) -> None:
    tone(tmp_path / "good.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to("pipe.wav")
    (tmp_path / "dangling.wav").symlink_to("nothing.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as unix:
        os.chdir(tmp_path)  # the name of a socket must be short
        try:
            unix.bind("socket.wav")
        finally:
            os.chdir(here)
        names = [p.name for p in tmp_path.iterdir()] + ["/dev/zero", "file:///dev/zero"]
        uri = manifest(tmp_path, sorted(names))
        started = time.monotonic()
        stamp, digests, dataset = stamp_of(uri), digests_of(uri), index(uri)
        assert time.monotonic() - started < 5
    assert stamp == stamp_of(uri)
    assert list(digests) == ["good.wav"]
    assert dataset.tracks["audio"].to_list() == ["good.wav"]
    said = details(dataset)
    assert said.pop("manifest.parquet", "").count("cannot be decoded") <= 1
    assert {name: detail.split(": ", 1)[1] for name, detail in said.items()} == {
        "pipe.wav": "it is a named pipe, not a regular file",
        "link.wav": "it is a named pipe, not a regular file",
        "socket.wav": "it is a socket, not a regular file",
        "/dev/zero": "it is a device, not a regular file",
        "file:///dev/zero": "it is a device, not a regular file",
        "folder.wav": "it is a folder, not a file",
        "dangling.wav": "it is a link to a file that is not there",
        "loop.wav": "it cannot be read: Too many levels of symbolic links",
    }


def test_a_file_larger_than_memory_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.wav").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LocationError, match=r"it has 1099\.5 GB or more; files of up to 4\.3 GB"):
        read_bytes(str(tmp_path / "huge.wav"))


def test_an_archive_that_unpacks_to_more_than_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location, "MOST_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small.wav", bytes(1000))
        archive.writestr("bomb.wav", bytes(2 << 20))
    assert read_bytes(f"zip://small.wav::{tmp_path}/a.zip") == bytes(1000)
    with pytest.raises(LocationError, match="or more; files of up to"):
        read_bytes(f"zip://bomb.wav::{tmp_path}/a.zip")


# The web


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; what begins with /status/ is answered with that status."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        parts = self.path.split("/")
        if parts[1] == "status":
            self.send_error(int(parts[2]))
        elif parts[1] == "short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"not so much")
        elif parts[1] == "endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(bytes(1 << 20))
        elif parts[1] == "signed" and not parts[2].endswith("?sig=right"):
            self.send_error(403)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.path.startswith("/signed"):
            self.send_error(403)  # a signature is for one method
        else:
            super().do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of the files in `tmp_path`."""
    _Handler.seen = []
    handler = partial(_Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


ODD_NAMES = [
    "a #1 100%.wav", "what? & why;.wav", "quo\"te's.wav", "🎵 sång.wav", "a%20b.wav", "[x]+=@:.wav",
    "sub folder/a #2.wav", "back\\slash.wav", "dots..wav", "100%25.wav",
]  # fmt: skip


def test_any_name_is_found_by_http(tmp_path: Path, served: str) -> None:
    for number, name in enumerate([*ODD_NAMES, f"{NFD}.wav"]):
        tone(tmp_path / name, number)
    local = manifest(tmp_path, [*ODD_NAMES, f"{NFC}.wav"])
    uri = f"{served}/manifest.parquet"
    dataset = index(uri)
    assert details(dataset) == {}
    assert dataset.tracks.equals(index(local).tracks)
    assert digests_of(uri) == digests_of(local)
    stamp = stamp_of(uri)
    assert stamp == stamp_of(uri)
    os.utime(tmp_path / "dots..wav", (1_000_000_000, 1_000_000_000))
    assert stamp_of(uri) != stamp


def test_a_url_of_its_own_is_used_as_it_is_written(tmp_path: Path, served: str) -> None:
    tone(tmp_path / "a #1 100%.wav")
    content = (tmp_path / "a #1 100%.wav").read_bytes()
    encoded = quote("a #1 100%.wav")
    for name in (encoded, "a %231 100%.wav", encoded + "?sig=x%2Fy", encoded + "#fragment"):
        assert read_bytes(f"{served}/{name}") == content
    with pytest.raises(LocationError, match=r"^there is no such file \(HTTP 404\)$") as caught:
        read_bytes(f"{served}/a #1 100%.wav")
    assert caught.value.missing


def test_signed_urls(tmp_path: Path, served: str) -> None:
    tone(tmp_path / "signed" / "a.wav")
    tone(tmp_path / "public" / "b.wav")
    audio = [f"{served}/signed/a.wav?sig=right", f"{served}/signed/a.wav?sig=wrong", "b.wav"]
    rows = [f"{name},a tone,{number}" for number, name in enumerate(audio)]
    (tmp_path / "public" / "m.csv").write_text("\n".join(["audio,caption,track_id", *rows]))
    uri = f"{served}/public/m.csv?sig=right/of.me"
    dataset = index(uri)
    assert dataset.tracks["audio"].to_list() == [audio[0], audio[2]]
    assert (
        "(HTTP 403): a signed URL may have expired"
        in details(dataset)[audio[1].replace("wrong", "***")]
    )
    assert "/public/b.wav" in _Handler.seen  # without the manifest's signature
    assert look(audio[0])["size"] == (tmp_path / "signed" / "a.wav").stat().st_size
    assert resolve(uri, "x/c #1.wav") == f"{served}/public/x/c%20%231.wav"


def test_what_a_url_may_hold_of_secrets_is_not_shown() -> None:
    assert shown_location("https://me:secret@h/a.wav?sig=secret#x") == "https://h/a.wav"
    assert shown_location("zip://a.wav::https://h/a.zip?s=secret") == "zip://a.wav::https://h/a.zip"
    assert shown_location("s3://b/what?.wav") == "s3://b/what?.wav"
    assert shown_location("/music/what?.wav") == "/music/what?.wav"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/data/m.CSV", ".csv"),
        ("/data/m.csv?x.jsonl", ".jsonl"),  # a local name has no query
        ("https://h/m.csv?sig=a.b/c.parquet", ".csv"),
        ("https://h/m%2Ejsonl#x", ".jsonl"),
        ("https://h.csv/manifest", ""),
        ("zip://in/m.parquet::https://h/a.zip?x=1", ".parquet"),
        ("s3://b/m.jsonl", ".jsonl"),
    ],
)
def test_the_suffix_is_that_of_the_path(uri: str, expected: str) -> None:
    assert suffix(uri) == expected


def test_rows_that_cannot_be_reached_stop_no_others(
    tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(location, "_PATIENCE_S", 0.5)
    tone(tmp_path / "good.wav")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"  # bound, but nobody listens
        wanted = {
            f"http://{nobody}/a.wav": "its host cannot be reached: the connection is refused",
            f"http://{nobody}/b.wav": "its host cannot be reached: the connection is refused",
            f"ftp://{nobody}/a.wav": "its host cannot be reached: the connection is refused",
            f"zip://a.wav::http://{nobody}/a.zip": "its host cannot be reached: the connection is "
            "refused",
            "http://nowhere.invalid/a.wav": "its host cannot be reached: no such host is known",
            "sftp://nowhere.invalid/a.wav": "its host cannot be reached: no such host is known",
            "foo://bar/a.wav": "it cannot be read: Protocol not known: no installed filesystem "
            "reads foo:// URLs",
            "http://[::1/a.wav": "its URL is not valid",
            "http:///a.wav": "its URL is not valid: it names no host",
            "http://127.0.0.1:123456/a.wav": "its URL is not valid",
            served.replace("http", "https") + "/good.wav": "no secure connection comes about: the "
            "server's certificate is not accepted, or it speaks http",
            f"{served}/none.wav": "there is no such file (HTTP 404)",
            f"{served}/status/403/a.wav": "the server refuses access (HTTP 403): a signed URL may "
            "have expired",
            f"{served}/status/500/a.wav": "the server cannot answer (HTTP 500)",
            f"{served}/short/a.wav": "the connection breaks off, or is silent",
        }
        uri = manifest(tmp_path, [*wanted, "good.wav", f"{served}/good.wav"])
        started = time.monotonic()
        stamp_of(uri)
        digests = digests_of(uri)
        dataset = index(uri)
        assert time.monotonic() - started < 10
    assert set(dataset.tracks["audio"]) == {f"{served}/good.wav", "good.wav"}
    assert set(digests) == {f"{served}/good.wav", "good.wav"}
    assert {audio: said.split(": ", 1)[1] for audio, said in details(dataset).items()} == wanted
    assert all("Error" not in detail for detail in details(dataset).values())


def test_a_server_that_does_not_answer_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_SILENCE_S", 0.5)
    monkeypatch.setattr(web, "_PATIENCE_S", 0.1)
    tone(tmp_path / "good.wav")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1000)
        port = silent.getsockname()[1]
        rows = [f"http://127.0.0.1:{port}/{number}.wav" for number in range(200)]
        uri = manifest(tmp_path, [*rows, "good.wav"])
        started = time.monotonic()
        dataset = index(uri)
        assert time.monotonic() - started < 5  # and not 200 times half a second
    assert dataset.tracks["audio"].to_list() == ["good.wav"]
    reasons = {detail.split(": ", 1)[1] for detail in details(dataset).values()}
    assert reasons == {"the connection breaks off, or is silent"}


def test_a_host_is_asked_again_later(
    tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tone(tmp_path / "good.wav")
    monkeypatch.setattr(web, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(web, "_FORGET_S", 0.5)
    for _ in range(3):
        with pytest.raises(LocationError, match="HTTP 503"):
            read_bytes(f"{served}/status/503/a.wav")
    with pytest.raises(LocationError, match="HTTP 503"):
        read_bytes(f"{served}/good.wav")
    assert "/good.wav" not in _Handler.seen
    time.sleep(0.6)
    assert read_bytes(f"{served}/good.wav")


def test_broken_files_do_not_close_their_host(
    tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tone(tmp_path / "good.wav")
    monkeypatch.setattr(web, "_PATIENCE_S", 0.1)
    for status in (500, 404, 403, 500, 500, 500):
        with pytest.raises(LocationError):
            read_bytes(f"{served}/status/{status}/a.wav")
    assert read_bytes(f"{served}/good.wav")


def test_an_answer_without_end_is_left(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "MOST_BYTES", 4 << 20)
    with pytest.raises(LocationError, match="or more; files of up to"):
        read_bytes(f"{served}/endless/a.wav")
