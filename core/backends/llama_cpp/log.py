"""Keeps the last lines of llama.cpp's log instead of printing them: they explain what its functions do not return.

One per process, since llama.cpp has one log. It knows the format of the lines that say where buffers lie.
"""

from __future__ import annotations

import os
import re
from collections import deque
from functools import cache
from typing import Any

DEBUG, ERROR, CONTINUED = 1, 4, 5  # ggml_log_level
BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|compute|output) buffer size\s*=\s*([\d.]+) MiB")


class Log:
    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=400)

    def add(self, level: int, text: str) -> None:
        if level == CONTINUED and self._lines:
            level, before = self._lines.pop()
            text = before + text
        if level != DEBUG:
            self._lines.append((level, text))

    def clear(self) -> None:
        self._lines.clear()

    def text(self) -> str:
        return "\n".join(line.rstrip() for _, line in self._lines)

    def errors(self) -> str:
        """The errors since `clear`, as one line without the names of functions."""
        found = [re.sub(r"^\w+: ", "", line.strip()) for level, line in self._lines if level == ERROR]
        return "; ".join(line.rstrip(".") for line in found)

    def buffers(self) -> dict[str, int]:
        """Bytes that llama.cpp says it allocated, by device and use, e.g. "CPU KV"."""
        sizes: dict[str, int] = {}
        for device, use, mib in BUFFER.findall(self.text()):
            sizes[f"{device} {use}"] = sizes.get(f"{device} {use}", 0) + round(float(mib) * 2**20)
        return sizes


_callbacks: list[Any] = []  # C code points to them: they must never be collected


@cache
def listen() -> Log:
    """Start the library and take over its log."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # else a failed check starts a debugger on the dying process
    import llama_cpp

    log = Log()

    def keep(level: int, text: bytes, _: Any) -> None:
        log.add(level, text.decode(errors="replace"))

    _callbacks.append(llama_cpp.llama_log_callback(keep))
    llama_cpp.llama_log_set(_callbacks[0], None)
    llama_cpp.llama_backend_init()
    return log
