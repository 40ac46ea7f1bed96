"""What two processes say to each other over pipes: messages, each with a block of numbers if it has one.

A frame is the lengths of its two parts, the message as MessagePack, and the numbers as they lie in memory, so that
rows of logits cross without being written out. Knows nothing of what is said.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

HEAD = struct.Struct("<IQ")  # bytes of the message, bytes of the numbers


def send(pipe: BinaryIO, message: Any, rows: NDArray[np.float32] | None = None) -> None:
    """Write one frame. Raises BrokenPipeError when the other side is gone."""
    numbers = None if rows is None else np.ascontiguousarray(rows, dtype="<f4")
    said = msgspec.msgpack.encode((message, None if numbers is None else numbers.shape), enc_hook=str)
    pipe.write(HEAD.pack(len(said), 0 if numbers is None else numbers.nbytes) + said)
    if numbers is not None:
        pipe.write(numbers.data.cast("B") if numbers.nbytes else b"")
    pipe.flush()


def receive(pipe: BinaryIO) -> tuple[Any, NDArray[np.float32] | None] | None:
    """The next frame; None at the pipe's end, also in the middle of a frame."""
    head = bytearray(HEAD.size)
    if not _fill(pipe, memoryview(head)):
        return None
    n_said, n_numbers = HEAD.unpack(head)
    said = bytearray(n_said)
    if not _fill(pipe, memoryview(said)):
        return None
    message, shape = msgspec.msgpack.decode(said)
    if shape is None:
        return message, None
    numbers: NDArray[np.float32] = np.empty(shape, dtype="<f4")
    assert numbers.nbytes == n_numbers, "a frame's shape and length differ"
    if n_numbers and not _fill(pipe, numbers.data.cast("B")):
        return None
    return message, numbers


def _fill(pipe: BinaryIO, view: memoryview) -> bool:
    done = 0
    while done < len(view):
        n = pipe.readinto(view[done:])  # type: ignore[attr-defined]
        if not n:
            return False
        done += n
    return True
