"""What the configurations of many methods have in common: which layers and modules they reach, and their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from typing import Any

from core.models.precision.declaration import Rule
from core.types import Embedding, Layer, Linear
from hardware.errors import ExplorerError

PATIENCE_S = 0.5  # for an expression in one name: it comes with the model, and some never end


def linear(layer: Layer) -> bool:
    return isinstance(layer.op, Linear) and layer.kind != "router"


def linear_but_head(layer: Layer) -> bool:
    return linear(layer) and layer.kind != "head"


def as_listed(found: Mapping[str, Any], *keys: str) -> Callable[[Layer], bool]:
    """transformers leaves the head alone by itself, and where modules are listed, those alone."""
    return linear if any(found.get(key) is not None for key in keys) else linear_but_head


def experts(layer: Layer) -> bool:
    return isinstance(layer.op, Linear) and layer.op.n_experts > 1


def every_matrix(layer: Layer) -> bool:
    return isinstance(layer.op, Linear | Embedding)


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a module's path is one that `pattern` names: itself, a module around it, a wildcard, a regex."""
    if pattern.startswith("re:"):
        return _regex(pattern[3:])
    if re.search(r"[\\^$(|+]", pattern):
        return _regex(pattern)
    if "*" in pattern or "?" in pattern:
        start = re.split(r"[*?\[]", pattern)[0]
        whole = re.compile(translate(pattern) + "|" + translate(f"{pattern}.*"))
        return lambda path: path.startswith(start) and whole.match(path) is not None
    wanted = f".{pattern.strip('.')}."
    return lambda path: wanted in f".{path}."


def _is_plain(pattern: str) -> bool:
    """Whether it is a name, without any sign of an expression."""
    return not pattern.startswith("re:") and not re.search(r"[\\^$(|+*?]", pattern)


def _stretches(path: str) -> Iterator[str]:
    """Every module that a path names: `a.b.c` also names a, b, c, a.b and b.c."""
    parts = path.split(".")
    for i in range(len(parts)):
        for j in range(i, len(parts)):
            yield ".".join(parts[i : j + 1])


def _regex(pattern: str) -> Callable[[str], bool]:
    import regex  # a megabyte of every worker, for the few configurations that have expressions

    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ExplorerError(
            f"'{pattern}' in the quantization of this configuration is not a regular expression ({error}).",
            "Correct config.json, or download it again.",
        ) from error

    def fits(path: str) -> bool:
        try:
            return compiled.match(path, timeout=PATIENCE_S) is not None
        except TimeoutError:
            raise ExplorerError(
                f"'{pattern[:200]}' in the quantization of this configuration takes too long to be found in a name.",
                "Write that expression without repeats inside repeats.",
            ) from None

    return fits


def named(pattern: str) -> Callable[[Sequence[str]], bool]:
    fits = matcher(pattern)
    return lambda paths: any(fits(path) for path in paths)


def any_named(patterns: Iterable[str]) -> Callable[[Sequence[str]], bool]:
    """`named` for thousands of patterns at once: plain names are looked up."""
    listed = tuple(patterns)
    plain = {pattern.strip(".") for pattern in listed if _is_plain(pattern)}
    others = [matcher(pattern) for pattern in dict.fromkeys(listed) if not _is_plain(pattern)]
    return lambda paths: any(
        not plain.isdisjoint(_stretches(path)) or any(fits(path) for fits in others) for path in paths
    )


def any_itself(patterns: Iterable[str]) -> Callable[[Sequence[str]], bool]:
    """Modules of compressed-tensors are named whole, or by a regex: a module's name says nothing of those inside it."""
    listed = tuple(patterns)
    plain = {pattern for pattern in listed if not pattern.startswith("re:")}
    others = any_named(pattern for pattern in listed if pattern.startswith("re:"))
    return lambda paths: not plain.isdisjoint(paths) or others(paths)


def left_alone(
    found: Mapping[str, Any], *keys: str, by: Callable[[Iterable[str]], Callable[[Sequence[str]], bool]] = any_named
) -> tuple[Rule, ...]:
    names: list[str] = []
    for key in keys:
        value = found.get(key)
        names += [value] if isinstance(value, str) else [str(name) for name in value or ()]
    return ((by(names), None),) if names else ()


# ---------------------------------------------------------------- numbers


def _number(found: Mapping[str, Any], keys: Iterable[str], default: int, least: int, most: int) -> int:
    for key in keys:
        if (value := found.get(key)) is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ExplorerError(
                    f"'{key}' is {value!r} in the quantization of this configuration, but must be a whole number from "
                    f"{least} to {most}.",
                    "Correct config.json, or download it again.",
                )
            return value
    return default


def bits_of(found: Mapping[str, Any], default: int = 4, *keys: str) -> int:
    return _number(found, (*keys, "bits", "w_bit", "nbits"), default, 1, 16)


def group_of(found: Mapping[str, Any], default: int, *keys: str) -> int:
    """Columns that share a scale; 0 for a whole row, which files write as -1."""
    return max(_number(found, (*keys, "group_size", "q_group_size"), default, -1, 1 << 20), 0)
