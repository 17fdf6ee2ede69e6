"""The figures of a serving run: latencies, rates, energy a token, dollars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gempim.analysis.cost import PriceTable, apply_overrides, tokens_per_usd, usd_per_million_tokens
from gempim.analysis.energy import Energy, EnergyTable, boundary, measure_energy
from gempim.analysis.serving.metrics import Latency, latency
from gempim.analysis.serving.run import LAYERS, ServeRun
from gempim.quantity import DataError, suggest

SCHEMA = 1
"""Schema version of a serving run's result.json."""

PS_PER_S = 1e12

SUSTAINED = 0.95
"""A rate of requests is sustained when this share of it is answered while requests still arrive."""


@dataclass(frozen=True)
class ServeResult:
    """The figures of one serving run.

    `ttft` is from a request's arrival to its first token, `tbt` between tokens of one sequence, `e2e` from arrival to
    the last token; None where nothing was measured. `energy_by_layer` is by layer kind. `sustained` is None in a
    closed loop.
    """

    run: ServeRun
    energy_table: EnergyTable
    price_table: PriceTable
    usd_per_hour: float
    price_formula: str
    utilisation: float
    ttft: Latency | None
    tbt: Latency | None
    e2e: Latency | None
    tokens_per_s: float
    requests_per_s: float
    sustained: bool | None
    energy: Energy
    energy_by_layer: dict[str, Energy]
    warnings: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Tokens that were made."""
        return int(self.run.totals["tokens"])

    @property
    def j_per_token(self) -> float:
        """Joules a token; a lower bound when `energy.is_lower_bound`."""
        return self.energy.total_j / self.tokens

    @property
    def usd_per_million_tokens(self) -> float:
        """Dollars a million tokens, all devices."""
        return usd_per_million_tokens(self.tokens_per_s, self.usd_per_hour, self.utilisation)

    @property
    def tokens_per_usd(self) -> float:
        """Tokens a dollar, all devices."""
        return tokens_per_usd(self.tokens_per_s, self.usd_per_hour, self.utilisation)

    def j_per_token_by_layer(self) -> dict[str, dict[str, float]]:
        """Joules a token by layer kind and part of the machine (``xpu.memory``, ``logic_pim.arithmetic`` ...)."""
        return {
            layer: {name: joules / self.tokens for name, joules in energy.by_component().items() if joules}
            for layer, energy in self.energy_by_layer.items()
        }

    def time_by_layer(self) -> dict[str, dict[str, int]]:
        """Time of the stages by layer kind and unit [ps]; where units overlap, of the one that is done last."""
        out: dict[str, dict[str, int]] = {}
        for part in self.run.parts:
            units = out.setdefault(part.layer, {})
            for op in part.operators:
                units[op.unit] = units.get(op.unit, 0) + op.time_ps
        return out

    def to_json(self) -> dict[str, Any]:
        """The content of result.json: plain values, units in the names."""
        totals = self.run.totals
        return {
            "schema": SCHEMA,
            "run": self.run.name,
            "experiment_hash": self.run.manifest["experiment_hash"],
            "system": self.run.system,
            "devices": self.run.devices,
            "tokens": self.tokens,
            "requests": len(self.run.requests),
            "makespan_s": totals["makespan_ps"] / PS_PER_S,
            "tokens_per_s": self.tokens_per_s,
            "requests_per_s": self.requests_per_s,
            "sustained": self.sustained,
            **{name: (value.to_json() if (value := getattr(self, name)) else None) for name in ("ttft", "tbt", "e2e")},
            "j_per_token": self.j_per_token,
            "energy_is_lower_bound": self.energy.is_lower_bound,
            "energy_unknown": list(self.energy.unknown),
            "j_per_token_by_layer": self.j_per_token_by_layer(),
            "time_ps_by_layer": self.time_by_layer(),
            "energy_table": {"name": self.energy_table.name, "sha256": self.energy_table.sha256},
            "energy_boundary": boundary(self.energy_table, self.energy),
            "usd_per_hour": self.usd_per_hour,
            "usd_per_million_tokens": self.usd_per_million_tokens,
            "tokens_per_usd": self.tokens_per_usd,
            "most_batch": totals["most_batch"],
            "capacity_tokens": totals["capacity_tokens"],
            "warnings": list(self.warnings),
        }


def evaluate_serve(
    run: ServeRun,
    energy_table: EnergyTable,
    prices: PriceTable,
    price_override: Mapping[str, float] | None = None,
    utilisation: float = 1.0,
) -> ServeResult:
    """The figures of a serving run.

    Raises DataError for a price that is not in the table, and what `cost` and `energy` raise.
    """
    prices = apply_overrides(prices, price_override)
    answered = [r for r in run.requests if r["first_ps"] >= 0]
    makespan = run.totals["makespan_ps"] / PS_PER_S
    sections = {
        layer: [s for p, s in zip(run.parts, run.sections, strict=True) if p.layer == layer] for layer in LAYERS
    }
    hourly, formula = _hourly(run, prices)
    energy = measure_energy(run.sections, energy_table)
    return ServeResult(
        run=run,
        energy_table=energy_table,
        price_table=prices,
        usd_per_hour=hourly,
        price_formula=formula,
        utilisation=utilisation,
        ttft=latency(_histogram(r["first_ps"] - r["arrival_ps"] for r in answered)),
        tbt=latency(run.gaps),
        e2e=latency(_histogram(r["end_ps"] - r["arrival_ps"] for r in answered)),
        tokens_per_s=run.totals["tokens"] / makespan,
        requests_per_s=len(run.requests) / makespan,
        sustained=_sustained(run),
        energy=energy,
        energy_by_layer={layer: measure_energy(found, energy_table) for layer, found in sections.items() if found},
        warnings=tuple(_warnings(run, energy, prices)),
    )


def _histogram(values: Any) -> dict[int, int]:
    out: dict[int, int] = {}
    for value in values:
        out[value] = out.get(value, 0) + 1
    return out


def _sustained(run: ServeRun) -> bool | None:
    """Whether the system kept up: of the requests that arrived up to the last arrival, enough had been answered.

    Those that were still being answered, at most a full batch, are not held against it.
    """
    if run.experiment["requests"]["qps"] is None:
        return None
    last = max(r["arrival_ps"] for r in run.requests)
    waiting = sum(r["admitted_ps"] > last for r in run.requests)
    return waiting <= (1 - SUSTAINED) * len(run.requests)


def _hourly(run: ServeRun, prices: PriceTable) -> tuple[float, str]:
    key = str(run.experiment["price_key"])
    if key not in prices.prices:
        raise DataError(
            f"{run.path}: price_key {key!r} is not in {prices.file} (there are: {', '.join(prices.prices)})"
            f"{suggest(key, prices.prices)}"
        )
    each = prices.prices[key].usd_per_hour.as_float()
    total, formula = each * run.devices, f"{each:g} USD/h * {run.devices} devices"
    if "policy" in run.experiment["system"]:
        area, share = prices.area_overhead.as_float(), prices.silicon_price_share.as_float()
        total *= 1 + area * share
        formula += f" * (1 + {area:g} area overhead * {share:g} silicon share)"
    return total, formula


def _warnings(run: ServeRun, energy: Energy, prices: PriceTable) -> list[str]:
    out = [str(text) for text in run.manifest.get("notes", [])]
    price = prices.prices[str(run.experiment["price_key"])]
    if not price.verified and not price.user_set:
        out.append(
            f"The price {price.usd_per_hour.as_float():g} USD/h of {price.provider} {price.instance} has no verified "
            f"source (entered {price.date}: {price.usd_per_hour.source})."
        )
    if energy.unknown:
        out.append(f"{run.label()}: energy is a lower bound, nothing is known for: {', '.join(energy.unknown)}.")
    if "policy" in run.experiment["system"] and not any(
        op.unit not in ("xpu", "link") for part in run.parts for op in part.operators
    ):
        out.append(f"{run.label()}: nothing ran on the PIM: by its policy the xPU was always faster or allowed.")
    return out
