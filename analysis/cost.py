"""Cost: tokens per second and a price per hour, to dollars per million tokens and tokens per dollar.

Formulas (in common use; utilisation is explicit because blogs assume 0.3 to 0.7 and papers 1.0)::

    usd_per_million_tokens = usd_per_hour / (tokens_per_s * 3600 * utilisation) * 1e6
    tokens_per_usd         = tokens_per_s * 3600 * utilisation / usd_per_hour

Hourly price of a run::

    usd_per_hour = instance price * (vCPUs held / vCPUs of the instance) * PIM factor
    PIM factor   = 1 + area_overhead * silicon_price_share     (runs with PIM statistics only)

The PIM's area is amortised as the rest of the machine is: a price per hour pays for silicon over its life, and
`silicon_price_share` of it is in proportion to area. Both numbers are inputs of the price file and can be overridden;
design cost, masks and yield are not modelled.

vCPUs held are the cores of the simulated system, not the threads used: a run has its socket's whole memory bandwidth
and last-level cache, so it must pay for the whole of it. GPU prices are per GPU and not prorated.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gempim
from gempim.analysis.run import Run
from gempim.quantity import DataError, Quantity, check_keys, load_toml, parse_quantity, suggest

SCHEMA = 1
"""Schema version of price files that this code reads."""

SECONDS_PER_HOUR = 3600

_PRICE_KEYS = ("provider", "instance", "region", "usd_per_hour", "date", "verified", "note")
_OVERHEAD_KEYS = ("area_overhead", "silicon_price_share")


@dataclass(frozen=True)
class Price:
    """What somebody charges for one machine for one hour. `vcpus` is None where the price is per GPU."""

    key: str
    provider: str
    instance: str
    region: str
    usd_per_hour: Quantity
    date: str
    verified: bool
    note: str
    vcpus: int | None
    user_set: bool = False

    @property
    def status(self) -> str:
        """``verified``, ``unverified`` or ``set by the user``."""
        return "set by the user" if self.user_set else "verified" if self.verified else "unverified"


@dataclass(frozen=True)
class PriceTable:
    """Prices by key, and the model of what PIM hardware adds to a price."""

    name: str
    sha256: str
    file: Path
    prices: dict[str, Price]
    area_overhead: Quantity
    silicon_price_share: Quantity

    @property
    def label(self) -> str:
        """Name and hash."""
        return f"{self.name} (sha256 {self.sha256[:12]})"


@dataclass(frozen=True)
class Hourly:
    """The hourly price of one run and how it came about."""

    price: Price
    vcpus_held: int | None
    share: float
    pim_factor: float
    usd_per_hour: float
    formula: str


def tokens_per_usd(tokens_per_s: float, usd_per_hour: float, utilisation: float = 1.0) -> float:
    """Tokens that one dollar buys. Raises DataError unless all three are positive and utilisation at most 1."""
    _check(tokens_per_s, usd_per_hour, utilisation)
    return tokens_per_s * SECONDS_PER_HOUR * utilisation / usd_per_hour


def usd_per_million_tokens(tokens_per_s: float, usd_per_hour: float, utilisation: float = 1.0) -> float:
    """Dollars per million tokens. Raises DataError unless all three are positive and utilisation at most 1."""
    _check(tokens_per_s, usd_per_hour, utilisation)
    return usd_per_hour / (tokens_per_s * SECONDS_PER_HOUR * utilisation) * 1e6


def _check(tokens_per_s: float, usd_per_hour: float, utilisation: float) -> None:
    for name, value in (
        ("tokens per second", tokens_per_s),
        ("usd_per_hour", usd_per_hour),
        ("utilisation", utilisation),
    ):
        if not math.isfinite(value) or value <= 0:
            raise DataError(f"{name}: expected a number above zero, got {value}")
    if utilisation > 1:
        raise DataError(f"utilisation: expected at most 1.0, got {utilisation}")


@dataclass(frozen=True)
class BandCell:
    """One point of a cost band: a utilisation, and a factor on the hourly price."""

    utilisation: float
    price_factor: float
    usd_per_million_tokens: float

    @property
    def title(self) -> str:
        """``u 0.5`` or ``price x2``."""
        return f"u {self.utilisation:g}" if self.price_factor == 1 else f"price x{self.price_factor:g}"


BAND_UTILISATIONS = (1.0, 0.7, 0.5, 0.3)
"""Utilisations of the cost band: papers take 1.0, services are said to reach 0.3 to 0.7."""

BAND_PRICES = (0.5, 2.0)
"""Factors on the price: reserved or spot instances cost about half of on-demand ones, other providers up to twice."""


def cost_band(tokens_per_s: float, usd_per_hour: float) -> list[BandCell]:
    """Dollars per million tokens over utilisation at the given price, then over the price with all of the time used.

    Raises DataError as `usd_per_million_tokens`.
    """
    points = [(u, 1.0) for u in BAND_UTILISATIONS] + [(1.0, factor) for factor in BAND_PRICES]
    return [BandCell(u, f, usd_per_million_tokens(tokens_per_s, usd_per_hour * f, u)) for u, f in points]


def price_dir() -> Path:
    """The folder of the price files that come with gempim."""
    return Path(gempim.__file__).parent / "data" / "prices"


def load_prices(table: str | Path = "default") -> PriceTable:
    """Load a price file by the name of one that comes with gempim, or by path.

    Raises DataError naming file and key for a missing or unknown key, a price that is not above zero, a date that is
    none, an unknown file.
    """
    text = str(table)
    file = (
        Path(table)
        if isinstance(table, Path) or "/" in text or text.endswith(".toml")
        else price_dir() / f"{text}.toml"
    )
    data = load_toml(file)
    check_keys(data, file=file, required=("schema", "price", "pim_overhead"))
    if data["schema"] != SCHEMA:
        raise DataError(f"{file}: schema: expected {SCHEMA}, got {data['schema']!r}")
    if not isinstance(data["price"], dict) or not data["price"]:
        raise DataError(f"{file}: price: expected tables [price.NAME]")
    check_keys(data["pim_overhead"], file=file, key="pim_overhead", required=_OVERHEAD_KEYS)
    overhead = {
        key: parse_quantity(data["pim_overhead"][key], file=file, key=f"pim_overhead.{key}", unit="fraction")
        for key in _OVERHEAD_KEYS
    }
    for key, quantity in overhead.items():
        if not 0 <= quantity.as_float() <= 1:
            raise DataError(f"{file}: pim_overhead.{key}: expected 0 to 1, got {quantity.value}")
    return PriceTable(
        name=file.stem,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        file=file,
        prices={key: _price(key, raw, file) for key, raw in data["price"].items()},
        **overhead,
    )


def _price(key: str, raw: object, file: Path) -> Price:
    where = f"price.{key}"
    if not isinstance(raw, dict):
        raise DataError(f"{file}: {where}: expected a table")
    check_keys(raw, file=file, key=where, required=_PRICE_KEYS, optional=("vcpus",))
    quantity = parse_quantity(raw["usd_per_hour"], file=file, key=f"{where}.usd_per_hour", unit="usd/h")
    if quantity.as_float() <= 0:
        raise DataError(f"{file}: {where}.usd_per_hour: expected a price above zero, got {quantity.value}")
    for name in ("provider", "instance", "region", "note"):
        if not isinstance(raw[name], str) or not raw[name]:
            raise DataError(f"{file}: {where}.{name}: expected text, got {raw[name]!r}")
    if not isinstance(raw["date"], datetime.date):
        raise DataError(f"{file}: {where}.date: expected a date such as 2026-06-17, got {raw['date']!r}")
    if not isinstance(raw["verified"], bool):
        raise DataError(f"{file}: {where}.verified: expected true or false, got {raw['verified']!r}")
    vcpus = raw.get("vcpus")
    if vcpus is not None and (isinstance(vcpus, bool) or not isinstance(vcpus, int) or vcpus < 1):
        raise DataError(f"{file}: {where}.vcpus: expected a whole number from 1, got {vcpus!r}")
    return Price(
        key=key,
        provider=raw["provider"],
        instance=raw["instance"],
        region=raw["region"],
        usd_per_hour=quantity,
        date=raw["date"].isoformat(),
        verified=raw["verified"],
        note=raw["note"],
        vcpus=vcpus,
    )


def parse_overrides(words: Iterable[str]) -> dict[str, float]:
    """``key=value`` words of a command line as a dictionary. Raises DataError for a word that is none."""
    found: dict[str, float] = {}
    for word in words:
        key, equals, text = word.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not key or not equals or not math.isfinite(value):
            raise DataError(f"{word!r}: expected key=number, for example aws-c6g-16xlarge.usd_per_hour=2.0")
        if key in found:
            raise DataError(f"{word!r}: {key} is given twice")
        found[key] = value
    return found


def apply_overrides(table: PriceTable, overrides: Mapping[str, float] | None) -> PriceTable:
    """The table with ``PRICE.usd_per_hour``, ``area_overhead`` or ``silicon_price_share`` replaced.

    Raises DataError for an unknown key, with the nearest one, and for a value out of range.
    """
    prices = dict(table.prices)
    overhead = {"area_overhead": table.area_overhead, "silicon_price_share": table.silicon_price_share}
    allowed = [*(f"{key}.usd_per_hour" for key in prices), *overhead]
    for key, value in (overrides or {}).items():
        if key not in allowed:
            raise DataError(f"price override {key!r}{suggest(key, allowed)} (allowed: {', '.join(allowed)})")
        if key in overhead:
            if not 0 <= value <= 1:
                raise DataError(f"price override {key}={value}: expected 0 to 1")
            overhead[key] = replace(overhead[key], value=value, source="set by the user", kind="choice")
            continue
        if not math.isfinite(value) or value <= 0:
            raise DataError(f"price override {key}={value}: expected a price above zero")
        name = key.removesuffix(".usd_per_hour")
        quantity = replace(prices[name].usd_per_hour, value=value, source="set by the user", kind="choice")
        prices[name] = replace(prices[name], usd_per_hour=quantity, user_set=True)
    return replace(
        table,
        prices=prices,
        area_overhead=overhead["area_overhead"],
        silicon_price_share=overhead["silicon_price_share"],
    )


def hourly_price(run: Run, table: PriceTable) -> Hourly:
    """The hourly price of a run, from the price key in its manifest.

    Raises DataError for a price key that is not in the table and for a run that holds more vCPUs than the instance has.
    """
    key = str(run.experiment["price_key"])
    if key not in table.prices:
        raise DataError(
            f"{run.path}: price_key {key!r} is not in {table.file} (there are: {', '.join(table.prices)})"
            f"{suggest(key, table.prices)}"
        )
    price = table.prices[key]
    listed = price.usd_per_hour.as_float()
    share, held = 1.0, None
    formula = f"{listed:g} USD/h"
    if price.vcpus is not None:
        if "system.cpu.cores" not in run.sections[0]:
            whole = ", ".join(name for name, p in table.prices.items() if p.vcpus is None) or "there is none"
            raise DataError(
                f"{run.path}: the price of {price.instance} is shared by cores, and the system has none; choose one "
                f"per device: {whole}"
            )
        held = int(run.sections[0].get("system.cpu.cores"))
        if not 0 < held <= price.vcpus:
            raise DataError(
                f"{run.path}: the system has {held} cores, but {price.instance} has {price.vcpus} vCPUs; "
                "choose another price"
            )
        share = held / price.vcpus
        formula += f" * {held} cores / {price.vcpus} vCPUs"
    factor = 1.0
    if run.pim_devices():
        area, silicon = table.area_overhead.as_float(), table.silicon_price_share.as_float()
        factor = 1 + area * silicon
        formula += f" * (1 + {area:g} area overhead * {silicon:g} silicon share)"
    return Hourly(
        price=price,
        vcpus_held=held,
        share=share,
        pim_factor=factor,
        usd_per_hour=listed * share * factor,
        formula=formula,
    )
