"""`lutmm` as an instruction of gem5's cores: refusals, faults, sleeping, checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from gem5_device import Gem5
from operations import random_operation

from gempim.analysis.stats import Section
from gempim.workloads.ops_file import read_results, write_operations

pytestmark = pytest.mark.gem5

HOST = re.compile(r"^host|\.host|Host")


def _simulated(section: Section) -> dict[str, float]:
    """Every statistic that tells of the simulated machine."""
    return {name: value for name, value in section.scalars.items() if not HOST.search(name)}


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
    logs = []
    for word in (0x02000000 | 3 << 21, 0x02000000 | 15 << 21, 0x02000000 | 1 << 10, 0x03000400):
        run = device.run(
            tmp_path, "illegal", "--word", hex(word), cpu=cpu, caches="none", check=False, out=f"out{word:x}"
        )
        assert run.status != 0
        (line,) = {ln for ln in run.log.splitlines() if "nknown" in ln and f"{word:#x}" in ln.replace("0x0", "0x")}
        logs.append(line)
    assert len(logs) == 4


def test_an_unmapped_address_gets_the_fault_of_a_load(device: Gem5, tmp_path: Path) -> None:
    faults = set()
    for option in ("--unmapped", "--load-unmapped"):
        for cpu in ("atomic", "timing", "o3"):
            run = device.run(
                tmp_path, "illegal", option, cpu=cpu, caches="none", check=False, out=f"out{option}{cpu}"
            )
            assert run.status != 0
            faults |= {ln.split("panic: ")[1] for ln in run.log.splitlines() if "panic: " in ln}
    (fault,) = faults  # one and the same for the command and for the load, in every CPU model
    assert "Page table fault when accessing virtual address" in fault


@pytest.mark.parametrize("cpu", ["atomic", "timing", "minor", "o3"])
def test_waiting_is_sleeping(device: Gem5, tmp_path: Path, cpu: str) -> None:
    """A product of many microseconds costs its core the instructions of a short one: it does not spin."""
    instructions = []
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
        instructions.append(section.scalars["simInsts"])
    assert instructions[0] == pytest.approx(instructions[1], abs=40)


def test_the_same_run_twice_is_the_same_to_the_last_statistic(device: Gem5, tmp_path: Path) -> None:
    ops = [random_operation(name, 2, 333, 3, np.random.default_rng(i))[0] for i, name in enumerate(["q4_0", "q4_K"] * 4)]
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
    [("atomic", "none", 1), ("timing", "n1", 1), ("minor", "n1", 1), ("o3", "n1", 1), ("atomic", "n1", 4), ("o3", "n1", 4)],
)
def test_a_checkpoint_with_commands_outstanding(
    device: Gem5, tmp_path: Path, cpu: str, caches: str, cores: int
) -> None:
    """Taken in the middle of a run and restored: the rest has the statistics and the results of a run that went on."""
    rng = np.random.default_rng(3)
    ops = [random_operation(name, 2, 200 + 40 * i, 4, rng)[0] for i, name in enumerate(["q4_0", "q8_0", "q4_1"] * 4)]
    write_operations(tmp_path / "ops", ops)
    arguments = (tmp_path / "ops", tmp_path / "results", "--depth", 4 // cores, "--threads", cores, "--checkpoint", 5)
    common = {"cpu": cpu, "caches": caches, "cores": cores}
    went_on = device.run(
        tmp_path, "lutmm_ops", *arguments, **common, out="went-on",
        options=(f"--checkpoint={tmp_path / 'cpt'}", "--checkpoint-continue"),
    )  # fmt: skip
    expected = read_results(tmp_path / "results")
    (tmp_path / "results").unlink()
    restored = device.run(
        tmp_path, "lutmm_ops", *arguments, **common, out="restored", options=(f"--restore={tmp_path / 'cpt'}",)
    )
    actual = read_results(tmp_path / "results")
    assert [r.status for r in actual] == [1] * len(ops)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    first, second = (_simulated(run.sections()[-1]) for run in (went_on, restored))
    different = {k: (first.get(k), second.get(k)) for k in first.keys() | second.keys() if first.get(k) != second.get(k)}
    assert not different
    assert 0 < restored.pim()[-1]["commandsDone"] < len(ops)  # it was the middle
