"""Synthetic run directories with random counts: everything in analysis can be tested without an engine."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gempim.statsfile import format_section

DRAM_COUNTS = ("acts", "reads", "writes", "row_hits", "row_misses", "turnarounds")
RANKS = 16
PIM_COUNTS = [
    "commands",
    "tiles",
    "passes",
    "lut_builds",
    "lut_build_cycles",
    "basis_row_writes",
    "prt_accesses",
    "lookups",
    "prt_hits",
    "lookup_cycles",
    "accumulates",
    "accumulate_cycles",
    "int_muls",
    "int_mul_cycles",
    "convert_ops",
    "convert_cycles",
    "fp_muls",
    "fp_adds",
    "fp_cycles",
    "reduce_transfers",
    "row_reads",
    "row_writes",
    "array_active_cycles",
    "compute_cycles",
    "load_stall_ps",
    "weight_bytes",
    "fill_bytes",
    "activation_bytes",
    "result_bytes",
    "partial_bytes",
]
OPERATORS = (
    ("attn_q", "matmul", 4096, 4096),
    ("attn_k", "matmul", 1024, 4096),
    ("attn_score", "attn_score", 512, 128),
    ("softmax", "softmax", 512, 1),
    ("ffn_gate", "matmul", 11008, 4096),
    ("ffn_down", "matmul", 4096, 11008),
    ("lm_head", "matmul", 32000, 4096),
    ("norm", "norm", 4096, 1),
)


def make_run(
    folder: Path,
    *,
    system: str = "neoverse-n1",
    pim: bool = False,
    gpu: bool = False,
    seed: int = 1,
    steps: int = 4,
    batch: int = 1,
    quant: str = "q4_0",
    threads: int = 16,
    prompt: int = 512,
    speed: float = 1.0,
    price_key: str = "aws-c6g-16xlarge",
    extra_system: dict[str, Any] | None = None,
) -> Path:
    """Write a complete run directory with random, non-zero, mutually consistent content; `speed` divides times."""
    rng = np.random.default_rng([seed, zlib.crc32(system.encode())])
    folder.mkdir(parents=True)
    rois, sections = [], []
    labels = [("prefill", 0)] * bool(prompt) + [("decode", i) for i in range(steps)]
    for position, (label, index) in enumerate(labels):
        tokens = batch * (prompt if label == "prefill" else 1)
        context = 0 if label == "prefill" else prompt + index
        operators = [_operator(rng, spec, tokens, pim, gpu, quant, speed) for spec in OPERATORS]
        roi = {
            "schema": 1,
            "section": position,
            "label": label,
            "index": index,
            "tokens": tokens,
            "batch": batch,
            "context": context,
            "sim_ps": sum(op["time_ps"] for op in operators),
            "operators": operators,
        }
        rois.append(roi)
        sections.append(_stats(rng, roi, pim, gpu))
    (folder / "stats.txt").write_text("".join(format_section(s) for s in sections))
    (folder / "roi.jsonl").write_text("".join(json.dumps(roi) + "\n" for roi in rois))
    manifest = _manifest(system, quant, batch, prompt, steps, threads, price_key, extra_system or {}, speed, pim)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return folder


def _operator(
    rng: np.random.Generator,
    spec: tuple[str, str, int, int],
    tokens: int,
    pim: bool,
    gpu: bool,
    quant: str,
    speed: float,
) -> dict[str, Any]:
    name, kind, n, k = spec
    count = 1 if name == "lm_head" else 32
    matmul = kind == "matmul"
    flops = 2 * tokens * n * k * count
    read = int(n * k * count * 4.5 / 8) if matmul else int(rng.integers(1, 1000)) * 64
    memory_ps = int(read / 0.16 * float(rng.uniform(1.0, 1.2)) / speed)
    compute_ps = int(flops / 2.0 * float(rng.uniform(0.8, 1.2)) / speed)
    overhead_ps = int(rng.integers(1000, 100000)) * count
    on_pim = pim and matmul
    return {
        "name": name,
        "kind": kind,
        "device": "gpu" if gpu else "sram_pim" if on_pim else "cpu",
        "count": count,
        "time_ps": max(memory_ps, compute_ps) + overhead_ps,
        "compute_ps": compute_ps,
        "memory_ps": memory_ps,
        "overhead_ps": overhead_ps,
        "flops": flops,
        "dram_read_bytes": read,
        "dram_write_bytes": int(rng.integers(1, 100)) * 64,
        "limiter": "memory" if memory_ps > compute_ps else "compute",
        "weight_type": quant if matmul else None,
        "m": tokens,
        "n": n,
        "k": k,
        "instances": 1,
        "pim_commands": int(rng.integers(1, 1000)) * count if on_pim else 0,
    }


def _stats(
    rng: np.random.Generator, roi: dict[str, Any], pim: bool, gpu: bool
) -> list[tuple[str, int | float, str, str]]:
    def count(name: str, low: int = 10**5, high: int = 10**8) -> tuple[str, int | float, str, str]:
        return (name, int(rng.integers(low, high)), name.rpartition(".")[2], "Count")

    ps = roi["sim_ps"]
    stats: list[tuple[str, int | float, str, str]] = [
        ("simSeconds", ps * 1e-12, "simulated time", "Second"),
        ("simTicks", ps, "simulated ticks", "Tick"),
        ("simFreq", 10**12, "ticks per second", "(Tick/Second)"),
        ("hostSeconds", float(rng.uniform(0.1, 3)), "host time", "Second"),
    ]
    if gpu:
        return [*stats, count("system.gpu.flops"), count("system.gpu.bytes")]
    stats += [("system.cpu.cores", 64, "cores of the system", "Count"), ("system.cpu.threads", 16, "threads", "Count")]
    stats += [count("system.cpu.busyCycles"), ("system.cpu.idlePs", ps * 48, "idle core time", "Tick")]
    stats += [count(f"system.cpu.instructions::{c}") for c in ("vector", "scalar", "load", "store", "branch")]
    stats += [count(f"system.{c}.bytes") for c in ("l1d", "l2", "llc")]
    bursts = sum(op["dram_read_bytes"] + op["dram_write_bytes"] for op in roi["operators"]) // 64
    stats += [count(f"system.dram.{c}", bursts // 4 + 1, bursts // 2 + 9) for c in DRAM_COUNTS]
    refreshes = int(ps * RANKS / 7.8e6 * float(rng.uniform(0.9, 1.1))) + 1
    stats.append(("system.dram.refs", refreshes, "refreshes of a rank", "Count"))
    standby = int(ps * RANKS * float(rng.uniform(0.3, 0.9)))
    stats.append(("system.dram.act_standby_ps", standby, "rank time with an open bank", "Tick"))
    stats.append(("system.dram.pre_standby_ps", ps * RANKS - standby, "rank time with all banks closed", "Tick"))
    for way in ("read", "write"):
        total = sum(op[f"dram_{way}_bytes"] for op in roi["operators"])
        stats.append((f"system.dram.{way}_bytes", total, f"bytes of {way}s", "Byte"))
    if pim:
        stats += [count(f"system.sram_pim.{c}") for c in PIM_COUNTS]
    return stats


def _manifest(
    system: str,
    quant: str,
    batch: int,
    prompt: int,
    steps: int,
    threads: int,
    price_key: str,
    extra_system: dict[str, Any],
    speed: float,
    pim: bool,
) -> dict[str, Any]:
    return {
        "schema": 1,
        "status": "complete",
        "kind": "embedded",
        "experiment": {
            "system": {
                "name": system,
                "peaks": {
                    "flops_per_s": {device: 2.6e12 * speed for device in (("cpu", "sram_pim") if pim else ("cpu",))},
                    "dram_bytes_per_s": 204.8e9 * speed,
                },
                **extra_system,
            },
            "model": {
                "name": "llama-2-7b",
                "quant": quant,
                "params": 6738415616,
                "bytes": 3825205248,
                "arch": "llama",
                "n_layers": 32,
            },
            "workload": {
                "phases": ["prefill", "decode"],
                "batch": batch,
                "prompt": prompt,
                "context": prompt,
                "tokens": steps,
                "threads": threads,
            },
            "engine": "embedded",
            "energy_table": "default",
            "price_key": price_key,
        },
        "experiment_hash": f"{zlib.crc32(f'{system}{quant}{batch}{threads}{prompt}'.encode()):08x}",
        "hashes": {"energy": "00ff"},
        "versions": {"gempim": "0.1.0", "python": "3.11.2", "numpy": "2.0.0"},
        "wall_seconds": 0.8,
        "host": {"cpu": "test", "cores": 2},
        "created": "2026-11-23T20:00:00Z",
        "command": ["gempim", "run", "--system", system],
        "choices": [
            {"key": "system.sram_pim.nbw", "value": 4, "unit": "weights", "source": "the paper's value is not public"}
        ],
        "not_modelled": ["operating system noise"],
        "calibration": {"name": "neoverse-n1", "origin": "llvm-mca", "date": "2026-11-23"},
    }


@pytest.fixture
def n1(tmp_path: Path) -> Path:
    return make_run(tmp_path / "neoverse-n1-x")


@pytest.fixture
def sail(tmp_path: Path) -> Path:
    return make_run(tmp_path / "sail-x", system="sail", pim=True, speed=6.0)
