"""What a file declares is compared with what is there: broken-off files are none, others are."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mp3_files import frame_bytes, id3v2, mp3

from tda_dagster.corpus import AudioError, RejectReason, SegmentSpec, ffmpeg, open_audio

SPEC = SegmentSpec(sample_rate_hz=16_000, channels=1, samples=4096, hop_length=1024, min_seconds=0)
RATE = 16_000
SECONDS = 3.0


def noise(seconds: float = SECONDS, rate: int = RATE, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.4, 0.4, (round(seconds * rate), channels))


def written(audio: np.ndarray, container: str, subtype: str, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=container, subtype=subtype)
    return file.getvalue()


Opened = Callable[[bytes], float]


@pytest.fixture
def seconds_of(tmp_path: Path) -> Opened:
    """The length in seconds of a file with given bytes; also checks that all of it was decoded."""

    def opened(content: bytes) -> float:
        path = tmp_path / "file"
        path.write_bytes(content)
        audio = open_audio(str(path), SPEC)
        assert audio.samples.shape[1] == pytest.approx(audio.duration_s * RATE, abs=2)
        return audio.duration_s

    return opened


def refusal(opened: Opened, content: bytes) -> str:
    with pytest.raises(AudioError) as caught:
        opened(content)
    assert caught.value.reason is RejectReason.UNREADABLE
    return caught.value.detail


# Files that broke off

EXACT = [
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"),
    ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AU", "PCM_16"), ("AU", "ULAW"),
    ("CAF", "PCM_16"), ("SVX", "PCM_16"), ("NIST", "PCM_16"), ("NIST", "ULAW"), ("AVR", "PCM_16"),
    ("VOC", "PCM_16"), ("SDS", "PCM_16"), ("FLAC", "PCM_16"),
]  # fmt: skip
BY_BLOCKS = [
    ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAV", "GSM610"), ("W64", "MS_ADPCM"),
    ("AU", "G721_32"), ("CAF", "ALAC_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype"), EXACT + BY_BLOCKS)
def test_a_file_that_broke_off_is_not_a_shorter_one(
    seconds_of: Opened, container: str, subtype: str
) -> None:
    rate = 8_000 if subtype == "GSM610" else RATE
    content = written(noise(rate=rate), container, subtype, rate)
    exact = (container, subtype) in EXACT
    assert seconds_of(content) == pytest.approx(SECONDS, abs=1e-3 if exact else 0.1)
    for part in (0.3, 0.5, 0.9):
        assert "truncated" in refusal(seconds_of, content[: round(part * len(content))])


def test_a_header_that_counts_itself_is_no_truncation(seconds_of: Opened) -> None:
    content = written(noise(), "WAV", "PCM_16")
    size = content.index(b"data") + 4
    counted = content[:size] + struct.pack("<I", len(content)) + content[size + 4 :]
    assert seconds_of(counted) == SECONDS


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 2**32 - 37, 2**32 - 1])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_size_that_a_pipe_cannot_know_is_no_promise(
    seconds_of: Opened, subtype: str, size: int
) -> None:
    for container, mark, layout in (
        ("WAV", b"data", "<I"), ("WAVEX", b"data", "<I"), ("AIFF", b"SSND", ">I"),
    ):  # fmt: skip
        content = written(noise(), container, subtype)
        at = content.index(mark) + 4
        streamed = content[:at] + struct.pack(layout, size) + content[at + 4 :]
        assert seconds_of(streamed) == SECONDS
    content = written(noise(), "AU", subtype)
    assert seconds_of(content[:8] + struct.pack(">I", size) + content[12:]) == SECONDS


def test_a_flac_stream_of_unknown_length_is_read_to_its_end(seconds_of: Opened) -> None:
    content = bytearray(written(noise(), "FLAC", "PCM_16"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert seconds_of(bytes(content)) == SECONDS
    assert "truncated" in refusal(seconds_of, bytes(content[: len(content) // 2]))


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "AIFF", "FLAC", "OGG"])
def test_what_stands_around_the_audio_does_not_matter(seconds_of: Opened, container: str) -> None:
    content = written(noise(), container, "VORBIS" if container == "OGG" else "PCM_16")
    tag = b"TAG" + bytes(125)
    around = [content + tag, content + b"\0", content + b"LIST\4\0\0\0INFO", id3v2(500) + content]
    for file in [*around, id3v2(30) + id3v2(40) + content + tag]:
        assert seconds_of(file) == pytest.approx(SECONDS, abs=1e-3)


def test_chunks_before_the_audio_are_passed_over(seconds_of: Opened) -> None:
    content = written(noise(), "WAV", "PCM_16")
    for chunk in (b"LIST\x06\0\0\0INFOab", b"junk\x05\0\0\0abcde\0"):
        file = content[:12] + chunk + content[12:]
        assert seconds_of(file) == SECONDS
        assert "truncated" in refusal(seconds_of, file[: len(file) // 2])


# Chained Ogg


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_all_links_of_a_chain_are_decoded(seconds_of: Opened, codec: str) -> None:
    one, two = (written(noise(s), "OGG", codec) for s in (1.0, 2.0))
    assert seconds_of(one + two + one) == pytest.approx(4.0, abs=1e-3)
    assert "truncated" in refusal(seconds_of, one + two[: len(two) // 2])
    assert "truncated" in refusal(seconds_of, one[: len(one) // 2])


def test_links_that_differ_are_refused(seconds_of: Opened) -> None:
    first = written(noise(), "OGG", "VORBIS")
    for other in (
        written(noise(rate=8_000), "OGG", "VORBIS", 8_000),
        written(noise(channels=2), "OGG", "VORBIS"),
    ):
        assert "its parts differ: 16000 Hz with 1 channels, then" in refusal(
            seconds_of, first + other
        )


def test_an_ogg_file_with_a_hole_or_without_its_beginning(seconds_of: Opened) -> None:
    content = written(noise(20.0), "OGG", "VORBIS")
    pages = [at for at in range(len(content)) if content.startswith(b"OggS", at)]
    assert len(pages) > 4
    middle = pages[len(pages) // 2]
    assert "no Ogg page" in refusal(seconds_of, content[: middle - 50] + content[middle:])
    assert "first page" in refusal(seconds_of, content[pages[1] :])
    assert "last page" in refusal(seconds_of, content[: pages[-1]])


# MPEG audio: the length is counted

LOUD_FIRST = noise(8.0, 44_100)[:, 0] * np.repeat([1.0, 1e-3], 4 * 44_100)


@pytest.mark.parametrize("audio", [LOUD_FIRST, LOUD_FIRST[::-1]], ids=["loud", "quiet"])
def test_a_stream_without_header_has_its_true_length(seconds_of: Opened, audio: np.ndarray) -> None:
    content = mp3(audio, 44_100, variable=True)
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        assert abs(file.frames / 44_100 - 8) > 0.5  # the decoder's estimate is far off
    assert seconds_of(content) == pytest.approx(8.0, abs=0.08)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_all_kinds_of_layer_3(seconds_of: Opened, rate: int, channels: int) -> None:
    audio = noise(rate=rate, channels=channels)
    for variable in (False, True):
        bare = mp3(audio, rate, variable=variable)
        assert seconds_of(bare) == pytest.approx(SECONDS, abs=0.35 if rate < 12_000 else 0.2)
        assert seconds_of(mp3(audio, rate, variable=variable, header=True)) == SECONDS
        assert seconds_of(bare * 3) == pytest.approx(3 * seconds_of(bare), abs=0.15)


def test_what_stands_around_the_frames_does_not_matter(seconds_of: Opened) -> None:
    for header in (False, True):
        content = mp3(noise(rate=44_100)[:, 0], 44_100, header=header)
        length = seconds_of(content)
        half = len(content) // 2
        ape = b"APETAGEX" + bytes(200)
        for file in (
            id3v2(3000) + content,
            id3v2(30) + id3v2(40) + content,
            b"\0" * 5000 + content,
            b"ICY 200 OK\r\n\r\n" + content,
            b"\xff\xfb\x90" * 99 + content,
            content + b"TAG" + bytes(125),
            content + ape + b"TAG" + bytes(125),
            content + bytes(20_000),
        ):
            assert seconds_of(file) == length
        frames = [at for at in range(half, len(content)) if content.startswith(b"\xff\xfb", at)]
        gap = content[: frames[0]] + bytes(777) + content[frames[0] :]
        assert seconds_of(gap) == pytest.approx(length, abs=0.1)


def test_files_joined_end_to_end_are_one(seconds_of: Opened) -> None:
    content = mp3(noise(rate=44_100)[:, 0], 44_100, header=True)
    for joined in (content + content, content + id3v2(300) + content):
        assert seconds_of(joined) == pytest.approx(2 * SECONDS, abs=0.15)
    other = mp3(noise(rate=48_000)[:, 0], 48_000)
    assert "it changes in its course from 44100 Hz" in refusal(seconds_of, content + other)


def test_an_mpeg_stream_that_broke_off(seconds_of: Opened) -> None:
    content = mp3(noise(rate=44_100)[:, 0], 44_100, header=True)
    for part in (0.3, 0.5, 0.9):
        detail = refusal(seconds_of, content[: round(part * len(content))])
        assert "its header promises 3.0 s" in detail
    bare = content[frame_bytes(content) :]
    frames = [at for at in range(len(bare) - 1) if bare.startswith(b"\xff\xfb", at)]
    cut = bare[: frames[len(frames) // 2] + 60]
    assert "breaks off in its last frame" in refusal(seconds_of, cut)
    # A header is not to blame for what an editor has cut out between frames.
    assert seconds_of(bare[frames[10] : frames[60]]) == pytest.approx(50 * 1152 / 44_100, abs=0.1)


def test_a_vbri_header_counts(seconds_of: Opened) -> None:
    bare = mp3(noise(rate=44_100)[:, 0], 44_100)
    frames = round(seconds_of(bare) * 44_100 / 1152)
    for promised in (frames, 2 * frames):
        vbri = b"VBRI" + struct.pack(">HHHII", 1, 0, 0, len(bare), promised)
        header = (bare[:4] + bytes(32) + vbri).ljust(frame_bytes(bare), b"\0")
        if promised == frames:
            assert seconds_of(header + bare) == seconds_of(bare)
        else:
            assert "its header promises" in refusal(seconds_of, header + bare)


@pytest.mark.parametrize(
    ("kind", "rate_bits", "rate", "layer", "kbps"),
    [
        (0xFD, 0b01, 48_000, 2, {8: 128, 10: 192}),  # MPEG 1, layer II
        (0xFD, 0b10, 32_000, 2, {2: 48, 12: 256}),
        (0xF5, 0b01, 24_000, 2, {8: 64, 12: 128}),  # MPEG 2, layer II
        (0xFF, 0b01, 48_000, 1, {4: 128, 8: 256}),  # MPEG 1, layer I
    ],
)
def test_layers_1_and_2(
    seconds_of: Opened, kind: int, rate_bits: int, rate: int, layer: int, kbps: dict[int, int]
) -> None:
    samples = 384 if layer == 1 else 1152

    def frame(index: int) -> bytes:  # silence: no bits are given to any band
        header = bytes([0xFF, kind, index << 4 | rate_bits << 2, 0xC0])
        return header.ljust(samples // 8 * 1000 * kbps[index] // rate, b"\0")

    low, high = (frame(index) for index in kbps)
    for content in (low * 200, low * 50 + high * 150, high * 50 + low * 150):
        assert seconds_of(content) == pytest.approx(200 * samples / rate, abs=0.03)


def test_free_format(seconds_of: Opened) -> None:
    """A bitrate that no table has: the distance between headers is all there is to know it by."""
    bare = mp3(noise(rate=48_000)[:, 0], 48_000, level=0.0)
    length = frame_bytes(bare)
    frames = [bare[at : at + length] for at in range(0, len(bare), length)]
    free = b"".join(f[:2] + bytes([f[2] & 0x0F]) + f[3:] + bytes(5) for f in frames)
    assert seconds_of(free) == pytest.approx(seconds_of(bare), abs=0.05)


def test_mpeg_in_wav_is_counted_too(seconds_of: Opened) -> None:
    stream = mp3(LOUD_FIRST, 44_100, variable=True)
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 44_100, 16_000, 1, 0, 12, 1, 2, 417, 1, 1393)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(stream)) + stream
    file = b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    assert seconds_of(file) == pytest.approx(8.0, abs=0.08)
    assert "truncated" in refusal(seconds_of, file[: len(file) // 2])


# What is no audio says what it is


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x20ftypM4A \0\0\0\0", r"M4A/MP4 \(AAC or ALAC\); convert it to WAV or FLAC"),
        (b"\xff\xf1\x50\x80" + bytes(200), r"AAC \(ADTS\); convert"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(50), "WMA/ASF; convert"),
        (b"<!DOCTYPE html><html>404</html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"MThd\0\0\0\6" + bytes(30), "MIDI, notes without audio"),
        (b"", "the file is empty"),
    ],
)
def test_a_file_of_another_kind_is_named(
    seconds_of: Opened, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    monkeypatch.setattr(ffmpeg, "is_available", lambda: False)
    with pytest.raises(AudioError, match=f"it cannot be decoded: .*{words}"):
        seconds_of(content)
