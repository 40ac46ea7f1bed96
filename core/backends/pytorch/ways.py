"""Which way of running blocks is the fastest for how many rows, measured on this machine and kept.

A way that wins on one processor loses on another: kernels of our own read weights at the speed of memory, oneDNN's
packed ones use matrix units where there are some, and transformers' own modules stay where nothing is faster. Kept in
a file by processor, libraries, threads, dtype and shape. An opening measures for a short while only, and the next one
what is left. Knows no model beyond how its blocks are run one by one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from core.backends.pytorch.native import folder
from core.types import Linear, ModelSpec, Record
from hardware import load
from hardware.detect import machine
from hardware.files import write_whole

COMPILED, OWN, PLAIN, PACKED, PADDED, MODULES = "compiled", "own", "plain", "packed", "padded", "modules"
BLOCK_WAYS = (COMPILED, OWN, PLAIN, PACKED, PADDED, MODULES)
HEAD_WAYS = (COMPILED, PLAIN, PACKED, PADDED)
ROWS = (1, 2, 4, 8, 16, 32, 64, 256)
FIRST = (1, 256, 16, 64, 8, 4, 2, 32)  # the same, what matters most first
FEW = 64  # rows up to which a step has them; more are a prompt's
BUDGET_S = 2.0  # what one opening may spend
PAST = 32  # tokens in the cache while a way is timed
REPEATS = 3
HOPELESS = 1.5  # a way that took so many times the fastest is not tried again
AT_FIRST = 3.0  # the same of its first run, which also fetches what it needs
MARGIN = 0.95  # another way must take less than this share of the preferred one's time
PACK_MARGIN = 0.9  # and one that needs a second copy of the weights less than this
STREAM_BYTES = 64_000_000  # blocks are timed one behind the other, so that no cache holds their weights
SMALL_BYTES = 8_000_000  # blocks that weigh less are not worth the measuring: nothing is gained by choosing
LOST = 0.1  # share of the wanted processor time beyond which what was timed says nothing of the machine
SHARE = 0.25  # of the machine's memory that second copies may take


class Ways(Record):
    """rows -> way, of blocks and of the unembedding. ms: rows -> way -> milliseconds of the blocks that were timed."""

    of_blocks: dict[int, str] = msgspec.field(default_factory=dict)
    of_head: dict[int, str] = msgspec.field(default_factory=dict)
    ms: dict[int, dict[str, float]] = msgspec.field(default_factory=dict)

    @staticmethod
    def always(way: str) -> Ways:
        """One way for any number of rows."""
        of_head = COMPILED if way in (COMPILED, OWN) else PLAIN if way == MODULES else way
        return Ways(of_blocks={ROWS[-1]: way}, of_head={ROWS[-1]: of_head})

    @staticmethod
    def unmeasured(compiled: bool, emulated: bool) -> Ways:
        """What is likely the fastest. emulated: PyTorch has no instructions for products in this dtype here."""
        prompt = OWN if compiled and emulated else PLAIN
        few = COMPILED if compiled else PLAIN
        return Ways(
            of_blocks={FEW: few, ROWS[-1]: prompt}, of_head={FEW: few, ROWS[-1]: COMPILED if compiled else PLAIN}
        )

    def over(self, likely: Ways) -> Ways:
        """These, and for rows that were not measured what is likely: of steps and of prompts apart."""
        tables = []
        for mine, other in ((self.of_blocks, likely.of_blocks), (self.of_head, likely.of_head)):
            found = dict(mine)
            for rows, way in other.items():
                if not any((n > FEW) == (rows > FEW) for n in mine):
                    found[rows] = way
            tables.append(found)
        return Ways(of_blocks=tables[0], of_head=tables[1], ms=self.ms)

    def blocks(self, rows: int) -> str:
        return _nearest(self.of_blocks, rows)

    def head(self, rows: int) -> str:
        return _nearest(self.of_head, rows)

    @property
    def packs(self) -> bool:
        """Whether second copies of the blocks' weights are needed."""
        return bool({PACKED, PADDED} & set(self.of_blocks.values()))

    @property
    def packs_head(self) -> bool:
        return bool({PACKED, PADDED} & set(self.of_head.values()))


def _nearest(table: Mapping[int, str], rows: int) -> str:
    """That of the smallest number of rows that was measured and is not less; of the largest beyond it.

    Steps and prompts are apart: no step is run as a prompt was measured.
    """
    alike = [n for n in table if (n > FEW) == (rows > FEW)] or list(table)
    return table[min((n for n in alike if n >= rows), default=max(alike))]


def undisturbed(measure: Callable[[], Ways], known: Ways) -> Ways:
    """What is measured; only what is known already where others had so much of the machine that it would mislead.

    One such measurement was kept for ever, and took a way that was five times slower.
    """
    before = load.read()
    found = measure()
    shared = load.between(before, load.read())
    lost_s = (shared.waited_s or 0.0) + (shared.stolen_s or 0.0)
    return found if lost_s <= LOST * (shared.cpu_s + lost_s) else known


def kept(spec: ModelSpec, dtype: str, threads: int) -> Ways | None:
    """What was measured for such a model on this machine, if it was."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(_file(spec, dtype, threads).read_bytes(), type=Ways)
    return None


def keep(spec: ModelSpec, dtype: str, threads: int, found: Ways) -> None:
    """A full disk or a folder that cannot be written costs measuring again."""
    file = _file(spec, dtype, threads)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, msgspec.json.encode(found))


def _file(spec: ModelSpec, dtype: str, threads: int) -> Path:
    from importlib.metadata import version

    told = machine()
    sizes = sorted({(x.op.d_in, x.op.d_out) for x in spec.layers if isinstance(x.op, Linear)})
    source = Path(__file__).with_name("step.cpp").read_text(encoding="utf-8")
    libraries = [version("torch"), version("transformers")]
    parts = (
        "undisturbed",
        told.machine_id,
        told.isa,
        source,
        libraries,
        threads,
        dtype,
        spec.architecture,
        spec.n_blocks,
        sizes,
    )
    return folder() / f"ways-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"


def packable(n_bytes: int) -> bool:
    """Whether this machine has the memory for second copies of so many bytes of weights."""
    return n_bytes <= SHARE * machine().mem_bytes


def choose(timed: Mapping[str, float], preferred: Sequence[str]) -> str:
    """The fastest way; an earlier one where a later one is hardly faster. timed: way -> seconds."""
    order = [way for way in preferred if way in timed]
    best = order[0]
    for way in order[1:]:
        if timed[way] < (PACK_MARGIN if way in (PACKED, PADDED) else MARGIN) * timed[best]:
            best = way
    return best


def race(runs: Mapping[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, float]:
    """The least seconds of each, taken in turn. The first run of each warms up; one that is hopeless runs no more."""
    first: dict[str, float] = {}
    least: dict[str, float] = {}
    for turn in range(repeats + 1):
        for way, run in runs.items():
            best = min((least or first).values(), default=0.0)
            mine, limit = (least[way], HOPELESS) if way in least else (first.get(way, 0.0), AT_FIRST)
            if turn and mine > limit * best:
                continue
            started = time.perf_counter()
            run()
            took = time.perf_counter() - started
            if turn:
                least[way] = min(took, least.get(way, took))
            else:
                first[way] = took
    return first | least
