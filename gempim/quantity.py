"""One number of a data file, with its unit, its scope and where it comes from; and the strict reading of such files.

Every number in gempim's TOML data files is written as
``key = { value = 16, unit = "cores", scope = "socket", source = "...", kind = "paper" }``.
A missing field, an unknown field or another type is a `DataError` that names file and key: nothing is guessed or
defaulted, because a wrong constant in an architecture study shows up as a wrong conclusion, not as a crash.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("paper", "standard", "code", "measured", "derived", "choice", "unverified")
"""Where a number comes from. ``choice`` is ours, with the reason in `Quantity.source`."""

FIELDS = ("value", "unit", "scope", "source", "kind")
"""The keys of a number in a data file; all of them are required."""

Value = int | float | bool | str


class DataError(ValueError):
    """A data file (or a key in it) is not what it must be; the message names file, key and what was expected."""


@dataclass(frozen=True)
class Quantity:
    """A value with its provenance.

    `scope` says what the number is counted per or applies to ("socket", "model", "128-bit bank access" ...); `kind` is
    one of `KINDS`.
    """

    value: Value
    unit: str
    scope: str
    source: str
    kind: str

    def as_int(self) -> int:
        """The value as an integer. Raises DataError when it is not a whole number (a float like 2.5, a bool, text)."""
        if isinstance(self.value, bool | str):
            raise DataError(f"expected a whole number, got {self.value!r}")
        if isinstance(self.value, float) and not self.value.is_integer():
            raise DataError(f"expected a whole number, got {self.value!r}")
        return int(self.value)

    def as_float(self) -> float:
        """The value as a float. Raises DataError for a bool or text."""
        if isinstance(self.value, bool | str):
            raise DataError(f"expected a number, got {self.value!r}")
        return float(self.value)


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises DataError naming the file for a missing or unreadable file, and file and line for text that is not TOML.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}: line {line}: not UTF-8 text, which TOML must be") from error
    except tomllib.TOMLDecodeError as error:
        # tomllib's own text ends in "(at line 3, column 5)".
        raise DataError(f"{file}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise DataError(f"{file}: not valid TOML: nested too deeply") from error


def suggest(word: str, allowed: Iterable[str]) -> str:
    """The words ``; did you mean 'x'?`` when `allowed` has something near `word`, otherwise an empty string."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_keys(
    table: Mapping[str, Any],
    *,
    file: str | Path,
    key: str = "",
    required: Iterable[str] = (),
    optional: Iterable[str] = (),
) -> None:
    """Check that `table` has all of `required` and nothing besides `required` and `optional`.

    `key` is the dotted name of the table inside the file, empty for the top of the file. Raises DataError that names
    file and key, what is allowed, and the nearest allowed name for a misspelt one.
    """
    need = list(required)
    allowed = need + [name for name in optional if name not in need]
    where = f"{file}: {key}" if key else f"{file}"
    for name in table:
        if name not in allowed:
            raise DataError(
                f"{where}: unknown key {name!r}{suggest(name, allowed)} (allowed: {', '.join(allowed) or 'none'})"
            )
    missing = [name for name in need if name not in table]
    if missing:
        raise DataError(
            f"{where}: missing {'key' if len(missing) == 1 else 'keys'} {', '.join(repr(name) for name in missing)} "
            f"(required: {', '.join(need)})"
        )


def parse_quantity(raw: object, *, file: str | Path, key: str, unit: str | Iterable[str] | None = None) -> Quantity:
    """Turn the TOML value `raw` of `key` into a `Quantity`.

    A number must be a table with exactly the keys of `FIELDS`. A plain string or bool may stand alone, or as a table
    with ``value`` and ``source`` and, if wanted, the other fields (a name or a switch has no unit). Its kind is
    "unverified" unless it says otherwise.

    `unit`: the unit, or the units, that the reader of this key understands; None accepts any.

    Raises DataError naming file and key for anything else: a bare number, a missing, unknown or empty field, a value
    that is not a finite number, an unknown kind, a unit that is not allowed.
    """
    where = f"{file}: {key}"
    if isinstance(raw, bool | str):
        return _checked(Quantity(value=raw, unit="", scope="", source="", kind="unverified"), where, unit)
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: expected a table {{ {', '.join(f'{name} = ...' for name in FIELDS)} }}, got {raw!r}")
    if "value" not in raw:
        check_keys(raw, file=file, key=key, required=FIELDS)
    value = raw["value"]
    if isinstance(value, bool | str):
        check_keys(raw, file=file, key=key, required=("value", "source"), optional=FIELDS)
    elif isinstance(value, int | float):
        check_keys(raw, file=file, key=key, required=FIELDS)
        if not math.isfinite(value):
            raise DataError(f"{where}.value: expected a finite number, got {value!r}")
    else:
        raise DataError(f"{where}.value: expected a number, a string or a bool, got {value!r}")
    texts: dict[str, str] = {}
    for name in FIELDS[1:]:
        text = raw.get(name, "unverified" if name == "kind" else "")
        if not isinstance(text, str):
            raise DataError(f"{where}.{name}: expected text, got {text!r}")
        if not text.strip() and name in raw:
            raise DataError(f"{where}.{name}: expected text, got an empty string")
        texts[name] = text
    return _checked(Quantity(value=value, **texts), where, unit)


def _checked(quantity: Quantity, where: str, unit: str | Iterable[str] | None) -> Quantity:
    if quantity.kind not in KINDS:
        raise DataError(
            f"{where}.kind: unknown kind {quantity.kind!r}{suggest(quantity.kind, KINDS)} (allowed: {', '.join(KINDS)})"
        )
    if unit is not None:
        units = [unit] if isinstance(unit, str) else list(unit)
        if quantity.unit not in units:
            raise DataError(
                f"{where}.unit: expected {' or '.join(repr(name) for name in units)}, got {quantity.unit!r}"
                f"{suggest(quantity.unit, units)}"
            )
    return quantity
