"""Decoding: a sine stays that sine whatever the format, rate and channels; bad files say why."""

import dataclasses
import hashlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from mp3_files import mp3

from tda_dagster.corpus import AudioError, RejectReason, SegmentSpec, decode_audio, open_audio
from tda_dagster.corpus.location import resolve

SPEC = SegmentSpec(sample_rate_hz=16_000, channels=1, samples=4096, hop_length=1024, min_seconds=0)


def sine(frequency_hz: float, rate: int, seconds: float = 2.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate)) / rate)


def loudest_hz(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        (".wav", "PCM_16"),
        (".wav", "FLOAT"),
        (".flac", "PCM_24"),
        (".ogg", "VORBIS"),
        (".aiff", "PCM_16"),
        (".mp3", "MPEG_LAYER_III"),
    ],
)
@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
def test_a_sine_stays_the_same_sine(tmp_path: Path, suffix: str, subtype: str, rate: int) -> None:
    if suffix == ".mp3" and "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile cannot write MP3")
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, sine(440, rate), rate, subtype=subtype)
    samples = decode_audio(str(path), SPEC)
    assert samples.dtype == np.float32
    assert samples.flags.c_contiguous
    lossy = suffix in (".ogg", ".mp3")
    assert samples.shape[0] == 1
    assert samples.shape[1] == pytest.approx(32_000, abs=2500 if suffix == ".mp3" else 1)
    assert loudest_hz(samples[0], 16_000) == pytest.approx(440, abs=0.6)
    inner = samples[0, 4000:-4000]
    assert np.abs(inner).max() == pytest.approx(0.5, abs=0.05 if lossy else 1e-3)
    if not lossy:
        np.testing.assert_allclose(inner, sine(440, 16_000)[4000:-4000], atol=1e-3)


def test_what_the_new_rate_cannot_hold_is_filtered_out(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(12_000, 48_000), 48_000, subtype="FLOAT")
    assert np.abs(decode_audio(str(path), SPEC)[0, 1000:-1000]).max() < 1e-3


def test_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    audio = rng.uniform(-0.5, 0.5, (8000, 6)).astype(np.float32)
    stereo = dataclasses.replace(SPEC, channels=2)
    for own in (1, 2, 6):
        path = str(tmp_path / f"{own}.wav")
        soundfile.write(path, audio[:, :own], 16_000, subtype="FLOAT")
        mean = audio[:, :own].mean(axis=1)
        np.testing.assert_allclose(decode_audio(path, SPEC), mean[None], atol=1e-6)
        expected = audio[:, :2].T if own == 2 else np.stack([mean, mean])
        np.testing.assert_allclose(decode_audio(path, stereo), expected, atol=1e-6)


def test_facts_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.stack([sine(440, 44_100)] * 2, axis=1), 44_100)
    audio = open_audio(str(path), SPEC)
    assert (audio.sample_rate_hz, audio.channels, audio.duration_s) == (44_100, 2, 2.0)
    assert audio.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert audio.samples.shape == (1, 32_000)


def test_long_files_come_in_blocks_without_seams(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    audio = np.random.default_rng(0).uniform(-1, 1, 1_000_000).astype(np.float32)
    soundfile.write(path, audio, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(decode_audio(str(path), SPEC)[0], audio)


@pytest.mark.parametrize("content", [b"", b"not audio at all", b"RIFF", bytes(5000)])
def test_what_is_not_audio_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"a\.wav: it cannot be decoded") as caught:
        decode_audio(str(path), SPEC)
    assert caught.value.reason is RejectReason.UNREADABLE
    assert "0x" not in caught.value.detail  # no memory addresses: details are data
    assert str(tmp_path) not in caught.value.detail  # nor machine paths


@pytest.mark.parametrize("suffix", [".flac", ".mp3"])
def test_half_a_file_is_unreadable(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    rng = np.random.default_rng(0)
    soundfile.write(path, rng.uniform(-0.5, 0.5, 16_000 * 8), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError) as caught:
        decode_audio(str(path), SPEC)
    assert caught.value.reason is RejectReason.UNREADABLE


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.wav", tmp_path, Path("a\0b.wav")):
        with pytest.raises(AudioError) as caught:
            decode_audio(str(path), SPEC)
        expected = RejectReason.UNREADABLE if "\0" in str(path) else RejectReason.MISSING_FILE
        assert caught.value.reason is expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_not_finite(tmp_path: Path, value: float, channels: int) -> None:
    path = tmp_path / "a.wav"
    audio = np.zeros((48_000, channels), np.float32)
    audio[-1, 0] = value
    soundfile.write(path, audio, 48_000, subtype="FLOAT")
    with pytest.raises(AudioError) as caught:
        decode_audio(str(path), SPEC)
    assert caught.value.reason is RejectReason.NOT_FINITE


@pytest.mark.parametrize("rate", [1, 100, 999, 768_001, 2_000_000_000])
def test_a_sample_rate_that_no_recording_has(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(440, 20_000), 20_000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(AudioError, match=rf"sample rate is {rate} Hz, .* 1000 \.\.\. 768000") as e:
        decode_audio(str(path), SPEC)
    assert e.value.reason is RejectReason.IMPLAUSIBLE


@pytest.mark.parametrize("rate", [1_000, 8_000, 768_000])
def test_the_lowest_and_highest_rates(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(440, rate), rate)
    assert loudest_hz(decode_audio(str(path), SPEC)[0], 16_000) == pytest.approx(440, abs=0.6)


def test_more_than_memory_holds_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FLAC file of silence has few bytes; its header may say how much it holds, or nothing."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(60 * 48_000, np.float32), 48_000)
    known = path.read_bytes()
    assert len(known) < 20_000
    unknown = bytearray(known)
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)
    monkeypatch.setattr("tda_dagster.corpus.audio.MOST_VALUES", 60 * 16_000)
    for content in (known, bytes(unknown)):
        path.write_bytes(content)
        assert decode_audio(str(path), SPEC).shape == (1, 60 * 16_000)
    monkeypatch.setattr("tda_dagster.corpus.audio.MOST_VALUES", 60 * 16_000 - 1)
    for content in (known, bytes(unknown)):
        path.write_bytes(content)
        with pytest.raises(AudioError, match=r"a track may have at most .* h: split it") as caught:
            decode_audio(str(path), SPEC)
        assert caught.value.reason is RejectReason.TOO_LONG


@pytest.mark.parametrize("peak", [1e30, 32_767.0, 127.0, 17.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_on_another_scale(tmp_path: Path, peak: float, channels: int) -> None:
    path = tmp_path / "a.wav"
    audio = np.zeros((300_000, channels), np.float32)
    audio[-1, -1] = peak
    soundfile.write(path, audio, 48_000, subtype="FLOAT")
    with pytest.raises(
        AudioError, match=r"where full scale is 1: scale it to -1 \.\.\. 1"
    ) as caught:
        decode_audio(str(path), SPEC)
    assert caught.value.reason is RejectReason.IMPLAUSIBLE


def test_a_loud_master_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, 8 * sine(440, 16_000), 16_000, subtype="FLOAT")
    assert np.abs(decode_audio(str(path), SPEC)).max() == pytest.approx(4.0, abs=1e-3)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".mp3"])
def test_no_frames(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, np.zeros(0), 16_000)
    with pytest.raises(AudioError) as caught:
        decode_audio(str(path), SPEC)
    assert caught.value.reason in (RejectReason.TOO_SHORT, RejectReason.UNREADABLE)


@pytest.mark.parametrize("header", [True, False])
def test_a_long_mp3_is_decoded_without_seams(tmp_path: Path, header: bool) -> None:
    """Whoever seeks after a block lands elsewhere, for VBR is not even: the sine must stay one."""
    path = tmp_path / "a.mp3"
    path.write_bytes(mp3(sine(441, 44_100, 20.0), 44_100, variable=True, header=header))
    spec = dataclasses.replace(SPEC, sample_rate_hz=44_100)
    samples = decode_audio(str(path), spec)[0, 2000:-4000]
    assert len(samples) > 1 << 19
    expected = samples[:100]
    for start in range(0, len(samples) - 100, 100):  # 100 samples are one period
        np.testing.assert_allclose(samples[start : start + 100], expected, atol=0.02)


def test_urls(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, sine(440, 16_000), 16_000)
    with fsspec.open("memory://audio/a.flac", "wb") as file:
        file.write(path.read_bytes())
    local = decode_audio(str(path), SPEC)
    np.testing.assert_array_equal(decode_audio("memory://audio/a.flac", SPEC), local)
    np.testing.assert_array_equal(decode_audio(path.as_uri(), SPEC), local)
    with pytest.raises(AudioError) as caught:
        decode_audio("memory://audio/b.flac", SPEC)
    assert caught.value.reason is RejectReason.MISSING_FILE


@pytest.mark.parametrize(
    ("manifest", "audio", "expected"),
    [
        ("data/m.csv", "x/a.wav", "data/x/a.wav"),
        ("m.csv", "a.wav", "a.wav"),
        ("/data/m.csv", "/music/a.wav", "/music/a.wav"),
        ("/data/m.csv", "s3://b/a.wav", "s3://b/a.wav"),
        ("/data/m.csv", "What :: is (a) #name?.wav", "/data/What :: is (a) #name?.wav"),
        ("s3://b/data/m.csv", "x/a.wav", "s3://b/data/x/a.wav"),
        ("s3://b/data/m.csv", "gs://c/a.wav", "gs://c/a.wav"),
        ("simplecache::s3://b/m.csv", "a.wav", "simplecache::s3://b/a.wav"),
        ("zip://in/m.csv::s3://b/m.zip", "a.wav", "zip://in/a.wav::s3://b/m.zip"),
    ],
)
def test_where_a_manifest_says_audio_is(manifest: str, audio: str, expected: str) -> None:
    assert resolve(manifest, audio) == expected
