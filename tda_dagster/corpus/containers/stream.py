"""What reading a container gives, and what can be wrong with one."""

import struct
from dataclasses import dataclass


class ContainerError(Exception):
    """A file cannot be used because of its container; the message is a sentence without a name."""


class TruncatedError(ContainerError):
    """Less is there than the container declares: the file broke off."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"it is truncated: {detail}")


class DamagedError(ContainerError):
    """The container contradicts itself, or holds what cannot be one piece of audio."""


@dataclass(frozen=True)
class Stream:
    """Bytes that a decoder reads as one piece of audio.

    `frames` is how many sample frames (one sample of every channel) were counted in the
    container; None if only the decoder can tell.
    """

    content: bytes
    frames: int | None = None


_TOLERATED_BYTES = 256
_PLACEHOLDERS = ((0x7FFF_0000, 0x8000_0100), (0xFFFF_0000, 0xFFFF_FFFF), (0x7FFF << 48, 1 << 64))


def is_placeholder(size: int, there: int) -> bool:
    """Whether a declared size is what a program writes to a pipe because it does not know it.

    That is the largest number there is, often less the header; or a negative one.
    """
    return size < 0 or (size > there and any(low <= size <= high for low, high in _PLACEHOLDERS))


def require_bytes(declared: int, there: int) -> None:
    """Raise `TruncatedError` if much less is there than declared.

    A little less is a mistake that some writers make: they count their own header.
    """
    if declared - there > _TOLERATED_BYTES:
        raise TruncatedError(f"its header promises {declared} bytes of audio, {there} are there")


def with_number(content: bytes, field: tuple[int, str], number: int) -> bytes:
    """A copy of `content` with another number in the field at a position, of a `struct` layout."""
    position, layout = field
    end = position + struct.calcsize(layout)
    return content[:position] + struct.pack(layout, number) + content[end:]
