"""The run directory of a generation: the files of the embedded engine's, made of gem5's statistics.

gem5's own output is kept below `gem5/`, one folder a run of gem5.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.result import evaluate
from gempim.analysis.run import load_run
from gempim.engines.gem5_se import ENGINE
from gempim.engines.llama.counters import NOTES, Counts, descriptions, total
from gempim.engines.llama.estimate import PARTS, PassEstimate
from gempim.engines.llama.output import GuestOutput
from gempim.engines.llama.plan import pass_label
from gempim.engines.llama.request import LlamaRequest, Model
from gempim.lowering import Routing, lower
from gempim.provenance import choices, provenance
from gempim.rundir import SCHEMA, write_json
from gempim.statsfile import Stat, format_section
from gempim.systems import System

PIM = "sram_pim"
PS_PER_S = 10**12

_FLOATS = ("f32", "f16", "bf16")
_PART_OF = {"token_embd": "start", "output_norm": "head", "output": "head"}
"""Part of a pass that an operator of the lowered graph belongs to; all others are in layers."""


@dataclass(frozen=True)
class Generation:
    """What was generated and what it cost: `passes` by number; regions that were `measured` and run as `warmup`."""

    output: GuestOutput
    passes: Mapping[int, PassEstimate]
    measured: int
    warmup: int


@cache
def engine_hash() -> str:
    """Hash of the sources that turn gem5's statistics into a run."""
    h = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        h.update(path.name.encode() + b"\0" + path.read_bytes())
    return h.hexdigest()


def compress(path: Path) -> None:
    """Replace a file by its gzip, without a time in it."""
    with (
        path.open("rb") as source,
        path.with_name(path.name + ".gz").open("wb") as target,
        gzip.GzipFile(fileobj=target, mode="wb", mtime=0, filename="") as packed,
    ):
        shutil.copyfileobj(source, packed)
    path.unlink()


def write(
    folder: Path, path: Path, request: LlamaRequest, system: System, model: Model, generation: Generation, *,
    hashes: Mapping[str, str], commands: Sequence[str], wall: float, command: Sequence[str] | None,
) -> None:  # fmt: skip
    """Fill the run directory `folder`, which will be renamed to `path`.

    :param commands: the command lines of the gem5 runs
    :param command: what the user typed
    :raises DataError: the run cannot be evaluated, for instance because its PIM got no command
    """
    rows, stats = [], ""
    for section, passes in enumerate(_rois(generation)):
        row = _roi_row(section, passes, generation, system, model)
        rows.append(row)
        whole = total([generation.passes[p].whole for p in passes])
        stats += format_section(_section(whole, row["sim_ps"], system, request.threads))
    (folder / "stats.txt").write_text(stats)
    (folder / "roi.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = _manifest(path, request, system, model, generation, hashes, commands, wall, command)
    write_json(folder / "manifest.json", manifest)
    # Evaluated from the files just written, as any later reader will: a run that cannot be evaluated is no run.
    result = evaluate(load_run(folder), load_energy_table(system.energy_table), load_prices()).to_json()
    write_json(folder / "result.json", {**result, "run": path.name})


def _rois(generation: Generation) -> list[list[int]]:
    """The passes of each region of interest: one each, or all decode passes together when some were not simulated.

    Passes that repeat a measured one must not look like measurements that agree.
    """
    decodes = [p for p in sorted(generation.passes) if p > 0]
    prefill = [[0]] if 0 in generation.passes else []
    if all(generation.passes[p].measured for p in decodes):
        return [*prefill, *([p] for p in decodes)]
    return [*prefill, decodes]


def _roi_row(
    section: int, passes: Sequence[int], generation: Generation, system: System, model: Model
) -> dict[str, Any]:
    prompt = len(generation.output.prompt)
    prefill = passes[0] == 0
    operators: dict[tuple[str, str], dict[str, Any]] = {}
    for p in passes:
        tokens, context = (prompt, 0) if prefill else (1, prompt + p - 1)
        for row in _operators(p, generation.passes[p], system, model, tokens, context):
            into = operators.setdefault((row["name"], row["device"]), {**row, **dict.fromkeys(_ADDED, 0)})
            for key in _ADDED:
                into[key] += row[key]
    return {
        "schema": SCHEMA,
        "section": section,
        "label": "prefill" if prefill else "decode",
        "index": 0 if prefill else passes[0] - 1,
        "tokens": prompt if prefill else len(passes),
        "batch": 1,
        "context": 0 if prefill else prompt + passes[0] - 1,
        "sim_ps": sum(o["time_ps"] for o in operators.values()),
        "operators": list(operators.values()),
    }


_ADDED = ("count", "time_ps", "flops", "dram_read_bytes", "dram_write_bytes", "pim_commands")
"""What of an operator's row is summed over passes."""


def _operators(
    p: int, estimate: PassEstimate, system: System, model: Model, tokens: int, context: int
) -> list[dict[str, Any]]:
    """One row a part and device: the PIM's time is that in which it had a command, the cores' is the rest."""
    flops = _flops(p, system, model, tokens, context)
    rows = []
    for name, counts in estimate.parts.items():
        # A whole pass is one part when it was not split.
        parts = PARTS if name == "pass" else (name,)
        on = {device: sum(flops.get((part, device), 0) for part in parts) for device in ("cpu", PIM)}
        sim_ps = round(counts.sim_ps)
        pim_ps = min(round(counts.pim_ps), sim_ps)
        commands = round(counts.events.get(f"system.{PIM}.commands", 0))
        read = round(counts.events["system.dram.read_bytes"])
        write = round(counts.events["system.dram.write_bytes"])
        weights = min(round(counts.events.get(f"system.{PIM}.weight_bytes", 0)), read)
        count = estimate.layers if name == "layers" else 1
        if pim_ps and commands:
            rows.append(_row(f"{name}, products", PIM, count, pim_ps, on[PIM], (weights, 0), tokens, commands))
        else:
            on["cpu"] += on[PIM]
            pim_ps = weights = 0
        if sim_ps - pim_ps:
            rows.append(_row(name, "cpu", count, sim_ps - pim_ps, on["cpu"], (read - weights, write), tokens, 0))
    return rows


def _row(
    name: str, device: str, count: int, time_ps: int, flops: int, dram: tuple[int, int], tokens: int, commands: int
) -> dict[str, Any]:
    # gem5 does not tell computing from waiting: the time is in time_ps only.
    return {
        "name": name,
        "kind": "part",
        "device": device,
        "count": count,
        "time_ps": time_ps,
        "compute_ps": 0,
        "memory_ps": 0,
        "overhead_ps": 0,
        "flops": flops,
        "dram_read_bytes": dram[0],
        "dram_write_bytes": dram[1],
        "limiter": "measured",
        "weight_type": None,
        "m": tokens,
        "n": 0,
        "k": 0,
        "instances": 1,
        "pim_commands": commands,
    }


def _flops(p: int, system: System, model: Model, tokens: int, context: int) -> dict[tuple[str, str], int]:
    """Operations of a pass by part and device, from the model's graph."""
    out: dict[tuple[str, str], int] = {}
    for op in lower(model.reported, "prefill" if p == 0 else "decode", 1, context, tokens, Routing("balanced", 0.0, 0)):
        on_pim = system.kind == "cpu+sram_pim" and op.kind == "matmul" and op.weight_type not in (None, *_FLOATS)
        key = (_PART_OF.get(op.name, "layers"), PIM if on_pim else "cpu")
        out[key] = out.get(key, 0) + op.total_flops
    return out


def _section(counts: Counts, sim_ps: int, system: System, threads: int) -> list[Stat]:
    described = descriptions()
    cores = int(system.values("cpu")["cores"])
    cycle_ps = PS_PER_S / float(system.values("cpu")["clock_hz"])
    events = {name: round(value) for name, value in counts.events.items()}
    idle = max(0, round(cores * sim_ps - events["system.cpu.busyCycles"] * cycle_ps))
    values = {"system.cpu.cores": cores, "system.cpu.threads": threads, **events, "system.cpu.idlePs": idle}
    head: list[Stat] = [
        ("simSeconds", sim_ps / PS_PER_S, "Number of seconds simulated", "Second"),
        ("simTicks", sim_ps, "Number of ticks simulated", "Tick"),
        ("simFreq", PS_PER_S, "The number of ticks per simulated second", "Tick/Second"),
        ("simInsts", round(counts.instructions), "Instructions committed by all cores", "Count"),
    ]
    return head + [(name, value, described[name].description, described[name].unit) for name, value in values.items()]


def _manifest(
    path: Path, request: LlamaRequest, system: System, model: Model, generation: Generation, hashes: Mapping[str, str],
    commands: Sequence[str], wall: float, command: Sequence[str] | None,
) -> dict[str, Any]:  # fmt: skip
    output, m = generation.output, model.reported
    prompt = len(output.prompt)
    return {
        "schema": SCHEMA,
        "status": "complete",
        "kind": ENGINE,
        "name": "",
        "experiment": {
            "engine": ENGINE,
            "system": system.to_json(),
            "model": {
                "name": m.name, "arch": m.arch, "quant": m.quant, "params": m.params, "bytes": m.bytes,
                "n_layers": m.n_layers, "gguf": request.gguf.name, "gguf_sha256": hashes["gguf"],
            },
            "workload": {
                "batch": 1, "prompt": prompt, "context": prompt, "tokens": len(output.tokens) - 1,
                "threads": request.threads, "kv_type": "f16",
            },
            "gem5": {**request.to_json(), "args": list(request.guest_args(system))},
            "energy_table": system.energy_table,
            "price_key": system.price,
        },
        **provenance(path, hashes, wall, command),
        "llama": {
            "prompt_tokens": list(output.prompt),
            "tokens": list(output.tokens),
            "text": output.text,
            "products": [vars(p) for p in output.products],
        },
        "sampling": {**sampling(request, generation), "warnings": warnings(request, system, model)},
        "commands": list(commands),
        "choices": choices(system),
        "not_modelled": [*system.not_modelled, *notes(request, system, model, generation)],
    }  # fmt: skip


def sampling(request: LlamaRequest, generation: Generation) -> dict[str, Any]:
    """How much was simulated in detail, and the error of what was not.

    `error`: of each pass, half the range of the measured layers over the layers that were not measured, as a share of
    the pass; None where no two layers of a kind were measured.
    """
    measured = {p: e for p, e in generation.passes.items() if e.measured}
    whole = sum(e.whole.instructions for e in measured.values())
    inside = sum(e.measured_instructions for e in measured.values())
    return {
        "mode": request.sample,
        "warmup_regions": request.warmup,
        "regions_measured": generation.measured,
        "regions_warmed_up": generation.warmup,
        "instructions_measured": round(inside),
        "share_of_instructions": min(1.0, inside / whole) if whole else None,
        "passes": {
            pass_label(p): {
                "how": "measured" if not e.estimated else "estimated from layers" if e.measured else "estimated",
                "regions_measured": e.measured,
                "regions_estimated": e.estimated,
                "sim_ps": round(e.whole.sim_ps),
                "error": e.error,
            }
            for p, e in sorted(generation.passes.items())
        },
        "error_formula": "sum over layers not measured of (max - min) / 2 of the measured layers of their kind, over"
        " the pass's time",
    }


def warnings(request: LlamaRequest, system: System, model: Model) -> list[str]:
    """What makes sampled figures wrong by more than their error says."""
    held = int(system.values("llc")["slices"]) * int(system.values("llc")["slice_bytes"])
    if request.sample == "none" or model.reported.bytes > held:
        return []
    return [
        f"the model's {model.reported.bytes} bytes of weights fit into the LLC of {held} bytes, where they stay from"
        " one token to the next; a sampled run reads them from DRAM, which takes longer: for so small a model use"
        " --sample none"
    ]


def notes(request: LlamaRequest, system: System, model: Model, generation: Generation) -> list[str]:
    """What a reader must know of the figures."""
    out = [*NOTES, *model.notes]
    measured = [p for p, e in generation.passes.items() if e.measured]
    untold = [p for p, e in generation.passes.items() if not e.measured]
    if request.sample != "none":
        out.append(
            f"sampling: {generation.measured} regions of {', '.join(pass_label(p) for p in measured)} were simulated"
            f" in detail after {request.warmup} region(s) of warm-up each; layers that were not take the mean of the"
            " measured layers of their kind"
        )
        out.append(
            "sampling: the guest evaluates its graph in parts, one a layer, and each part starts the threads anew; an"
            " undivided graph does so once a pass"
        )
        out += [f"sampling: {text}" for text in warnings(request, system, model)]
    else:
        out.append("sampling: none; the caches are empty when the first pass begins")
    if untold:
        out.append(
            f"sampling: {', '.join(pass_label(p) for p in untold)} were not simulated in detail; their figures are"
            " those of the nearest measured decode pass, or on the line between two (the first decode pass really takes"
            " a little longer: it makes the graph that later ones use again)"
        )
    if 0 not in generation.passes:
        out.append("sampling: the prefill was not simulated in detail (--sample-passes prefill,last), so it has no"
                   " figures")  # fmt: skip
    return out
