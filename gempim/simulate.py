"""From a resolved experiment to a complete run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from gempim import _engine
from gempim.analysis.cost import PriceTable, load_prices
from gempim.analysis.energy import EnergyTable, load_energy_table
from gempim.analysis.result import evaluate
from gempim.analysis.run import load_run
from gempim.engines.embedded import PATTERNS, EmbeddedEngine, Roi
from gempim.experiment import Experiment, experiment_hash, file_sha256
from gempim.provenance import choices, code_sha256, provenance
from gempim.rundir import SCHEMA, is_complete, write_json, write_run
from gempim.statsfile import Stat, format_section
from gempim.systems import DATA


@cache
def code_hashes() -> dict[str, str]:
    """Hashes of what decides a simulated number besides the experiment: device models and the Python around them."""
    python = code_sha256(("engines", "models", "lowering", "patterns"))
    return {"device_models": file_sha256(Path(_engine.__file__)), "engine": python}


@cache
def price_table() -> PriceTable:
    """The shipped prices, read once a process."""
    return load_prices()


@cache
def energy_table(name: str) -> EnergyTable:
    """An energy table, read once a process."""
    return load_energy_table(name)


@cache
def _data_hash(folder: str, name: str) -> str:
    """Hash of a data file, shipped (by name) or the user's (by path), read once a process."""
    return file_sha256(Path(name) if name.endswith(".toml") else DATA / folder / f"{name}.toml")


def input_hashes(experiment: Experiment) -> dict[str, str]:
    """Hashes of the data files that the experiment's result depends on."""
    out = dict(code_hashes())
    if "cpu" in experiment.system.sections:
        name = experiment.system.sections["cpu"]["calibration"].value
        out["calibration"] = _data_hash("calibration", str(name))
    if "sram_pim" in experiment.system.sections:
        out["patterns"] = _data_hash("patterns", PATTERNS)
    return out


def run_path(experiment: Experiment, root: Path) -> Path:
    """Where the experiment's run directory is, or will be."""
    return root / f"{experiment.slug()}-{experiment_hash(experiment, input_hashes(experiment))}"


def simulate(
    experiment: Experiment,
    root: Path,
    *,
    command: list[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Run the experiment unless a complete run is there already; the path of its run directory.

    :param root: the folder that holds run directories (`runs/`)
    :param command: what the user typed, for the manifest
    :raises DataError: what the experiment names cannot be loaded or evaluated
    """
    path = run_path(experiment, root)
    if is_complete(path):
        return path
    started = time.perf_counter()
    system = experiment.system
    engine = EmbeddedEngine(experiment)
    rois = list(engine.run(progress))

    def fill(folder: Path) -> None:
        with (folder / "stats.txt").open("w") as stats, (folder / "roi.jsonl").open("w") as rows:
            for section, roi in enumerate(rois):
                stats.write(format_section(_stats(engine, roi)))
                rows.write(json.dumps(_roi_row(section, roi)) + "\n")
        write_json(
            folder / "manifest.json", _manifest(experiment, path, engine, time.perf_counter() - started, command)
        )
        # Evaluated from the files just written, as any later reader will: a run that cannot be evaluated is no run.
        result = evaluate(load_run(folder), energy_table(system.energy_table), price_table()).to_json()
        write_json(folder / "result.json", {**result, "run": path.name})

    write_run(path, fill)
    return path


def _roi_row(section: int, roi: Roi) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "section": section,
        "label": roi.label,
        "index": roi.index,
        "tokens": roi.tokens,
        "batch": roi.batch,
        "context": roi.context,
        "sim_ps": roi.sim_ps,
        "operators": [o.row() for o in roi.operators],
    }


def _stats(engine: EmbeddedEngine, roi: Roi) -> list[Stat]:
    head: list[Stat] = [
        ("simSeconds", roi.sim_ps / 1e12, "Number of seconds simulated", "Second"),
        ("simTicks", roi.sim_ps, "Number of ticks simulated", "Tick"),
        ("simFreq", 10**12, "The number of ticks per simulated second", "Tick/Second"),
        ("hostSeconds", roi.host_seconds, "Real time elapsed on the host", "Second"),
    ]
    described = engine.stat_descriptions()
    body: list[Stat] = []
    for name, value in {**engine.constant_stats(), **roi.counts}.items():
        unit, text = described[name]
        body.append((name, int(value) if value == int(value) else value, text, unit))
    return head + body


def _manifest(
    experiment: Experiment, path: Path, engine: EmbeddedEngine, wall: float, command: list[str] | None
) -> dict[str, Any]:
    system = experiment.system
    described = experiment.to_json()
    described["system"]["peaks"] = engine.peaks()
    return {
        "schema": SCHEMA,
        "status": "complete",
        "kind": experiment.engine,
        "name": experiment.name,
        "experiment": {
            **described,
            "energy_table": system.energy_table,
            "price_key": system.price,
        },
        **provenance(path, input_hashes(experiment), wall, command, ("numpy",)),
        "calibration": engine.calibration_origin(),
        "choices": choices(system),
        "not_modelled": [*system.not_modelled, *engine.notes()],
    }
