"""MP3 files for tests: streams with and without the header frame that tells their length."""

import io

import numpy as np
import soundfile


def mp3(
    audio: np.ndarray,
    rate: int,
    *,
    level: float = 0.5,
    variable: bool = False,
    header: bool = False,
) -> bytes:
    """An MP3 stream of `audio` [n] or [n, channels]; `level` is the compression, 0 ... 1."""
    file = io.BytesIO()
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    with soundfile.SoundFile(
        file,
        "w",
        rate,
        channels,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=level,
        bitrate_mode="VARIABLE" if variable else "CONSTANT",
    ) as writer:
        writer.write(audio)
    content = file.getvalue()
    return content if header else content[frame_bytes(content) :]


def frame_bytes(content: bytes) -> int:
    """The length of the first frame of a stream of layer III."""
    bits = int.from_bytes(content[:4], "big")
    is_mpeg_1 = bits >> 19 & 3 == 3
    kbps = (
        (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
        if is_mpeg_1
        else (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    )[(bits >> 12 & 15) - 1]
    rate = (44_100, 48_000, 32_000)[bits >> 10 & 3] // {3: 1, 2: 2, 0: 4}[bits >> 19 & 3]
    return (144 if is_mpeg_1 else 72) * 1000 * kbps // rate + (bits >> 9 & 1)


def id3v2(payload: int) -> bytes:
    """An ID3v2 tag with so many bytes in it, fewer than 2^14."""
    return b"ID3\x04\0\0\0\0" + bytes([payload >> 7, payload & 127]) + b"\xff\xfb" * (payload // 2)
