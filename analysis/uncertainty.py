"""How far a figure can be trusted: intervals of rates, energies and costs, through ratios and means, and their digits.

What is known of a run's error, as relative half-widths of 95 % intervals::

    steps      t(n - 1) * s / (sqrt(n) * mean)    n regions of one phase, s their sample standard deviation, Student's t
    repeats    the same over runs that differ in nothing but a key that was named as a repeat (a seed)
    sampling   the bound that a sampled run states: how far its measured layers lie apart, over what was estimated

Independent parts, and the two sides of a ratio, combine by the root of the sum of their squares (Kline and McClintock,
"Describing uncertainties in single-sample experiments", Mechanical Engineering 75, 1953: all at the same odds). Half-
widths are of the logarithm, so an interval is ``value * exp(-h)`` to ``value * exp(+h)``: it never reaches below zero,
and the interval of ``b / a`` is the inverse of that of ``a / b``. A geometric mean of n independent ratios has
``sqrt(h1**2 + ... + hn**2) / n``.

Not in an interval: parameters that are choices (the sensitivity plot moves those), the price (the cost band), energies
per event, and whatever the model gets wrong (the validation page).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gempim.quantity import DataError

MOST_DIGITS = 4
"""No figure for people has more significant digits than this, however small its interval."""

DIGITS = 3
"""Significant digits of a figure of which no interval is known."""

_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
        2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
"""Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2)."""

METHOD = (
    "95 % intervals. Steps: Student's t times the standard error of the steps' values. Repeats: the same over runs that"
    " differ only in a named repeat key. Sampling: the bound that a sampled run states (how far its measured layers lie"
    " apart, over what was estimated), for time and, since both scale with the layers, for energy. Parts and the two"
    " sides of a ratio combine by the root of the sum of squares (Kline and McClintock, 1953), on the logarithm. Not in"
    " the intervals: parameters that are choices, prices, energies per event, and what the models get wrong."
)
"""The method in a paragraph, for reports."""


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the interval's width, in the figure's unit."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Error:
    """What is known of a figure's relative error, by part; None is a part that is there and of unknown size.

    Without parts nothing is known: one region, simulated whole, once.
    """

    parts: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def half(self) -> float | None:
        """Half-width of the logarithm's 95 % interval; None when there is no part, or one of unknown size."""
        known = [part for part in self.parts.values() if part is not None]
        return math.hypot(*known) if known and len(known) == len(self.parts) else None

    @property
    def unknown(self) -> bool:
        """Whether there is an error of unknown size."""
        return any(part is None for part in self.parts.values())

    def of(self, value: float) -> Interval | None:
        """The interval of a figure that has this error."""
        half = self.half
        return None if half is None else interval(value, half)

    def text(self) -> str:
        """The parts in percent: ``steps 0.81 %, sampling 2.1 %``."""
        said = [f"{name} {'unknown' if part is None else percent(part)}" for name, part in self.parts.items()]
        return ", ".join(said) or "none known"


def interval(value: float, half: float) -> Interval:
    """The interval of a positive figure whose logarithm has the half-width `half`."""
    return Interval(value, value * math.exp(-half), value * math.exp(half))


def percent(part: float) -> str:
    """A relative half-width with two digits."""
    return f"{_round(part * 100, _exponent(part * 100) - 1)} %" if part else "0 %"


def student_t(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t. Above 30 degrees of freedom that of 30, which is larger.

    Raises ValueError for less than one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom")
    return _T95[min(freedom, len(_T95)) - 1]


def spread(values: Sequence[float]) -> float | None:
    """Relative half-width of the mean's interval from repeated values above zero; None for fewer than two."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return student_t(len(values) - 1) * deviation / math.sqrt(len(values)) / mean


def error_of(manifest: Mapping[str, Any], label: str, values: Sequence[float], where: str) -> Error:
    """The error of one phase of a run.

    :param manifest: the run's; its ``sampling`` section, where there is one, has the bounds of its passes
    :param label: ``prefill`` or ``decode``
    :param values: the figure (a rate, joules per token) of each region of the phase
    :param where: names the run in errors
    :raises DataError: a ``sampling`` section that cannot be read
    """
    parts: dict[str, float | None] = {}
    steps = spread(values)
    if steps is not None:
        parts["steps"] = steps
    bound = _sampling(manifest, label, where)
    if bound is None or bound > 0:
        # The time is within a factor of 1 - bound and 1 + bound; the wider side on the logarithm covers both.
        parts["sampling"] = None if bound is None or bound >= 1 else -math.log1p(-bound)
    return Error(parts)


def _sampling(manifest: Mapping[str, Any], label: str, where: str) -> float | None:
    """The bound of a phase as a share of its time: that of its passes, which err together. 0: nothing left out."""
    if "sampling" not in manifest:
        return 0.0
    try:
        passes = [p for name, p in manifest["sampling"]["passes"].items() if name.partition(" ")[0] == label]
        if any(p["error"] is None for p in passes):
            return None
        total = math.fsum(float(p["sim_ps"]) for p in passes)
        bound = math.fsum(float(p["error"]) * float(p["sim_ps"]) for p in passes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where}: sampling.passes: expected sim_ps and error (a share, or null) of every pass: {error!r}"
        ) from error
    return bound / total if total else 0.0


def ratio(of: float | None, over: float | None) -> float | None:
    """Half-width of a ratio of two independent figures; None when that of either is not known."""
    return None if of is None or over is None else math.hypot(of, over)


def geometric_mean(values: Iterable[float]) -> float:
    """The mean of ratios. Raises ValueError for no value, or one that is not above zero."""
    found = list(values)
    if not found or not all(v > 0 and math.isfinite(v) for v in found):
        raise ValueError("a geometric mean needs values above zero")
    return math.exp(math.fsum(map(math.log, found)) / len(found))


def geometric_mean_half(halves: Sequence[float | None]) -> float | None:
    """Half-width of a geometric mean of independent figures; None when one of theirs is not known."""
    known = [half for half in halves if half is not None]
    return math.hypot(*known) / len(known) if known and len(known) == len(halves) else None


def last_place(value: float, half: float | None = None, most: int = MOST_DIGITS) -> int:
    """The decimal exponent of the last digit to show of `value`: the one rule of digits.

    The second digit of the interval's half-width, and never more than `most` digits; without an interval, `DIGITS`
    digits.
    """
    if half is None or not math.isfinite(half) or half <= 0:
        return _exponent(value, DIGITS) - DIGITS + 1
    return max(_exponent(half, 2) - 1, _exponent(value, most) - most + 1)


def rounded(value: float, half: float | None = None, most: int = MOST_DIGITS) -> str:
    """A figure with the digits of `last_place`: ``684.3``, ``50.35``, ``1280``."""
    if not math.isfinite(value):
        return "–"
    return _round(value, last_place(value, half, most)) if value else "0"


def significant(value: float, digits: int = DIGITS) -> str:
    """A number with `digits` significant digits and no exponent where people can read it without one."""
    if not math.isfinite(value):
        return "–"
    return _round(value, _exponent(value, digits) - digits + 1) if value else "0"


def plus_minus(value: float, half: float | None) -> str:
    """A figure with its half-width, which is rounded up: ``684.3 ± 5.5``."""
    if half is None or not math.isfinite(half) or half <= 0 or not math.isfinite(value):
        return rounded(value)
    place = last_place(value, half)
    # A hair less, so that a half-width that is exact does not become one more.
    up = max(math.ceil(half / 10.0**place * (1 - 1e-12)), 1) * 10.0**place
    return f"{_round(value, place)} ± {_round(up, place)}"


def ends(found: Interval | None) -> str:
    """The ends of an interval, rounded outwards to the figure's digits: ``2.31 to 2.50``."""
    if found is None:
        return "–"
    place = last_place(found.value, found.half)
    step = 10.0**place
    low = math.floor(found.low / step * (1 + 1e-12)) * step
    high = math.ceil(found.high / step * (1 - 1e-12)) * step
    return f"{_round(low, place)} to {_round(high, place)}"


def _exponent(value: float, digits: int = 12) -> int:
    """Decimal exponent of a value after rounding it to some digits: 9.999 becomes 10.0, which has another one."""
    return 0 if value == 0 else math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))


def _round(value: float, place: int) -> str:
    """A number up to the digit of 10 ** `place`; without an exponent from 0.0001 to below ten million."""
    value = round(value, -place)
    magnitude = _exponent(value)
    if -4 <= magnitude < 7:
        return f"{value:.{max(0, -place)}f}"
    return f"{value:.{max(0, magnitude - place)}e}"
