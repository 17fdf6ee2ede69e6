"""From a serving experiment to a complete run directory."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gempim import _engine
from gempim.analysis.cost import PriceTable, load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.serving import evaluate_serve, load_serve_run
from gempim.analysis.serving.run import GAP_COLUMNS, LAYERS, REQUEST_COLUMNS, SCHEMA, STAGES
from gempim.experiment import file_sha256
from gempim.output_serve import PRICES
from gempim.provenance import choices, code_sha256, provenance
from gempim.rundir import is_complete, write_json, write_run
from gempim.serve.build import Server, build
from gempim.serve.serve import Served
from gempim.serve.spec import ServeExperiment
from gempim.statsfile import Stat, format_section

DESCRIPTIONS = {
    "system.xpu.macs": ("Count", "multiply-accumulates, all devices"),
    "system.xpu.vector_flops": ("Count", "operations outside the tensor cores, all devices"),
    "system.xpu.hbm_read_bytes": ("Byte", "bytes that xPUs read from their memory"),
    "system.xpu.hbm_write_bytes": ("Byte", "bytes that xPUs wrote to their memory"),
    "system.xpu.hbm_activates": ("Count", "memory rows opened for the xPUs, each read or written whole"),
    "system.link.bytes": ("Byte", "bytes over links within nodes, all devices"),
    "system.link.node_bytes": ("Byte", "bytes between nodes"),
}

NOT_MODELLED = (
    "serving: a prompt is prefilled whole in one stage (no chunks), no prefix is shared, nothing is evicted or swapped",
    "serving: scheduler, tokeniser and sampler take no time; a stage starts when the one before ends",
    "serving: operators of a layer follow one another; communication does not overlap with work",
    "GLaM's relative position bias is left out",
)


@cache
def code_hashes() -> dict[str, str]:
    """Hashes of what decides a simulated number besides the experiment: device models and the Python around them."""
    python = code_sha256(("serve", "engines", "models", "lowering"))
    return {"device_models": file_sha256(Path(_engine.__file__)), "serving": python}


@cache
def price_table() -> PriceTable:
    """The prices of serving systems, read once a process."""
    return load_prices(PRICES)


def serve_path(experiment: ServeExperiment, root: Path) -> Path:
    """Where the run directory is, or will be."""
    return root / f"{experiment.slug()}-{experiment.hash(code_hashes())}"


def simulate_serve(
    experiment: ServeExperiment,
    root: Path,
    *,
    command: list[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Serve the experiment unless a complete run is there already; the path of its run directory.

    :raises DataError: what the experiment names cannot be built or evaluated
    """
    path = serve_path(experiment, root)
    if is_complete(path):
        return path
    started = time.perf_counter()
    server = build(experiment)
    served = server.run(progress)
    wall = time.perf_counter() - started

    def fill(folder: Path) -> None:
        _sections(folder, served, server)
        _csv(folder / "requests.csv", REQUEST_COLUMNS, _requests(served))
        _csv(folder / "gaps.csv", GAP_COLUMNS, sorted(served.gaps.items()))
        write_json(folder / "serve.json", _totals(served))
        write_json(folder / "manifest.json", _manifest(experiment, path, server, wall, command))
        # Evaluated from the files just written, as any later reader will: a run that cannot be evaluated is no run.
        result = evaluate_serve(
            load_serve_run(folder), load_energy_table(experiment.system.energy_table), price_table()
        )
        write_json(folder / "result.json", {**result.to_json(), "run": path.name})

    write_run(path, fill)
    return path


def _sections(folder: Path, served: Served, server: Server) -> None:
    """stats.txt and roi.jsonl: every layer kind of every kind of stage."""
    described = {**DESCRIPTIONS, **(server.pim.descriptions if server.pim is not None else {})}
    section = 0
    with (folder / "stats.txt").open("w") as stats, (folder / "roi.jsonl").open("w") as rows:
        for stage in (s for s in STAGES if s in served.stages):
            ledger = served.stages[stage].ledger
            for layer in LAYERS:
                operators = ledger.to_json(layer)
                if not operators:
                    continue
                sim_ps = sum(op["time_ps"] for op in operators)
                head: list[Stat] = [
                    ("simSeconds", sim_ps / 1e12, "Number of seconds simulated", "Second"),
                    ("simTicks", sim_ps, "Number of ticks simulated", "Tick"),
                    ("simFreq", 10**12, "The number of ticks per simulated second", "Tick/Second"),
                ]
                counts = ledger.counts.get(layer, {})
                # Every counter in every section: a missing one would read as forgotten, not as zero.
                body: list[Stat] = [(n, counts.get(n, 0), text, unit) for n, (unit, text) in described.items()]
                missing = set(counts) - set(described)
                assert not missing, f"counters without a description: {sorted(missing)}"
                stats.write(format_section(head + body))
                row = {"section": section, "stage": stage, "layer": layer, "sim_ps": sim_ps, "operators": operators}
                rows.write(json.dumps(row) + "\n")
                section += 1


def _requests(served: Served) -> Iterable[tuple[int, ...]]:
    for t in served.requests:
        r = t.request
        yield r.id, t.node, r.prompt, r.output, r.arrival_ps, t.admitted_ps, t.first_ps, t.end_ps


def _csv(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[int, ...]]) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _totals(served: Served) -> dict[str, Any]:
    return {
        "makespan_ps": served.makespan_ps,
        "tokens": served.tokens,
        "most_batch": served.most_batch,
        "most_reserved": served.most_reserved,
        "capacity_tokens": served.capacity_tokens,
        "stages": {
            kind: {
                "stages": total.stages,
                "time_ps": total.time_ps,
                "tokens": total.tokens,
                "prompt_tokens": total.prompt_tokens,
                "mean_batch": total.batch_sum / total.stages,
                # How many visits to an expert had 0, 1, 2, ... tokens, by unit.
                "expert_visits": {unit: _ints(visits) for unit, visits in total.visits.items()},
            }
            for kind, total in served.stages.items()
        },
        "expert_tokens": _ints(served.loads) if served.loads is not None else [],
    }


def _ints(values: Any) -> list[int]:
    return [int(v) for v in np.asarray(values)]


def _manifest(
    experiment: ServeExperiment, path: Path, server: Server, wall: float, command: list[str] | None
) -> Mapping[str, Any]:
    system = experiment.system
    p = server.stages.placement
    notes = []
    longest = experiment.requests.input + experiment.requests.output
    if longest > experiment.model.max_context:
        notes.append(
            f"{experiment.model.name} was trained for {experiment.model.max_context} tokens; sequences of about"
            f" {longest} are simulated by its shapes alone."
        )
    return {
        "schema": SCHEMA,
        "status": "complete",
        "kind": "serve",
        "name": experiment.name,
        "experiment": {
            **experiment.to_json(),
            "engine": "embedded",
            "energy_table": system.energy_table,
            "price_key": system.price,
        },
        "placement": {
            "nodes": p.nodes,
            "devices_per_node": p.per_node,
            "tensor_parallel": p.xpus,
            "data_parallel": p.nodes,
            "expert_groups": p.expert_groups,
            "expert_slices": p.expert_slices,
            "kv_bytes_per_token": server.model.kv_bytes,
            "capacity_tokens_per_node": server.capacity_tokens,
        },
        "peaks": server.peaks(),
        **provenance(path, code_hashes(), wall, command, ("numpy",)),
        "choices": choices(system),
        "notes": notes,
        "not_modelled": [*system.not_modelled, *NOT_MODELLED, *server.not_modelled()],
    }
