"""Writes a calibration file: TOML in which every number has a unit, a scope, a source and a kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gempim.calibrate.analyse import Measured
from gempim.calibrate.asm import CLASSES

Number = tuple[float, str, str, str, str]
"""value, unit, scope, source, kind."""

MEMORY: dict[str, Number] = {
    "outstanding_lines": (
        46,
        "lines",
        "core",
        "L2 miss registers of a public gem5 O3 configuration of Neoverse-N1 (it gives L1D 20, L2 46, L3 128); "
        "the L2 prefetcher can fill them",
        "code",
    ),
    "line_bytes": (
        64,
        "bytes",
        "cache line",
        "Arm Neoverse N1 Technical Reference Manual: 64-byte cache lines",
        "standard",
    ),
    "dram_latency_ns": (
        105,
        "ns",
        "load to use, idle",
        "no published figure is pinned; DDR4 servers with mesh interconnect answer in about 100 to 110 ns, the "
        "middle of that",
        "choice",
    ),
    "llc_latency_ns": (
        30,
        "ns",
        "load to use, idle",
        "no published figure is pinned; a public gem5 N1 configuration notes 28 to 33 cycles inside the cluster, "
        "and a mesh crossing each way "
        "takes some 30 cycles more: about 80 cycles at 2.6 to 3 GHz",
        "choice",
    ),
    "llc_bytes_per_cycle": (
        32,
        "bytes/cycle",
        "core",
        "a 256-bit read port from the core's L2 to the interconnect (CHI data width of Neoverse-N1, Technical "
        "Reference Manual)",
        "unverified",
    ),
}

RUNTIME: dict[str, Number] = {
    "barrier_base_cycles": (
        300,
        "cycles",
        "barrier of more than one thread",
        "a last arrival seen by spinning threads: two line transfers across the mesh of about 40 ns each, and "
        "two full fences; not measured",
        "choice",
    ),
    "barrier_cycles_per_thread": (
        60,
        "cycles",
        "barrier, each thread",
        "every thread adds 1 to one shared counter (ggml_barrier in ggml-cpu.c): atomics on one line serialise "
        "at about 20 ns each; not measured",
        "choice",
    ),
    "operator_cycles": (
        200,
        "cycles",
        "graph node",
        "node loop, switch over the operator, shape set-up of ggml_compute_forward: about 400 instructions at 2 "
        "per cycle; not measured",
        "choice",
    ),
    "chunk_cycles": (
        100,
        "cycles",
        "chunk after a thread's first",
        "one contended atomic add (about 20 ns) and 40 instructions of index arithmetic in "
        "ggml_compute_forward_mul_mat; not measured",
        "choice",
    ),
    "dot_call_cycles": (
        8,
        "cycles",
        "vec_dot call",
        "about 20 instructions of the inner loop of ggml_compute_forward_mul_mat_one_chunk around the indirect "
        "call, at 2.5 per cycle; not measured",
        "choice",
    ),
    "rope_angle_cycles": (
        60,
        "cycles",
        "one angle",
        "sincosf of the C library and the surrounding loop of ggml_rope_cache_init, about 100 instructions; not "
        "measured",
        "choice",
    ),
    "embed_cycles_per_element": (
        1,
        "cycles",
        "element",
        "dequantize_row_* of ggml-quants.c compiles to about 2 to 4 vector instructions per 4 elements; one row "
        "per token, so it hardly counts",
        "choice",
    ),
    "relu_cycles_per_element": (
        0.5,
        "cycles",
        "element",
        "the loop of `add` with one load less: load, maximum, store of 4 elements every 2 cycles",
        "choice",
    ),
}

STATIC_HEADER = """\
# Costs of llama.cpp's Arm kernels on Neoverse-N1, as the embedded engine uses them. Written by the command in
# [origin]: do not edit. STATIC ANALYSIS: no hardware and no cycle-accurate simulation was involved. Not in these
# numbers: cache misses (the engine adds memory time), branch mispredictions, store-to-load forwarding, and limits of
# the load/store queues.
"""


def _number(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() else repr(round(float(value), 6))


def entry(key: str, number: Number) -> str:
    """One line of a data file."""
    value, unit, scope, source, kind = number
    texts = ", ".join(
        f"{name} = {json.dumps(text)}"
        for name, text in (("unit", unit), ("scope", scope), ("source", source), ("kind", kind))
    )
    return f"{key} = {{ value = {_number(value)}, {texts} }}"


def kernel_numbers(measured: Measured) -> dict[str, Number]:
    """The numbers of one kernel's table, in the order in which they are written."""
    kernel, counts, cost = measured.located.kernel, measured.counted, measured.cost
    elementwise = kernel.role in ("elementwise", "quantize")
    block = "block of one row" if elementwise else "block of one weight row against one activation row"
    call = f"call on {kernel.tile_rows} weight rows and {kernel.tile_columns} activation rows"
    if elementwise:
        call = f"call on {kernel.tile_columns} rows"
    table = "ggml-common.h, and the kernel's name"
    counted = "counted in the loop's assembly"
    numbers: dict[str, Number] = {
        "block_elements": (kernel.block_elements, "elements", "block", table, "code"),
        "tile_rows": (kernel.tile_rows, "rows", "weight rows of a call", table, "code"),
        "tile_columns": (kernel.tile_columns, "rows", "activation rows of a call", table, "code"),
        "cycles_per_block": (
            cost.cycles_per_block,
            "cycles",
            f"{block}, operands in L1",
            cost.cycles_source,
            cost.kind,
        ),
        "call_cycles": (cost.call_cycles, "cycles", call, cost.call_source, cost.kind),
        "load_bytes_per_block": (counts.load_bytes, "bytes", block, counted, "derived"),
        "store_bytes_per_block": (counts.store_bytes, "bytes", block, counted, "derived"),
    }
    for kind in CLASSES:
        numbers[f"{kind}_per_block"] = (counts.instructions[kind], "instructions", block, counted, "derived")
    for kind in CLASSES:
        numbers[f"{kind}_per_call"] = (
            counts.call_instructions[kind],
            "instructions",
            call,
            "counted on the way outside the loop",
            "derived",
        )
    return numbers


def render(
    name: str,
    origin: Mapping[str, str],
    kernels: Sequence[tuple[Measured, str]],
    *,
    header: str = STATIC_HEADER,
    memory: Mapping[str, Number] = MEMORY,
    runtime: Mapping[str, Number] = RUNTIME,
) -> str:
    """The text of the calibration file. `kernels`: each with a note ("" for none)."""
    lines = [header, "schema = 1", f"name = {json.dumps(name)}", "", "[origin]"]
    lines += [f"{key} = {json.dumps(text)}" for key, text in origin.items()]
    for section, table in (("memory", memory), ("runtime", runtime)):
        lines += ["", f"[{section}]", *(entry(key, number) for key, number in table.items())]
    for measured, note in kernels:
        located = measured.located
        lines += ["", f"[kernels.{located.kernel.name}]", f"role = {json.dumps(located.kernel.role)}"]
        lines += [f"function = {json.dumps(f'{located.label} in {located.kernel.source}')}"]
        lines += [f"loop = {json.dumps(_loop(measured))}"]
        if note:
            lines.append(f"note = {json.dumps(note)}")
        lines += [entry(key, number) for key, number in kernel_numbers(measured).items()]
    return "\n".join(lines) + "\n"


def _loop(measured: Measured) -> str:
    located = measured.located
    text = f"{located.loop.label}: {len(located.body)} instructions an iteration, {located.tiles} blocks"
    if located.kernel.trips:
        text += f", inner loops written out {', '.join(map(str, located.kernel.trips))} times"
    if located.alternatives:
        text += f"; also holds the marker: {', '.join(located.alternatives)}"
    return text
