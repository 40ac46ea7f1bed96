"""step.cpp as two libraries, for floating-point weights and for integers in groups: each is compiled once for this
processor, when it is needed, and kept with the files that can be made again.

Knows the compiler and the structures of the C++ side. Knows no model. It is plain C++ without PyTorch's headers, so
that it compiles in seconds and outlives PyTorch's versions; its threads are those of PyTorch's own OpenMP.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from core.paths import cache_dir
from hardware.detect import machine

SOURCE = Path(__file__).with_name("step.cpp")
COMPILERS = ("c++", "g++", "clang++")  # after $CXX
COMPILE_S = 60.0
FLAGS = ("-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC")

Address = ctypes.c_void_p
Integer = ctypes.c_int64
Flag = ctypes.c_int32


class Shape(ctypes.Structure):
    """What all blocks share; see step.cpp."""

    _fields_ = (
        *((name, Integer) for name in ("d", "n_q", "n_kv", "d_head", "d_ff", "rotated")),
        *((name, Flag) for name in ("form", "centred", "gelu", "per_head")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
    )


MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
NORMS = ("before", "between", "after_attention", "after_mlp", "q_norm", "k_norm")
BITS = {"before": 1, "between": 2, "after_attention": 4, "after_mlp": 8, "q_norm": 16, "k_norm": 16}


class Block(ctypes.Structure):
    """The addresses of a block's weights."""

    _fields_ = (
        *((name, Address) for name in MATRICES),
        *((f"{name}_bias", Address) for name in MATRICES),
        *((name, Address) for name in NORMS),
        *((name, Flag) for name in ("norms", "rope")),
    )


class Kept(ctypes.Structure):
    """Where a block keeps keys and values, and for how many tokens there is room."""

    _fields_ = (("keys", Address), ("values", Address), ("capacity", Integer))


class Call(ctypes.Structure):
    """One forward: sizes, and the addresses of what it reads and writes."""

    _fields_ = (
        *((name, Integer) for name in ("batch", "n", "n_past", "threads")),
        *((name, Address) for name in ("hidden", "cos", "sin", "mask", "scratch")),
    )


class UnbuiltError(Exception):
    """There is no library; the message is a clause that says why."""


def folder() -> Path:
    """Where the library is kept, and beside it what was measured of kernels. All of it can be made again."""
    return cache_dir() / "kernels"


@cache
def library(in_groups: bool = False) -> Any:
    """The loaded library, which is compiled first where this processor has none. Raises UnbuiltError.

    in_groups: the one for weights that are integers in groups.
    """
    compiler = _compiler()
    place = folder()
    flags = (*FLAGS, f"-DGROUPED={int(in_groups)}")
    built = place / f"step-{_key(compiler, flags)}.so"
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not built.exists():
            with FileLock(place / "step.lock"):
                if not built.exists():
                    _compile(compiler, flags, built)
        return loaded(built, in_groups)
    except OSError as error:
        raise UnbuiltError(f"it could not be kept or loaded ({error.strerror or 'damaged'})") from error


def loaded(built: Path, in_groups: bool) -> Any:
    """The library in this file. Raises OSError."""
    found = ctypes.CDLL(str(built))
    found.scratch_floats.restype = Integer
    found.scratch_floats.argtypes = (Address, Integer, Integer, Integer, Integer)
    found.run_blocks.argtypes = (Address, Address, Address, Integer, Address)
    found.run_product.argtypes = (Flag, Address, Integer, Integer, Address, Address, Integer, Address, Integer, Integer)
    found.run_blocks.restype = found.run_product.restype = None
    if in_groups:
        found.run_rows.argtypes = (Flag, Address, Integer, Address, Integer, Address)
        found.run_fit.argtypes = (Address, Integer, Address, Address, Integer)
        found.run_rows.restype = found.run_fit.restype = None
    return found


def _compiler() -> str:
    for name in (os.environ.get("CXX", ""), *COMPILERS):
        if name and (path := shutil.which(name)):
            return path
    raise UnbuiltError("there is no C++ compiler")


def _key(compiler: str, flags: Sequence[str]) -> str:
    """What the library is made from and for."""
    told = machine()
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=COMPILE_S).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UnbuiltError("the C++ compiler does not answer") from error
    parts = (SOURCE.read_text(encoding="utf-8"), version, platform.machine(), told.cpu, *sorted(told.isa), *flags)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: str, flags: Sequence[str], built: Path) -> None:
    native = "-march=native" if platform.machine().lower() in ("x86_64", "amd64") else "-mcpu=native"
    part = built.with_name(f".{built.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        done = subprocess.run(
            [compiler, *flags, native, str(SOURCE), "-o", str(part)], capture_output=True, text=True, timeout=COMPILE_S
        )
        if done.returncode or not part.exists():
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason given"]
            raise UnbuiltError(f"it does not compile ({lines[0].strip()[:120]})")
        os.replace(part, built)
    except subprocess.SubprocessError as error:
        raise UnbuiltError(f"compiling it took more than {COMPILE_S:.0f} s") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def product(x: Any, linears: Sequence[tuple[Any, Any]], form: int) -> Any:
    """x W^T + b, fp32, of x (..., d_in) for the rows of several matrices, one under the other.

    linears: weight and bias, or None; form: of the weights, as in Shape of step.cpp.
    """
    import torch

    rows = x.reshape(-1, x.shape[-1]).float().contiguous()
    width = sum(weight.shape[0] for weight, _ in linears)
    y = torch.empty(rows.shape[0], width)
    done = 0
    for weight, bias in linears:
        whole = None if bias is None else bias.float()
        library(form > 1).run_product(
            form,
            rows.data_ptr(),
            rows.shape[0],
            rows.shape[1],
            weight.data_ptr(),
            address(whole),
            weight.shape[0],
            y.data_ptr() + 4 * done,
            width,
            torch.get_num_threads(),
        )
        done += weight.shape[0]
    return y.view(*x.shape[:-1], width)


def address(tensor: Any) -> int | None:
    """Of the first element; None of no tensor."""
    return None if tensor is None else int(tensor.data_ptr())
