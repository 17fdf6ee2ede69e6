"""`lutmm` as an instruction of gem5's cores: refusals, faults, sleeping, checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from gem5_device import Gem5
from operations import random_operation

from gempim import _engine as engine
from gempim.analysis.stats import Section
from gempim.engines.gem5_se import instructions
from gempim.workloads.ops_file import read_results, write_operations

pytestmark = pytest.mark.gem5

NOT_OF_THE_REGION = re.compile(r"^host|^finalTick$|^simInsts$|^simOps$")
"""Statistics of the host, and those that gem5 counts from the start of its process."""

OF_A_SLEEPING_CORE = re.compile(r"\.core\.(.*\.)?(numCycles|cpi|ipc|numIdleCycles|numBusyCycles|\w+Rate)$")
"""gem5 counts the cycles of a core that sleeps when it is restored from tick 0 on."""


def _simulated(section: Section) -> dict[str, str]:
    """Every statistic that tells of the simulated machine, as text: NaN is NaN."""
    return {name: repr(value) for name, value in section.scalars.items() if not NOT_OF_THE_REGION.search(name)}


@pytest.mark.parametrize(
    ("cpu", "caches", "count"),
    [("atomic_noncaching", "none", 3000), ("timing", "n1", 300), ("minor", "n1", 100), ("o3", "n1", 300)],
)
def test_random_descriptors_never_take_gem5_down(
    device: Gem5, tmp_path: Path, cpu: str, caches: str, count: int
) -> None:
    """The fuzzer checks every answer, every result and that nothing else in its memory changes."""
    run = device.run(tmp_path, "fuzz", "--count", count, "--seed", 7, cpu=cpu, caches=caches)
    assert f"{count} descriptors ok" in run.log
    (pim,) = run.pim()
    assert pim["lutmmRefused"] == pim["rejected_commands"] > count / 4
    assert pim["lutmmIssued"] == pim["commandsDone"] > 0


@pytest.mark.parametrize("cpu", ["atomic", "timing", "minor", "o3"])
def test_an_unknown_function_is_an_illegal_instruction(device: Gem5, tmp_path: Path, cpu: str) -> None:
    """What gem5 says of a lutmm word that is none must be what it says of any other unallocated word."""
    for word in (0x02000000 | 3 << 21, 0x02000000 | 15 << 21, 0x02000000 | 1 << 10, 0x03000400):
        run = device.run(
            tmp_path, "illegal", "--word", hex(word), cpu=cpu, caches="none", check=False, out=f"out{word:x}"
        )
        assert run.status != 0
        assert f"unknown instruction (inst {word:#010x})" in run.log


def test_an_unmapped_address_gets_the_fault_of_a_load(device: Gem5, tmp_path: Path) -> None:
    faults = set()
    for option in ("--unmapped", "--load-unmapped"):
        for cpu in ("atomic", "timing", "o3"):
            run = device.run(tmp_path, "illegal", option, cpu=cpu, caches="none", check=False, out=f"out{option}{cpu}")
            assert run.status != 0
            faults |= {ln.split("panic: ")[1] for ln in run.log.splitlines() if "panic: " in ln}
    (fault,) = faults  # one and the same for the command and for the load, in every CPU model
    assert "Page table fault when accessing virtual address" in fault


def test_debug_flags_tell_of_commands_and_decoding(device: Gem5, tmp_path: Path) -> None:
    op, _ = random_operation("q4_0", 1, 16, 1, np.random.default_rng(0))
    write_operations(tmp_path / "ops", [op])
    arguments = (tmp_path / "ops", tmp_path / "results")
    run = device.run(tmp_path, "lutmm_ops", *arguments, caches="none", options=("--pim-debug", "SramPim,PimDecoder"))
    assert re.search(r"sram_pim: command 1: q4_0 m 1 n 16 k 32", run.log)
    assert re.search(r"decoder: 0x2000000 decoded as lutmm\.issue", run.log)
    run = device.run(tmp_path, "lutmm_ops", *arguments, options=("--pim-debug", "SramPin"), check=False)
    assert run.status == 2
    assert "--pim-debug: debug flag SramPin: neither gem5 nor the plug-in has it" in run.log


@pytest.mark.parametrize("cpu", ["atomic", "timing", "minor", "o3"])
def test_waiting_is_sleeping(device: Gem5, tmp_path: Path, cpu: str) -> None:
    """A product of many microseconds costs its core the instructions of a short one: it does not spin."""
    counts = []
    for n, times in ((16, 1), (640, 30)):
        folder = tmp_path / str(n)
        folder.mkdir()
        op, _ = random_operation("q2_K", 4, n, 4, np.random.default_rng(n))
        write_operations(folder / "ops", [op])
        run = device.run(folder, "lutmm_ops", folder / "ops", folder / "results", cpu=cpu, caches="none")
        (section,), (pim,) = run.sections(), run.pim()
        assert pim["lutmmSleeps"] == 1
        assert pim["lutmmWaits"] == 2
        assert section.scalars["simTicks"] > times * 1_000_000
        counts.append(instructions(section))
    assert counts[0] == pytest.approx(counts[1], abs=40)


def test_the_same_run_twice_is_the_same_to_the_last_statistic(device: Gem5, tmp_path: Path) -> None:
    ops = [
        random_operation(name, 2, 333, 3, np.random.default_rng(i))[0] for i, name in enumerate(["q4_0", "q4_K"] * 4)
    ]
    write_operations(tmp_path / "ops", ops)
    runs = [
        device.run(tmp_path, "lutmm_ops", tmp_path / "ops", tmp_path / "results", "--depth", 2, "--threads", 4,
                   cpu="o3", cores=4, out=out)
        for out in ("first", "second")
    ]  # fmt: skip
    first, second = (_simulated(run.sections()[0]) for run in runs)
    assert first == second
    assert len(first) > 1000


@pytest.mark.parametrize(
    ("cpu", "caches", "cores"),
    [
        ("atomic", "none", 1),
        ("atomic", "none", 4),
        ("timing", "n1", 1),
        ("minor", "n1", 1),
        ("o3", "n1", 1),
        ("timing", "n1", 4),
        ("o3", "n1", 4),
    ],
)
def test_a_checkpoint_with_commands_outstanding(
    device: Gem5, tmp_path: Path, cpu: str, caches: str, cores: int
) -> None:
    """Taken in the middle of a run: the rest is the same, restored or gone on with.

    Everything is compared that gem5 itself saves: with the atomic memory mode every statistic of the machine; in the
    timing mode every statistic of two restored runs, and between restored and gone on the device's commands, cycles and
    counts (gem5 saves neither open DRAM rows nor what is queued in buses, so memory times differ by nanoseconds).
    """
    rng = np.random.default_rng(3)
    ops = [random_operation(name, 2, 200 + 40 * i, 4, rng)[0] for i, name in enumerate(["q4_0", "q8_0", "q4_1"] * 4)]
    write_operations(tmp_path / "ops", ops)
    arguments = (tmp_path / "ops", tmp_path / "results", "--depth", 4 // cores, "--threads", cores, "--checkpoint", 5)
    runs, values = [], []
    checkpoint = str(tmp_path / "cpt")
    options: list[tuple[str, ...]] = [(f"--checkpoint={checkpoint}", "--checkpoint-continue")]
    options += [(f"--restore={checkpoint}",)] * (1 if cpu == "atomic" else 2)
    for i, option in enumerate(options):
        (tmp_path / "results").unlink(missing_ok=True)
        runs.append(
            device.run(
                tmp_path, "lutmm_ops", *arguments, cpu=cpu, caches=caches, cores=cores, options=option, out=f"run{i}"
            )
        )
        values.append(read_results(tmp_path / "results"))
    for results in values:
        assert [r.status for r in results] == [1] * len(ops)
        for one, other in zip(results, values[0], strict=True):
            np.testing.assert_array_equal(one.values, other.values)
    went_on, *restored = (_simulated(run.sections()[-1]) for run in runs)
    for other in restored[1:]:
        assert other == restored[0]
    if cpu == "atomic":
        different = {name for name in went_on if went_on[name] != restored[0][name]}
        assert not {name for name in different if cores == 1 or not OF_A_SLEEPING_CORE.search(name)}
    of_the_model = engine.SramPim(device.params).counters().keys() - {"load_stall_ps"}
    first, second = runs[0].pim()[-1], runs[1].pim()[-1]
    assert {k: first[k] for k in of_the_model} == {k: second[k] for k in of_the_model}
    assert 0 < second["commandsDone"] == first["commandsDone"] < len(ops)  # it was the middle
