"""Validation: published figures against what gempim measures, with tolerance and the reason for any difference.

`claims.toml` has the claims; gempim supplies the measurements as a dictionary from claim id to value, because measuring
needs the simulator and analysis does not know it. A claim that nobody measured is listed as such, never left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gempim.quantity import DataError, Quantity, check_keys, load_toml, parse_quantity, suggest

SCHEMA = 1
"""Schema version of claims files."""

PASS, OUTSIDE, MISSING = "pass", "outside", "not measured"
"""Results of a check."""

_KEYS = ("id", "claim", "expected", "tolerance", "command", "reason")


@dataclass(frozen=True)
class Claim:
    """A published figure. `tolerance` is the allowed relative deviation; `reason` says why a difference is expected."""

    id: str
    claim: str
    expected: Quantity
    tolerance: Quantity
    command: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """A claim and what was measured for it (None: nobody did)."""

    claim: Claim
    measured: float | None

    @property
    def deviation(self) -> float | None:
        """(measured - expected) / expected."""
        expected = self.claim.expected.as_float()
        return None if self.measured is None else (self.measured - expected) / expected

    @property
    def result(self) -> str:
        """`PASS`, `OUTSIDE` or `MISSING`."""
        if self.deviation is None:
            return MISSING
        return PASS if abs(self.deviation) <= self.claim.tolerance.as_float() else OUTSIDE

    def row(self) -> dict[str, str]:
        """As texts, for tables."""
        claim = self.claim
        unit = claim.expected.unit
        return {
            "claim": claim.claim,
            "expected": f"{claim.expected.as_float():g} {unit}",
            "measured": "–" if self.measured is None else f"{self.measured:.3g} {unit}",
            "deviation": "–" if self.deviation is None else f"{self.deviation * 100:+.0f} %",
            "tolerance": f"±{claim.tolerance.as_float() * 100:g} %",
            "result": self.result,
            "reason": claim.reason,
            "source": claim.expected.source,
        }

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "id": self.claim.id,
            "expected": self.claim.expected.as_float(),
            "unit": self.claim.expected.unit,
            "measured": self.measured,
            "deviation": self.deviation,
            "tolerance": self.claim.tolerance.as_float(),
            "result": self.result,
            "command": self.claim.command,
            "source": self.claim.expected.source,
            "reason": self.claim.reason,
        }


def load_claims(file: str | Path | None = None) -> list[Claim]:
    """The claims of a file, by default those that come with gempim.

    Raises DataError naming file and key for a missing or empty field, an expected value of zero, a tolerance below
    zero, an id that occurs twice.
    """
    path = Path(file) if file is not None else Path(__file__).parent / "claims.toml"
    data = load_toml(path)
    check_keys(data, file=path, required=("schema", "claim"))
    if data["schema"] != SCHEMA:
        raise DataError(f"{path}: schema: expected {SCHEMA}, got {data['schema']!r}")
    claims: list[Claim] = []
    for index, raw in enumerate(data["claim"]):
        key = f"claim[{index}]"
        check_keys(raw, file=path, key=key, required=_KEYS)
        for name in ("id", "claim", "command", "reason"):
            if not isinstance(raw[name], str) or not raw[name].strip():
                raise DataError(f"{path}: {key}.{name}: expected text, got {raw[name]!r}")
        expected = parse_quantity(raw["expected"], file=path, key=f"{key}.expected")
        tolerance = parse_quantity(raw["tolerance"], file=path, key=f"{key}.tolerance", unit="fraction")
        if expected.as_float() == 0:
            raise DataError(f"{path}: {key}.expected: zero has no relative deviation")
        if tolerance.as_float() < 0:
            raise DataError(f"{path}: {key}.tolerance: expected 0 or more, got {tolerance.value}")
        if raw["id"] in {claim.id for claim in claims}:
            raise DataError(f"{path}: {key}: id {raw['id']!r} occurs twice")
        claims.append(Claim(raw["id"], raw["claim"], expected, tolerance, raw["command"], raw["reason"]))
    return claims


def check(claims: Iterable[Claim], measured: Mapping[str, float | None]) -> list[Outcome]:
    """Hold measurements (by claim id) against the claims.

    Raises DataError for a measurement of no claim, with the nearest id, and for one that is not a finite number.
    """
    found = list(claims)
    ids = [claim.id for claim in found]
    for name, value in measured.items():
        if name not in ids:
            raise DataError(f"measured {name!r}, which is not a claim{suggest(name, ids)} (claims: {', '.join(ids)})")
        if value is not None and not math.isfinite(value):
            raise DataError(f"measured {name} = {value}: expected a finite number")
    return [Outcome(claim, measured.get(claim.id)) for claim in found]


def render_page(
    outcomes: Sequence[Outcome], provenance: Sequence[str] = (), again: Mapping[str, str] | None = None
) -> str:
    """VALIDATION.md: a summary table, then each claim with its command, source, tolerance and reason.

    `provenance` are lines that say which versions and tables made the measurements; `again` are commands, by claim id,
    that simulate the very case that a figure is of.
    """
    cases = again or {}
    counts = {kind: sum(outcome.result == kind for outcome in outcomes) for kind in (PASS, OUTSIDE, MISSING)}
    lines = [
        "# Validation",
        "",
        "Generated; do not edit. Published figures and what gempim measures; a deviation is reported, not tuned away.",
        "",
        f"{counts[PASS]} within tolerance, {counts[OUTSIDE]} outside, {counts[MISSING]} not measured.",
        "",
        *(f"- {line}" for line in provenance),
        *([""] if provenance else []),
        "| claim | expected | measured | deviation | tolerance | result |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for outcome in outcomes:
        row = outcome.row()
        cells = (
            row[name].replace("|", "\\|")
            for name in ("claim", "expected", "measured", "deviation", "tolerance", "result")
        )
        lines.append("| " + " | ".join(cells) + " |")
    for outcome in outcomes:
        claim = outcome.claim
        lines += [
            "",
            f"## {claim.id}: {outcome.result}",
            "",
            f"{claim.claim}.",
            "",
            f"- Expected: {claim.expected.as_float():g} {claim.expected.unit} ({claim.expected.kind}, "
            f"{claim.expected.scope}). Source: {claim.expected.source}",
            f"- Measured: {outcome.row()['measured']}",
            f"- Tolerance: {outcome.row()['tolerance']}: {claim.tolerance.source}",
            f"- Why it may differ: {claim.reason}",
            f"- Command: `{claim.command}`",
            *([f"- Its case: `{cases[claim.id]}`"] if claim.id in cases else []),
        ]
    return "\n".join(lines) + "\n"
