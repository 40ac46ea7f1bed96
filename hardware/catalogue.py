"""The catalogue of devices: those that ship with the app, and the user's own files.

A user's file is JSON (one Device or a list, SI units, the fields of `Device`) or CSV with the columns
of devices.csv (GB, GB/s and TFLOP/s, as data sheets print them). A user's device replaces a shipped
one of the same name. This module knows nothing of this machine.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import math
import re
from functools import cache
from pathlib import Path

import msgspec

from hardware.device import Device, validate
from hardware.errors import ExplorerError
from hardware.files import UNREADABLE, write_whole

_SHIPPED = Path(__file__).with_name("devices.csv")
_PEAK_COLUMNS = {
    "fp32_tflops": "fp32",
    "tf32_tflops": "tf32",
    "fp16_tflops": "fp16",
    "fp16_acc16_tflops": "fp16_acc16",
    "bf16_tflops": "bf16",
    "fp8_tflops": "fp8",
    "int8_tops": "int8",
    "int4_tops": "int4",
    "fp4_tflops": "fp4",
}
_FIELD_OF_COLUMN = {
    "memory_gb": "mem_bytes",
    "bandwidth_gbs": "mem_bandwidth_bytes_per_s",
    "clock_ghz_used": "clock_hz",
    **{column: f"peak_flop_per_s.{dtype}" for column, dtype in _PEAK_COLUMNS.items()},
}
_COLUMNS = {
    *_FIELD_OF_COLUMN,
    *("name", "vendor", "kind", "tdp_w", "year", "confidence", "uncertain_fields", "source", "checked_against"),
    "notes",
}


def devices(folder: Path | None = None) -> tuple[Device, ...]:
    """All devices, the user's own last. Files that cannot be read are left out: see `problems`."""
    found = {device.name: device for device in _shipped()}
    for path in _files(folder):
        try:
            own = read(path)
        except ExplorerError:
            continue
        for device in own:
            found.pop(device.name, None)
            found[device.name] = device
    return tuple(found.values())


def problems(folder: Path | None) -> tuple[ExplorerError, ...]:
    """What is wrong with the user's files, one error per file that `devices` leaves out."""
    errors = []
    for path in _files(folder):
        try:
            read(path)
        except ExplorerError as error:
            errors.append(error)
    return tuple(errors)


def find(name: str, folder: Path | None = None) -> Device:
    """The device of that name, whatever its case and spacing, or the only one that contains it.

    Raises ExplorerError with the closest names.
    """
    everything = devices(folder)
    wanted = _bare(name)
    by_name = {_bare(device.name): device for device in everything}
    if wanted in by_name:
        return by_name[wanted]
    containing = [device for bare, device in by_name.items() if wanted and wanted in bare]
    if len(containing) == 1:
        return containing[0]
    if containing:
        listed = ", ".join(f"'{device.name}'" for device in containing[:6])
        raise ExplorerError(f"'{name}' could be several devices.", f"Give one of {listed}.")
    close = [f"'{by_name[match].name}'" for match in difflib.get_close_matches(wanted, by_name, n=4, cutoff=0.4)]
    hint = f"Did you mean {' or '.join(close)}?" if close else "The devices are listed by 'python -m core devices'."
    raise ExplorerError(f"There is no device called '{name}'.", hint)


def save(device: Device, folder: Path) -> Path:
    """Write a user's device into the folder as JSON; of the same name there is no other one then.

    Raises ExplorerError.
    """
    validate(device, "The new device")
    path = _place(device.name, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, _as_json(device))
        _take_out(device.name, folder, path)
    except OSError as error:
        raise ExplorerError(
            f"The device could not be kept: {error.strerror}.", f"Free some space or permissions in {folder}."
        ) from error
    return path


def own(folder: Path | None) -> dict[str, Path]:
    """The user's devices by name, each with the file that is read for it; files with a fault hold none."""
    found: dict[str, Path] = {}
    for path in _files(folder):
        try:
            found |= {device.name: path for device in read(path)}
        except ExplorerError:
            continue
    return found


def remove(name: str, folder: Path) -> None:
    """Delete a user's device from every file that names it; a shipped one of that name is there again.

    A file with nothing else in it goes; the others in a file stay. Raises ExplorerError.
    """
    if name not in own(folder):
        raise ExplorerError(f"'{name}' is not a device of your own.", "The devices of the catalogue stay.")
    try:
        _take_out(name, folder)
    except OSError as error:
        raise ExplorerError(
            f"'{name}' could not be deleted: {error.strerror}.", f"Look at the permissions of {folder}."
        ) from error


def _take_out(name: str, folder: Path, but: Path | None = None) -> None:
    """Of every file that can be read, but for one. Raises OSError."""
    for path in _files(folder):
        try:
            before = () if path == but else read(path)
        except ExplorerError:
            continue
        kept = [device for device in before if device.name != name]
        if before and not kept:
            path.unlink()
        elif len(kept) < len(before):
            write_whole(path, _rows_without(path, name) if path.suffix == ".csv" else _as_json(kept))


def _place(name: str, folder: Path) -> Path:
    """Where this device is written: a file in which there is nothing else."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:100] or "device"
    path = folder / f"{slug}.json"
    try:
        alone = not path.exists() or {device.name for device in read(path)} == {name}
    except ExplorerError:
        alone = False  # what is wrong with it is the user's to mend
    return path if alone else folder / f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"


def read(path: Path) -> tuple[Device, ...]:
    """The devices of one file; raises ExplorerError with one sentence about what is wrong."""
    where = path.name
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExplorerError(f"{where} cannot be read: {error}.", "It must be a UTF-8 text file.") from error
    if path.suffix == ".csv":
        found = _from_csv(text, where)
    else:
        try:
            decoded = msgspec.json.decode(text, type=Device | list[Device])
        except msgspec.ValidationError as error:
            raise ExplorerError(
                f"{where} does not describe a device: {error}.",
                "The fields name, kind, mem_bandwidth_bytes_per_s, mem_bytes, peak_flop_per_s and sources are needed.",
            ) from error
        except UNREADABLE as error:
            raise ExplorerError(f"{where} is not valid JSON: {error}.", "Correct the file, or remove it.") from error
        found = tuple(decoded) if isinstance(decoded, list) else (decoded,)
    if not found:
        raise ExplorerError(f"{where} holds no device.", "Add one, or remove the file.")
    return tuple(validate(device, where) for device in found)


def _as_json(what: Device | list[Device]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(what, order="sorted"), indent=2) + b"\n"


def _rows_without(path: Path, name: str) -> bytes:
    """A CSV file as it is, without the rows of this device."""
    rows = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    out = io.StringIO()
    writer = csv.DictWriter(out, rows.fieldnames or (), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for row in rows if (row.get("name") or "").strip() != name)
    return out.getvalue().encode()


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.casefold())


def _files(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in (".json", ".csv") and path.is_file())


def _finite(number: float) -> float:
    """The same; raises ValueError for what no table means."""
    if not math.isfinite(number):
        raise ValueError(number)
    return number


@cache
def _shipped() -> tuple[Device, ...]:
    return read(_SHIPPED)


def _from_csv(text: str, where: str) -> tuple[Device, ...]:
    try:
        return _from_rows(csv.DictReader(text.splitlines()), where)
    except csv.Error as error:
        raise ExplorerError(f"{where} is not a table: {error}.", "Correct the file, or remove it.") from error


def _from_rows(rows: csv.DictReader[str], where: str) -> tuple[Device, ...]:
    unknown = [str(column) for column in rows.fieldnames or () if column not in _COLUMNS]
    if unknown:
        raise ExplorerError(
            f"{where} has the unknown column '{unknown[0]}'.", f"The columns are those of {_SHIPPED.name}."
        )
    return tuple(_from_row(row, where) for row in rows)


def _from_row(row: dict[str, str | None], where: str) -> Device:
    name = (row.get("name") or "").strip()

    def number(column: str, scale: float) -> float | None:
        cell = (row.get(column) or "").strip()
        if not cell:
            return None
        try:
            return _finite(float(cell)) * scale
        except ValueError as error:
            raise ExplorerError(
                f"{where}: '{cell}' in column {column} of '{name}' is not a number.",
                "Give a plain number in the unit that the column's name ends with, or leave the cell empty.",
            ) from error

    def needed(column: str, scale: float) -> float:
        value = number(column, scale)
        if value is None:
            raise ExplorerError(f"{where}: '{name}' has no {column}.", "It is needed for every prediction.")
        return value

    def words(column: str) -> str:
        return (row.get(column) or "").strip()

    peaks = {dtype: number(column, 1e12) for column, dtype in _PEAK_COLUMNS.items()}
    year = number("year", 1)
    fields = {
        "name": name,
        "vendor": words("vendor"),
        "kind": words("kind"),
        "mem_bytes": needed("memory_gb", 2**30),
        "mem_bandwidth_bytes_per_s": needed("bandwidth_gbs", 1e9),
        "peak_flop_per_s": {dtype: peak for dtype, peak in peaks.items() if peak is not None},
        "tdp_w": number("tdp_w", 1),
        "year": None if year is None else int(year),
        "clock_hz": number("clock_ghz_used", 1e9),
        "confidence": words("confidence") or None,
        "uncertain_fields": [_FIELD_OF_COLUMN.get(f, f) for f in words("uncertain_fields").split(";") if f],
        "sources": [words("source")] if words("source") else [],
        "checked_against": words("checked_against"),
        "notes": words("notes"),
    }
    try:
        return msgspec.convert(fields, Device)
    except msgspec.ValidationError as error:
        raise ExplorerError(f"{where}: '{name}' is not a device: {error}.", "Correct that row.") from error
