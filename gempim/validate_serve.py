"""The Duplex paper's figures against gempim: runs the serving grid, and measures the claims that rest on it.

Run as ``python -P -m gempim.validate_serve --out analysis/validation`` (tens of minutes). It writes `serving.csv`, one
row a run, `edap.csv`, and `serving-sensitivity.csv` with a figure of the largest swings; `gempim.validate` measures
the claims from these committed files, so that the page is made in seconds.
Nothing is fitted to a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import joblib
import numpy as np
import pandas as pd
import typer

from gempim.analysis.energy import load_energy_table
from gempim.analysis.plots import sensitivity_plot
from gempim.analysis.serving.table import row
from gempim.output_serve import serving_results
from gempim.quantity import DataError, load_toml
from gempim.serve.build import build, default_pim
from gempim.serve.simulate import simulate_serve
from gempim.serve.spec import ServeExperiment, resolve_serve
from gempim.systems import DATA, load_system

GPU, BASE, PE, ET, BANK = "gpu-h100", "duplex", "duplex-pe", "duplex-pe-et", "bank-pim"
BATCHES = (32, 64, 128)
LENGTHS = {
    "mixtral-8x7b": (256, 1024, 4096),
    "glam-143b": (512, 1024, 2048),
    "grok-1-314b": (256, 1024, 4096),
    "llama-3-70b": (256, 1024, 4096),
    "opt-66b": (256, 512, 1024),
}
"""Prompt and answer lengths of the paper's grids (table I, section VI); here both are equal, for the time it takes."""

DEVICES = {"mixtral-8x7b": 4, "glam-143b": 8, "grok-1-314b": 16, "llama-3-70b": 4, "opt-66b": 4}
MOE = ("mixtral-8x7b", "glam-143b", "grok-1-314b")
STAGES = 512
"""About so many stages a run, in its steady state; a run answers at least `LEAST` requests."""

LEAST = 8
EDAP_SHAPE = (16384, 4096)
EDAP_OP_B = (1, 2, 4, 8, 16, 32)
EDAP_SYSTEMS = {"bank-pim": "hbm3-bank-pim", "bankgroup-pim": "hbm3-bankgroup-pim", "duplex": "hbm3-logic-pim"}
AREAS = {"bank-pim": "bank-pim", "bankgroup-pim": "bankgroup-pim", "duplex": "logic-pim"}


UNKNOWNS: Mapping[str, Sequence[int | float | bool | str]] = {
    "xpu.bandwidth_efficiency": (0.75, 0.85, 1.0),
    "xpu.compute_efficiency": (0.6, 0.8, 1.0),
    "xpu.launch_ps": (0, 1_000_000, 3_000_000),
    "link.link_latency_ps": (800_000, 3_000_000),
    "policy.moe": ("stage", "coprocess-paper", "coprocess-code"),
    "policy.one_space_one_unit": (True, False),
    "logic_pim.activation_limit": ("none", "normal"),
    "logic_pim.bundle_ccd_nCK": (4, 6),
    "logic_pim.shared_group_io": (False, True),
    "logic_pim.rows_ahead": (0, 1, 2),
    "logic_pim.module_buffer_bytes": (4096, 8192, 16384),
    "logic_pim.sum_bytes": (2, 4),
    "logic_pim.instruction_ps": (0, 100_000, 1_000_000),
    "logic_pim.softmax_lanes": (64, 256),
}
"""Parameters that the paper does not give, with the values that are tried; the shipped default is among them."""

SENSITIVITY_CASE = ("mixtral-8x7b", 32, 1024, 1024)


def _point(
    system: str, model: str, batch: int, lin: int, lout: int, sets: Mapping[str, int | float | bool | str] | None = None
) -> ServeExperiment:
    count = max(LEAST, min(batch, batch * STAGES // lout))
    if (model, batch) == ("glam-143b", 64) and system in (GPU, ET) and lout <= 1024:
        count = 2 * batch  # end-to-end latencies are of requests that arrive and end within the run
    doc = {
        "serve": {"system": system, "devices": DEVICES[model]},
        "model": {"name": model},
        "requests": {"count": count, "input": lin, "output": lout},
        "scheduler": {"max_batch": batch, "start": "steady"},
        "set": dict(sets or {}),
    }
    return resolve_serve(doc, origin="validation")[0]


def grid() -> Iterator[ServeExperiment]:
    """Every run behind a claim."""
    for model in MOE:
        for batch in BATCHES:
            for length in LENGTHS[model]:
                for system in (GPU, BASE, PE, ET):
                    yield _point(system, model, batch, length, length)
    for model, batches in (("mixtral-8x7b", BATCHES), ("llama-3-70b", (32, 64)), ("opt-66b", (32, 64))):
        for batch in batches:
            for length in LENGTHS[model]:
                yield _point(BANK, model, batch, length, length)
                if model not in MOE:
                    yield _point(GPU, model, batch, length, length)
                    yield _point(ET, model, batch, length, length)
    # Figure 13: the rate of requests that a full batch of 128 answers.
    for system in (GPU, f"{GPU}@8", BASE, ET):
        yield _point(system, "mixtral-8x7b", 128, 4096, 512)
    # The paper's GPU has whole experts; sliced ones are a stronger baseline. And the public code's split.
    for batch in BATCHES:
        yield _point("duplex-code", "mixtral-8x7b", batch, 1024, 1024)


def _one(experiment: ServeExperiment, runs: Path) -> Path:
    return simulate_serve(experiment, runs)


def edap() -> pd.DataFrame:
    """Energy x delay x area of an FP16 GEMM of 16384 x 4096 weights on one device: the paper's figure 8.

    Area is that of the whole stack, nine dies and what the PIM adds (data/area): only with that do the figure's ratios
    follow from bandwidths and path energies.
    """
    rows = []
    for op_b in EDAP_OP_B:
        for system, table in EDAP_SYSTEMS.items():
            pim = default_pim(load_system(system)).device
            cost = pim.gemm(*EDAP_SHAPE, op_b, spaces=pim.spaces)  # type: ignore[attr-defined]
            energies = load_energy_table(table)
            joules = sum(
                item.joules_per_count * cost.counts[item.stat.removeprefix("system.logic_pim.")]
                for item in energies.rows
                if item.joules_per_count is not None
            )
            area = load_toml(DATA / "area" / f"{AREAS[system]}.toml")
            dies = (area["die"]["dram_dies"]["value"] + 1) * area["die"]["area_mm2"]["value"]
            rows.append(
                {
                    "op_b": op_b,
                    "system": system,
                    "seconds": cost.pim_ps / 1e12,
                    "joules": joules,
                    "stack_mm2": dies + area["total"]["area_mm2"]["value"],
                }
            )
    frame = pd.DataFrame(rows)
    frame["edap"] = frame["seconds"] * frame["joules"] * frame["stack_mm2"]
    frame["normalised"] = frame["edap"] / frame.groupby("op_b")["edap"].transform("max")
    return frame


def sensitivity(runs: Path, jobs: int) -> pd.DataFrame:
    """Speedup of duplex-pe-et over GPUs with one parameter changed at a time; of the xPU and links, for both systems.

    :return: columns parameter, value, metric, metric_value, is_default; largest swing first
    """
    shipped = load_system(ET).sections
    points: dict[tuple[str, str, str], ServeExperiment] = {}
    for key, values in UNKNOWNS.items():
        for value in values:
            points[ET, key, str(value)] = _point(ET, *SENSITIVITY_CASE, {key: value})
            common = key.partition(".")[0] in ("xpu", "link")
            points[GPU, key, str(value)] = _point(GPU, *SENSITIVITY_CASE, {key: value} if common else None)
    task: Callable[[ServeExperiment, Path], Path] = _one
    every = {p.hash({}): p for p in points.values()}
    paths = joblib.Parallel(n_jobs=jobs)(joblib.delayed(task)(p, runs) for p in every.values())
    found = serving_results(paths, prices={}, energy=None, utilisation=1.0)
    rate = {p: r.tokens_per_s for p, r in zip(every, found, strict=True)}
    rows = []
    for key, values in UNKNOWNS.items():
        section, _, name = key.partition(".")
        default = shipped[section][name].value
        if default not in values:
            raise DataError(f"sensitivity: {key}: the default {default!r} is not among {list(values)}")
        for value in values:
            own, base = (rate[points[system, key, str(value)].hash({})] for system in (ET, GPU))
            rows.append(
                {
                    "parameter": key,
                    "value": value,
                    "metric": "speedup over GPUs",
                    "metric_value": own / base,
                    "is_default": value == default,
                }
            )
    frame = pd.DataFrame(rows)
    by = frame.groupby("parameter")["metric_value"]
    order = list((by.max() / by.min()).sort_values(ascending=False).index)
    return pd.concat([frame[frame["parameter"] == p] for p in order], ignore_index=True)


def hetero_batches() -> dict[tuple[int, int], int]:
    """Sequences of 128 that Hetero's memory holds, by mean lengths."""
    server = build(_point("hetero", "mixtral-8x7b", 128, 2048, 2048))
    return {
        (lin, lout): min(128, server.capacity_tokens // (lin + lout))
        for lin, lout in ((2048, 2048), (2048, 4096), (4096, 4096), (8192, 4096))
    }


@dataclass(frozen=True)
class Summary:
    """The committed rows, with what claims ask of them."""

    runs: pd.DataFrame
    edap: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> Summary:
        """From `serving.csv` and `edap.csv`."""
        return cls(pd.read_csv(folder / "serving.csv"), pd.read_csv(folder / "edap.csv"))

    def against(self, system: str, other: str, column: str, models: tuple[str, ...] = MOE) -> pd.Series:
        """`column` of `system` over that of `other`, for every batch and length that both have."""
        keys = ["model", "max_batch", "input", "output"]
        own = self.runs[(self.runs["system"] == system) & (self.runs["devices"] == self._devices())]
        base = self.runs[(self.runs["system"] == other) & (self.runs["devices"] == self._devices())]
        both = own.merge(base, on=keys, suffixes=("", "_base"))
        # The QPS point is not of the grid.
        both = both[both["model"].isin(models) & (both["input"] == both["output"])].set_index(keys)
        return both[column] / both[f"{column}_base"]

    def _devices(self) -> pd.Series:
        return self.runs["model"].map(DEVICES)

    def rate(self, system: str, devices: int) -> float:
        """Requests a second of the QPS point."""
        r = self.runs
        found = r[(r["system"] == system) & (r["devices"] == devices) & (r["input"] == 4096) & (r["output"] == 512)]
        return float(found["requests_per_s"].iloc[0])

    def best(self, op_b: int) -> str:
        """The system with the lowest EDAP."""
        own = self.edap[self.edap["op_b"] == op_b]
        return str(own.loc[own["edap"].idxmin(), "system"])

    def edap_ratio(self, system: str, other: str, op_b: int) -> float:
        """EDAP of one system over another's."""
        own = self.edap[self.edap["op_b"] == op_b].set_index("system")["edap"]
        return float(own[system] / own[other])


def measure(folder: Path) -> tuple[dict[str, float], list[str]]:
    """Measured values of the serving claims, and lines that say where the best cases were."""
    s = Summary.read(folder)
    speed = s.against(ET, GPU, "tokens_per_s")
    base = s.against(BASE, GPU, "tokens_per_s")
    energy = {system: 100 * (1 - s.against(system, GPU, "j_per_token")) for system in (BASE, PE, ET)}
    every = pd.concat(energy.values())
    glam = s.against(ET, GPU, "tbt_p50_ms", ("glam-143b",)).xs(64, level="max_batch")
    e2e = s.against(ET, GPU, "e2e_p50_ms", ("glam-143b",)).xs(64, level="max_batch")
    over_bank = s.against(ET, BANK, "tokens_per_s", ("mixtral-8x7b",))
    llama, opt = (s.against(ET, BANK, "tokens_per_s", (m,)) for m in ("llama-3-70b", "opt-66b"))
    bank = s.against(BANK, GPU, "tokens_per_s", ("mixtral-8x7b",))
    held = hetero_batches()
    measured = {
        "duplex-throughput-best": float(speed.max()),
        "duplex-throughput-average": float(speed.mean()),
        "duplex-base-throughput-best": float(base.max()),
        "duplex-et-over-base": float(s.against(ET, BASE, "tokens_per_s").max()),
        "duplex-pe-over-base": float(s.against(PE, BASE, "tokens_per_s").mean()),
        "duplex-tbt-glam": 100 * float(1 - glam.mean()),
        "duplex-e2e-glam": 100 * float(1 - e2e.mean()),
        "duplex-energy-best": float(every.max()),
        "duplex-energy-average": float(energy[BASE].mean()),
        "duplex-energy-mixtral": float(every.xs("mixtral-8x7b", level="model").max()),
        "duplex-energy-grok": float(every.xs("grok-1-314b", level="model").max()),
        "duplex-bank-mixtral-best": float(bank.max()),
        "duplex-over-bank-mixtral-best": float(over_bank.max()),
        "duplex-over-bank-mixtral-average": float(over_bank.mean()),
        "duplex-over-bank-llama": float((llama > 1).mean()),
        "duplex-over-bank-opt": float((opt < 1).mean()),
        "duplex-qps-gpu": s.rate(GPU, 4),
        "duplex-qps": s.rate(ET, 4),
        "duplex-area": _area_percent(),
        "duplex-edap-logic-1": s.edap_ratio("duplex", "bankgroup-pim", 1),
        "duplex-edap-logic-32": s.edap_ratio("duplex", "bankgroup-pim", 32),
        "duplex-edap-bank-1": s.edap_ratio("bank-pim", "bankgroup-pim", 1),
        "duplex-edap-crossover": float(next(o for o in EDAP_OP_B if s.best(o) == "duplex")),
        "duplex-hetero-batch-6144": float(held[2048, 4096]),
        "duplex-hetero-batch-8192": float(held[4096, 4096]),
        "duplex-hetero-batch-12288": float(held[8192, 4096]),
    }
    notes = [
        f"serving: best of duplex-pe-et over {GPU}: {_where(speed.idxmax())}; worst {speed.min():.3g}x:"
        f" {_where(speed.idxmin())}",
        f"serving: best saving of energy: {_where(every.idxmax())}; means by system:"
        f" {', '.join(f'{k} {v.mean():.3g} %' for k, v in energy.items())}",
        f"serving: at (4096, 512) and batch 128, {GPU} with eight devices answers {s.rate(GPU, 8):.3g} requests/s,"
        f" {BASE} with four {s.rate(BASE, 4):.3g}",
        "serving: closed loop in its steady state, equal prompt and answer lengths, batches 32, 64, 128; serving.csv",
        "EDAP by operations a byte, least first: "
        + "; ".join(f"{o}: " + " ".join(s.edap[s.edap["op_b"] == o].sort_values("edap")["system"]) for o in EDAP_OP_B),
    ]
    return measured, notes


def _where(at: tuple[object, ...]) -> str:
    return f"{at[0]}, batch {at[1]}, lengths {at[2]} and {at[3]}"


def _area_percent() -> float:
    area = load_toml(DATA / "area" / "logic-pim.toml")
    parts = float(np.sum([q["value"] for q in area["parts"].values()]))
    return 100 * parts / float(area["die"]["area_mm2"]["value"])


def main(
    out: Annotated[Path, typer.Option("--out", help="Folder for serving.csv and edap.csv.")],
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the run directories.")] = Path("runs"),
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Worker processes.")] = 2,
) -> None:
    """Serve every point of the grid and write the summary."""
    points = list(grid())
    task: Callable[[ServeExperiment, Path], Path] = _one
    paths = joblib.Parallel(n_jobs=jobs, verbose=5)(joblib.delayed(task)(p, runs) for p in points)
    found = serving_results(paths, prices={}, energy=None, utilisation=1.0)
    frame = pd.DataFrame([row(r) for r in found]).drop(columns=["run", "sustained", "qps"])
    frame.to_csv(out / "serving.csv", index=False, float_format="%.5g", lineterminator="\n")
    edap().to_csv(out / "edap.csv", index=False, float_format="%.5g", lineterminator="\n")
    swings = sensitivity(runs, jobs)
    swings.to_csv(out / "serving-sensitivity.csv", index=False, float_format="%.5g", lineterminator="\n")
    largest = list(dict.fromkeys(swings["parameter"]))[:4]
    plot = sensitivity_plot(swings[swings["parameter"].isin(largest)])
    replace(plot, name="serving-sensitivity").save(out)
    print(out / "serving.csv")


if __name__ == "__main__":
    typer.run(main)
