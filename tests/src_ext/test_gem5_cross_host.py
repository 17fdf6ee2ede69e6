"""The SRAM-PIM in gem5 against the embedded engine: same operations, same numbers, same cycles, same counts.

The embedded engine runs the operations one after another from Python; gem5 runs a guest program that issues them with
`lutmm`, on every CPU model, with and without caches, from one thread and from several, one at a time and many at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gem5_device import Gem5
from operations import FORMATS, NAMES, random_operation

from gempim import _engine as engine
from gempim.workloads.ops_file import Operation, read_results, write_operations

pytestmark = pytest.mark.gem5

MEMORY_DEPENDENT = {"load_stall_ps"}
"""Counters that tell of the memory behind the device, which the hosts do not share."""


def _operations(seed: int, count: int, largest: int) -> list[tuple[Operation, np.ndarray]]:
    rng = np.random.default_rng(seed)
    names = list(FORMATS)
    made = []
    for i in range(count):
        name = names[i % len(names)]
        blocks = int(rng.integers(1, 1 + (12 if FORMATS[name]["block_elements"] == 32 else 3)))
        made.append(random_operation(name, int(rng.integers(1, 6)), int(rng.integers(1, largest)), blocks, rng))
    return made


def _embedded(params: dict[str, Any], made: list[tuple[Operation, np.ndarray]]) -> tuple[list[np.ndarray], Any]:
    device = engine.SramPim(params)
    values = [device.run_matmul(op.weights, NAMES[op.weight_type], op.n, op.k, x, weight_addr=0)[0] for op, x in made]
    return values, device.counters()


@pytest.mark.parametrize(
    ("cpu", "cores", "depth", "caches", "count", "order"),
    [
        ("atomic_noncaching", 1, 1, "none", 30, ()),
        ("atomic_noncaching", 1, 1, "none", 30, ("--transposed",)),
        ("atomic", 4, 4, "n1", 20, ()),
        ("timing", 1, 6, "none", 20, ()),
        ("timing", 4, 3, "n1", 20, ("--transposed",)),
        ("minor", 1, 1, "n1", 10, ()),
        ("minor", 4, 2, "n1", 10, ()),
        ("o3", 1, 1, "n1", 10, ()),
        ("o3", 4, 4, "n1", 20, ("--transposed",)),
    ],
)
def test_same_results_cycles_and_counts(
    device: Gem5, tmp_path: Path, cpu: str, cores: int, depth: int, caches: str, count: int, order: tuple[str, ...]
) -> None:
    made = _operations(seed=cores * 100 + depth, count=count, largest=700)
    write_operations(tmp_path / "ops", [op for op, _ in made])
    run = device.run(
        tmp_path, "lutmm_ops", tmp_path / "ops", tmp_path / "results", "--depth", depth, "--threads", cores,
        *order, cpu=cpu, cores=cores, caches=caches,
    )  # fmt: skip
    values, counters = _embedded(device.params, made)
    results = read_results(tmp_path / "results")
    assert [r.status for r in results] == [1] * len(made)
    for result, expected in zip(results, values, strict=True):
        np.testing.assert_array_equal(result.values, expected)
    (pim,) = run.pim()
    for name, value in counters.items():
        if name not in MEMORY_DEPENDENT:
            assert pim[name] == value, name
    assert pim["lutmmIssued"] == pim["commandsDone"] == len(made)
    assert pim["lutmmRefused"] == pim["memoryErrors"] == 0


def test_other_parameters_are_the_same_in_both_hosts(device: Gem5, tmp_path: Path) -> None:
    """Every kind of parameter reaches the model in gem5: numbers, flags and words."""
    changes = {"nbw": 3, "tile_k": 256, "tile_n": 256, "prt_entries": 5, "prt_scope": "group", "prt_policy": "fifo",
               "convert_in_memory": False, "int_mul_quadratic": 0.75}  # fmt: skip
    made = _operations(seed=5, count=20, largest=300)
    write_operations(tmp_path / "ops", [op for op, _ in made])
    run = device.run(
        tmp_path, "lutmm_ops", tmp_path / "ops", tmp_path / "results", cpu="atomic_noncaching", caches="none",
        sets={f"sram_pim.{key}": value for key, value in changes.items()},
    )  # fmt: skip
    values, counters = _embedded({**device.params, **changes}, made)
    for result, expected in zip(read_results(tmp_path / "results"), values, strict=True):
        np.testing.assert_array_equal(result.values, expected)
    (pim,) = run.pim()
    assert {k: pim[k] for k in counters if k not in MEMORY_DEPENDENT} == {
        k: v for k, v in counters.items() if k not in MEMORY_DEPENDENT
    }
    assert counters["cpu_converts"] > 0
    default = _embedded(device.params, made)[1]
    assert counters != default  # the changes matter, so their arrival was tested


def test_a_lone_product_takes_the_models_cycles(device: Gem5, tmp_path: Path) -> None:
    """Compute time in gem5, activations there and weights waited for, is the plan's tiles: to the picosecond."""
    rng = np.random.default_rng(11)
    op, x = random_operation("q4_0", 3, 256, 1, rng)  # one block: one tile
    write_operations(tmp_path / "ops", [op])
    run = device.run(
        tmp_path, "lutmm_ops", tmp_path / "ops", tmp_path / "results", cpu="timing", caches="none",
    )  # fmt: skip
    timing = engine.SramPim(device.params).run_matmul(op.weights, "q4_0", op.n, op.k, x)[1]
    assert timing["tiles"] == 1
    (pim,) = run.pim()
    assert pim["computeTicks"] == timing["compute_ps"] + pim["load_stall_ps"]
    assert pim["commandTicks"] > pim["activationTicks"] + pim["computeTicks"] + pim["resultTicks"] > 0
    line = 64
    assert pim["weightLines"] in range(len(op.weights) // line, len(op.weights) // line + 2)
