"""M4A and others, where PyAV is installed: decoded whole, or refused when they broke off."""

from pathlib import Path

import numpy as np
import pytest

from tda_dagster.corpus import AudioError, RejectReason, SegmentSpec, open_audio

av = pytest.importorskip("av", reason="needs the extra ffmpeg: pip install 'tda-dagster[ffmpeg]'")

SPEC = SegmentSpec(sample_rate_hz=16_000, channels=1, samples=4096, hop_length=1024, min_seconds=0)
SECONDS = 5.0
FORMATS = [("mp4", "aac"), ("mp4", "alac"), ("adts", "aac"), ("matroska", "aac"), ("wv", "wavpack")]


def write(path: Path, container: str, codec: str, *, front: bool = False) -> None:
    """A tone of 440 Hz at 44.1 kHz; `front` puts an MP4's index before its audio."""
    options = {"movflags": "faststart"} if front else {}
    with av.open(str(path), "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=44_100)
        stream.layout = "mono"
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(SECONDS * 44_100)) / 44_100)
        frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate = 44_100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)


@pytest.mark.parametrize(("container", "codec"), FORMATS)
def test_what_ffmpeg_reads_is_decoded_whole(tmp_path: Path, container: str, codec: str) -> None:
    path = tmp_path / "a.bin"
    write(path, container, codec)
    audio = open_audio(str(path), SPEC)
    assert (audio.sample_rate_hz, audio.channels) == (44_100, 1)
    assert audio.duration_s == pytest.approx(SECONDS, abs=0.06)
    spectrum = np.abs(np.fft.rfft(audio.samples[0]))
    assert np.argmax(spectrum) * 16_000 / audio.samples.shape[1] == pytest.approx(440, abs=0.5)
    loudness = np.sqrt(np.mean(audio.samples[0, 4000:-4000] ** 2))
    assert loudness == pytest.approx(0.5 / np.sqrt(2), abs=0.03)


@pytest.mark.parametrize("front", [True, False])
def test_an_m4a_that_broke_off(tmp_path: Path, front: bool) -> None:
    path = tmp_path / "a.m4a"
    write(path, "mp4", "alac", front=front)
    content = path.read_bytes()
    assert open_audio(str(path), SPEC).duration_s == pytest.approx(SECONDS, abs=0.01)
    for part in (0.3, 0.7):
        path.write_bytes(content[: round(part * len(content))])
        with pytest.raises(AudioError, match="truncated") as caught:
            open_audio(str(path), SPEC)
        assert caught.value.reason is RejectReason.UNREADABLE
