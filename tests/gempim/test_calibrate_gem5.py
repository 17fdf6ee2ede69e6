"""Calibration by gem5: reading its results, the lines through them, the guest program, and one kernel made again."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempim.analysis.stats import Section
from gempim.calibrate import dynamic, fit, gem5, guest, toolchain
from gempim.calibrate.analyse import DECODE_WIDTH, Assemblies, Located, locate
from gempim.calibrate.asm import Insn
from gempim.calibrate.fit import barrier_line, kernel_results, line, memory_numbers, pim_numbers
from gempim.calibrate.gem5 import SYSTEM, Bench, configuration
from gempim.calibrate.kernels import KERNELS, select
from gempim.calibrate.regions import Region, Regions, core_counts, read_regions
from gempim.calibrate.toolchain import ToolError, find_mca
from gempim.doctor import find_gem5
from gempim.engines.calibration import FOLDER, load_calibration
from gempim.systems import System, load_system

CORE = "board.processor.cores.core"

# What gem5 v24.0.0.1 writes for an out-of-order core, cut to a few lines.
SECTION = """
---------- Begin Simulation Statistics ----------
simSeconds                                   0.000000                       # Number of seconds simulated (Second)
simTicks                                {ticks:>17}                       # Number of ticks simulated (Tick)
board.cache_hierarchy.l1dcaches.overallMisses::processor.cores.core.data            1                       # number of overall misses (Count)
board.cache_hierarchy.l1dcaches.overallMisses::total            1                       # number of overall misses (Count)
{core}.numCycles                 {cycles:>12}                       # Number of cpu cycles simulated (Cycle)
{core}.cpi                       1.371429                       # CPI: cycles per instruction (core level) ((Cycle/Count))
{core}.commitStats0.numInsts       {insts:>12}                       # Number of instructions committed (thread level) (Count)
{core}.commitStats0.numOps       {insts:>12}                       # Number of ops (including micro ops) committed (thread level) (Count)
{core}.commitStats0.committedInstType::IntAlu           20     57.14%     57.14% # Class of committed instruction. (Count)
{core}.commitStats0.committedInstType::MemRead           15     42.86%    100.00% # Class of committed instruction. (Count)
{core}.commitStats0.committedInstType::total           35                       # Class of committed instruction. (Count)
{core}.executeStats0.numRate          nan                       # a rate without events ((Count/Cycle))

---------- End Simulation Statistics   ----------
"""  # noqa: E501


def finished_run(folder: Path, regions: Sequence[tuple[str, int, int]] = (("a/few 4", 100, 35),)) -> Path:
    """A run's folder with one region per (label, cycles, instructions), at 400 ps a cycle."""
    stats = "".join(SECTION.format(core=CORE, ticks=400 * c, cycles=c, insts=i) for _, c, i in regions)
    rows = [
        {"schema": 1, "section": at, "label": label, "index": at, "work_id": at, "begin_ps": 0, "sim_ps": 400 * c}
        for at, (label, c, _) in enumerate(regions)
    ]
    (folder / "stats.txt").write_text(stats)
    (folder / "roi.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "guest.out").write_text("roi 0 a/few 4\nsum a/few 12ab\n")
    return folder


def test_regions_are_read(tmp_path: Path) -> None:
    """Label, work, time, cycles, instructions and checksum, each from where gem5 and the guest leave it."""
    regions = read_regions(finished_run(tmp_path, [("a/few 4", 100, 35), ("a/many 2", 300, 105)]))
    assert list(regions.by_label) == ["a/few", "a/many"]
    region = regions.get("a/many")
    assert (region.work, region.sim_ps) == (2, 120_000)
    assert core_counts(region.section) == (300, 105)
    assert regions.sums == {"a/few": "12ab"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("stats.txt", "\n---------- End Simulation Statistics   ----------\n", "", "truncated"),
        ("stats.txt", SECTION.splitlines()[1], "", "outside a section"),
        ("stats.txt", "          100  ", "          1x0  ", "expected a number"),
        ("roi.jsonl", '"label": "a/few 4"', '"label": "roi 0x"', "label 'NAME WORK'"),
        ("roi.jsonl", '"sim_ps"', '"time"', "label 'NAME WORK'"),
        ("roi.jsonl", "{", "", "cannot be read"),
        ("roi.jsonl", "}\n", '}\n{"label": "b 1"}\n', "expected 2 sections"),
    ],
)
def test_broken_results_name_the_file(tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    """One broken thing at a time: the error has the file and what was expected."""
    edit(finished_run(tmp_path) / file, old, new)
    with pytest.raises(ToolError, match=says) as error:
        read_regions(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["stats.txt", "roi.jsonl", "guest.out"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (finished_run(tmp_path) / name).unlink()
    with pytest.raises(ToolError, match=name):
        read_regions(tmp_path)


def test_a_region_twice_and_a_region_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="'a/few' is there twice"):
        read_regions(finished_run(tmp_path, [("a/few 4", 100, 35), ("a/few 4", 300, 105)]))
    with pytest.raises(ToolError, match="expected a region 'b/few', there are: a/few"):
        read_regions(finished_run(tmp_path)).get("b/few")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (f"{CORE}.numCycles", f"{CORE}.numCycle", "numCycles, above 0"),
        ("commitStats0.numInsts", "commitStats0.numInst", "above 0, got none"),
        (
            f"{CORE}.cpi",
            "board.processor.cores1.core.commitStats0.numInsts",
            f"got board.processor.cores1.core, {CORE}",
        ),
    ],
)
def test_statistics_that_are_not_there(tmp_path: Path, old: str, new: str, says: str) -> None:
    """A renamed statistic, or a second core that worked: said with file and section."""
    edit(finished_run(tmp_path) / "stats.txt", old, new)
    with pytest.raises(ToolError, match=says) as error:
        core_counts(read_regions(tmp_path).get("a/few").section)
    assert "stats.txt: section 0" in str(error.value)


# Lines ----------------------------------------------------------------------------------------------------------------


@given(
    few=st.floats(1, 1e3),
    further=st.floats(1, 1e3),
    slope=st.floats(0.01, 1e3),
    intercept=st.floats(-100, 1e3),
)
def test_line_is_the_one_through_both_points(few: float, further: float, slope: float, intercept: float) -> None:
    """Against NumPy's polynomial fit."""
    xs = np.array([few, few + further])
    ys = intercept + slope * xs
    expected = np.polyfit(xs, ys, 1)
    scale = np.abs(ys).max()
    assert np.allclose(line((xs[0], ys[0]), (xs[1], ys[1])), expected, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("many", [(1.0, 6.0), (0.5, 6.0), (2.0, 5.0), (2.0, 4.0)])
def test_a_line_that_does_not_rise_is_refused(many: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="rising"):
        line((1.0, 5.0), many)


@given(st.lists(st.floats(0, 5000), min_size=3, max_size=3))
def test_barrier_line_is_the_best_that_is_allowed(cycles: list[float]) -> None:
    """No base and slope of at least 0 on a fine grid around it come nearer."""
    points = dict(zip((2, 3, 4), cycles, strict=True))

    def error(base: float, slope: float) -> float:
        return sum((base + slope * x - y) ** 2 for x, y in points.items())

    base, slope = barrier_line(points)
    assert base >= 0
    assert slope >= 0
    for more_base in (-20, -1, 0, 1, 20):
        for more_slope in (-5, -0.5, 0, 0.5, 5):
            if base + more_base >= 0 and slope + more_slope >= 0:
                assert error(base, slope) <= error(base + more_base, slope + more_slope) + 1e-6


# Kernels --------------------------------------------------------------------------------------------------------------


def fake_located(name: str, instructions: int, blocks: int) -> Located:
    """A kernel as the static analysis finds it, with a body of so many instructions for `blocks` blocks."""
    (kernel,) = select([name])
    nothing = cast(Any, None)
    return Located(kernel, "label", nothing, nothing, {}, [Insn("nop", "")] * instructions, blocks, ())


class Machine:
    """A machine whose costs are known: it gives the statistics that regions of the calibration program would have."""

    EMPTY = (23.0, 11.0)
    CALL = (3.0, 5.0)

    def __init__(self) -> None:
        self.regions: dict[str, Region] = {}
        self.add("empty/region", 0, (0, 0), call=(0, 0))
        self.add("empty/calls", 4, (0, 0))

    def add(self, label: str, repeats: int, each: tuple[float, float], call: tuple[float, float] | None = None) -> None:
        """A region of `repeats` calls that take `each` cycles and instructions beyond an empty call."""
        around = self.CALL if call is None else call
        cycles, insts = (b + repeats * (c + e) for b, c, e in zip(self.EMPTY, around, each, strict=True))
        section = Section(Path("stats.txt"), len(self.regions), 1)
        section.scalars.update({f"{CORE}.numCycles": cycles, f"{CORE}.commitStats0.numInsts": insts})
        self.regions[label] = Region(label, repeats, round(400 * cycles), section)

    def kernel(self, located: Located, iteration: tuple[float, float], call: tuple[float, float]) -> None:
        """Both regions of a kernel of such cost an iteration and a call."""
        for label, length in zip(("few", "many"), guest.lengths(located), strict=True):
            each = cast(tuple[float, float], tuple(c + length * i for c, i in zip(call, iteration, strict=True)))
            self.add(f"{located.kernel.name}/{label}", 4, each)

    def results(self) -> Regions:
        return Regions(Path("run"), self.regions, {})


def test_kernels_come_out_as_they_were_put_in() -> None:
    """Random costs: per block of one row and per call; tiles and several blocks an iteration are divided out."""
    rng = random.Random(7)
    for _ in range(20):
        machine = Machine()
        located = [
            fake_located("vec_dot_q4_0_q8_0", rng.randrange(20, 80), 2),
            fake_located("gemm_q4_0_4x4_q8_0", rng.randrange(200, 300), 1),
            fake_located("quantize_q8_0", rng.randrange(80, 200), 1),
        ]
        truth = [(rng.uniform(5, 90), rng.uniform(0, 40)) for _ in located]
        for one, (cycles, call) in zip(located, truth, strict=True):
            machine.kernel(one, (cycles, len(one.body)), (call, 17))
        results, _ = kernel_results(located, machine.results())
        for one, (cycles, call) in zip(located, truth, strict=True):
            result = results[one.kernel.name]
            assert result.cost.cycles_per_block * one.tiles == pytest.approx(cycles)
            assert result.cost.call_cycles == pytest.approx(call, abs=1e-9)
            assert result.executed == pytest.approx(result.static) == len(one.body)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_other_instructions_than_the_loop_has_are_an_error(share: float) -> None:
    located = fake_located("vec_dot_q4_0_q8_0", 42, 2)
    machine = Machine()
    machine.kernel(located, (14, 42 * share), (5, 20))
    with pytest.raises(ToolError, match=r"vec_dot_q4_0_q8_0: the loop has 42 .* gem5 committed"):
        kernel_results([located], machine.results())


def test_longer_rows_that_take_no_longer_are_an_error() -> None:
    located = fake_located("vec_dot_q4_0_q8_0", 42, 2)
    machine = Machine()
    machine.kernel(located, (0, 42), (5, 20))
    with pytest.raises(ToolError, match="vec_dot_q4_0_q8_0: expected a rising line"):
        kernel_results([located], machine.results())


def operators_machine(truth: Mapping[str, float]) -> tuple[Machine, list[Located]]:
    """A machine on which the kernels inside operators cost what `truth` says, and those kernels."""
    located = [
        fake_located("rms_norm_sum", 6, 1),
        fake_located("rms_norm_scale", 8, 1),
        fake_located("mask", 10, 1),
        fake_located("rope", 11, 1),
    ]
    machine = Machine()
    few, many = guest.ELEMENTS
    element = (truth["norm_element"], 6 + 8 / 4)
    for label, elements, rows in (("few", few, 1), ("many", many, 1), ("rows", few, guest.ROWS[1])):
        cycles = truth["set_up"] + rows * (truth["norm_row"] + elements * element[0])
        machine.add(f"rms_norm/{label}", 4, (cycles, 90 + rows * (30 + elements * element[1])))
    for name, mask in (("soft_max", 0.0), ("soft_max_masked", truth["mask_block"])):
        for label, elements in (("few", few), ("many", many)):
            instructions = 200 + elements * (9 + (10 / 8 if mask else 0))
            machine.add(f"{name}/{label}", 4, (150 + elements * (5 + mask / 8), instructions))
    for dims in guest.HEAD_DIMS:
        for label, heads in zip(("few", "many"), guest.HEADS, strict=True):
            cycles = truth["set_up"] + dims / 2 * truth["angle"]
            cycles += heads * (truth["head"] + dims / 8 * truth["rope_block"])
            machine.add(f"rope_{dims}/{label}", 4, (cycles, 500 + 60 * dims + heads * (40 + dims / 8 * 11)))
    return machine, located


def test_kernels_inside_operators_are_taken_apart() -> None:
    """RMS norm, mask and rotation with random costs, set-up and table of angles included."""
    rng = random.Random(3)
    for _ in range(20):
        truth = {
            "set_up": rng.uniform(50, 300),
            "norm_element": rng.uniform(2, 6),
            "norm_row": rng.uniform(20, 90),
            "mask_block": rng.uniform(3, 9),
            "angle": rng.uniform(30, 90),
            "head": rng.uniform(5, 60),
            "rope_block": rng.uniform(4, 12),
        }
        machine, located = operators_machine(truth)
        results, runtime = kernel_results(located, machine.results())
        costs = {name: result.cost for name, result in results.items()}
        assert costs["rms_norm_scale"].cycles_per_block == 8 / DECODE_WIDTH
        both = costs["rms_norm_sum"].cycles_per_block + costs["rms_norm_scale"].cycles_per_block / 4
        assert both == pytest.approx(truth["norm_element"])
        assert costs["rms_norm_sum"].call_cycles == pytest.approx(truth["norm_row"])
        assert costs["mask"].cycles_per_block == pytest.approx(truth["mask_block"])
        assert costs["rope"].cycles_per_block == pytest.approx(truth["rope_block"])
        assert costs["rope"].call_cycles == pytest.approx(truth["head"])
        assert runtime["rope_angle_cycles"][0] == pytest.approx(truth["angle"])


# Memory and lutmm -----------------------------------------------------------------------------------------------------

CLOCK = 2.5e9


def timed(regions: Mapping[str, tuple[int, float]]) -> Regions:
    """Regions of so many units of work that take so many ps each, and an empty one of 4000 ps."""
    section = Section(Path("stats.txt"), 0, 1)
    made = {"empty/region": Region("empty/region", 0, 4000, section)}
    for label, (work, each) in regions.items():
        made[label] = Region(label, work, round(4000 + work * each), section)
    return Regions(Path("run"), made, {})


MEMORY = {
    "latency/l1": (512, 1600),
    "latency/l2": (512, 4400),
    "latency/llc": (512, 30_000),
    "latency/dram": (512, 100_000),
    "stream/llc": (1 << 20, 40),
    "stream/dram": (1 << 20, 50),
}


def test_memory_numbers_are_littles_law() -> None:
    """100 ns and 64 bytes every 3.2 ns: 31.25 lines in flight; 40 ps a byte at 2.5 GHz: 10 bytes a cycle."""
    numbers, latencies = memory_numbers(timed(MEMORY), CLOCK)
    values = {key: number[0] for key, number in numbers.items()}
    assert values == pytest.approx(
        {"outstanding_lines": 31.25, "dram_latency_ns": 100, "llc_latency_ns": 30, "llc_bytes_per_cycle": 10}, rel=1e-3
    )
    assert "4 (L1) and 11 (L2) cycles" in latencies


def test_caches_that_do_nothing_are_an_error() -> None:
    with pytest.raises(ToolError, match=r"must rise, got 1.6, 4.4, 30, 4 ns"):
        memory_numbers(timed({**MEMORY, "latency/dram": (512, 4000)}), CLOCK)


def pim_regions(command_ps: float, done: int = 8) -> Regions:
    regions = timed({"pim/issue": (8, 16_000), "pim/issue_and_wait": (8, 16_000 + 200_000 + 24_000)})
    device = {"board.sram_pim.commandsDone": done, "board.sram_pim.commandTicks": done * command_ps}
    regions.get("pim/issue_and_wait").section.scalars.update(device)
    return regions


def test_issue_and_wait_are_what_the_device_does_not_take() -> None:
    """16 ns an issue at 2.5 GHz are 40 cycles; of 240 ns the device has 200: 24 ns or 60 cycles are the wait's."""
    numbers = pim_numbers(pim_regions(200_000), CLOCK)
    assert {key: number[0] for key, number in numbers.items()} == {"issue_cycles": 40, "wait_cycles": 60}


@pytest.mark.parametrize(
    ("regions", "says"),
    [
        (pim_regions(230_000), "pim_host.wait_cycles: -15 cycles"),
        (pim_regions(200_000, done=7), "expected 8 commands done, got 7"),
        (timed({"pim/issue": (8, 16_000), "pim/issue_and_wait": (8, 240_000)}), "expected one device"),
    ],
)
def test_lutmm_that_cannot_be_right_is_an_error(regions: Regions, says: str) -> None:
    with pytest.raises(ToolError, match=says):
        pim_numbers(regions, CLOCK)


CONFIG = """\
[board.processor.cores.core]
type=BaseO3CPU
LQEntries=68
SQEntries=72
commitWidth=8
decodeWidth=4
fetchWidth=4
issueWidth=8
numROBEntries=128

[board.cache_hierarchy.l1dcaches]
type=Cache
assoc=4
mshrs=20
size=65536

[board.cache_hierarchy.l1icaches]
type=Cache
assoc=4
mshrs=20
size=65536
"""


def test_the_configuration_names_core_and_caches(tmp_path: Path) -> None:
    path = tmp_path / "config.ini"
    path.write_text(CONFIG)
    text = configuration(path)
    assert text.startswith("BaseO3CPU with fetch 4, decode 4, issue 8, commit 8, ROB 128")
    assert text.count("64 KiB with 20 MSHRs") == 1
    edit(path, "numROBEntries", "robEntries")
    with pytest.raises(ToolError, match=r"config.ini: expected an out-of-order core"):
        configuration(path)
    path.write_text("nonsense")
    with pytest.raises(ToolError, match=r"config.ini"):
        configuration(path)


# The guest program ----------------------------------------------------------------------------------------------------


def cross_tools() -> Assemblies:
    """What building the guest needs; skips, saying what is missing."""
    try:
        return Assemblies(toolchain.find_compiler(), toolchain.ggml_sources())
    except ToolError as error:
        pytest.skip(f"NOT CHECKED, the calibration program was not built: {error}")


def emulator() -> str:
    found = shutil.which(dynamic.EMULATOR)
    if found is None:
        pytest.skip(f"NOT CHECKED, the calibration program did not run: {dynamic.EMULATOR} is not installed")
    return found


def emulate(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([emulator(), program, *arguments], capture_output=True, text=True, check=False, timeout=300)


def labels(output: str) -> list[tuple[str, str, str]]:
    """Index, label and work of every region line."""
    return [cast(tuple[str, str, str], tuple(line.split()[1:])) for line in output.splitlines() if line[:4] == "roi "]


@pytest.fixture(scope="module")
def small_guest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Located]]:
    """The calibration program with two kernels."""
    assemblies = cross_tools()
    located = [locate(kernel, assemblies.text(kernel.source)) for kernel in select(SMALL)]
    return guest.build(located, assemblies, tmp_path_factory.mktemp("guest")), located


SMALL = ("vec_dot_q4_0_q8_0", "quantize_q8_0")


def test_the_guest_runs_its_kernels(small_guest: tuple[Path, list[Located]]) -> None:
    """Regions in order, each with a checksum of its own, the same in every run."""
    program, _ = small_guest
    done = emulate(program, "kernels")
    assert done.returncode == 0, done.stderr
    found = labels(done.stdout)
    names = [f"{name}/{length}" for name in SMALL for length in ("few", "many")]
    assert [label for _, label, _ in found] == ["empty/region", "empty/calls", *names]
    assert [int(index) for index, _, _ in found] == list(range(len(found)))
    sums = guest.checksums(done.stdout)
    assert len({sums[name] for name in (*names, "empty/calls")}) == len(names) + 1
    assert guest.checksums(emulate(program, "kernels").stdout) == sums


def test_one_kernel_alone(small_guest: tuple[Path, list[Located]]) -> None:
    """`--only` takes a whole name, and its results are those of the full run."""
    program, _ = small_guest
    alone = emulate(program, "--only", SMALL[1], "kernels")
    assert [label for _, label, _ in labels(alone.stdout)][2:] == [f"{SMALL[1]}/few", f"{SMALL[1]}/many"]
    assert guest.checksums(alone.stdout).items() <= guest.checksums(emulate(program, "kernels").stdout).items()
    assert emulate(program, "--only", "quantize_q8", "kernels").returncode == 1


def test_memory_and_barrier_regions(small_guest: tuple[Path, list[Located]]) -> None:
    """Every region that the fits ask for is there, with its work."""
    done = emulate(small_guest[0], "--threads", str(fit.BARRIER_THREADS), "memory", "barrier")
    assert done.returncode == 0, done.stderr
    work = {label: int(work) for _, label, work in labels(done.stdout)}
    assert set(MEMORY) | {"empty/region"} < set(work)
    assert all(work[f"latency/{level}"] == 512 for level in ("l1", "l2", "dram"))
    assert work["latency/llc"] == 128
    assert [label for label in work if "barrier" in label] == ["barrier/2", "barrier/3", "barrier/4"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no part was named"),
        (["kernel"], "usage"),
        (["--only"], "usage"),
        (["pim"], "usage"),
        (["--l1", "100", "memory"], "multiple of 128"),
        (["barrier"], "--threads must be"),
        (["--threads", "65", "barrier"], "--threads must be"),
        (["--only", "vec_dot", "kernels"], "no such kernel"),
    ],
)
def test_wrong_arguments_are_said(small_guest: tuple[Path, list[Located]], arguments: list[str], says: str) -> None:
    done = emulate(small_guest[0], *arguments)
    assert done.returncode == 1
    assert says in done.stderr


@pytest.mark.slow
def test_every_kernel_runs(tmp_path: Path) -> None:
    """All kernels fit their operands, are measured somehow, and write results; operators included."""
    assemblies = cross_tools()
    located = [locate(kernel, assemblies.text(kernel.source)) for kernel in KERNELS]
    for one in located:
        assert guest.callable_directly(one.kernel) != (one.kernel.name in guest.THROUGH_OPERATORS)
        few, many = guest.lengths(one)
        assert 1 <= few < many
    _, regions = guest.table(located)
    done = emulate(guest.build(located, assemblies, tmp_path), "kernels")
    assert done.returncode == 0, done.stderr
    assert [label for _, label, _ in labels(done.stdout)][2:] == [region.label for region in regions]
    sums = guest.checksums(done.stdout)
    untouched = sums["empty/calls"]
    assert [label for label, value in sums.items() if value == untouched] == ["empty/region", "empty/calls"]


@pytest.mark.slow
def test_the_whole_file_from_a_known_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of gem5 a machine of 3 instructions a cycle: the file loads, and says so of every kernel."""
    assemblies = cross_tools()
    try:
        find_mca()
    except ToolError as error:
        pytest.skip(f"NOT CHECKED: {error}")
    located = [
        locate(kernel, assemblies.text(kernel.source)) for kernel in KERNELS if kernel.name not in gem5.NOT_IN_GEM5
    ]
    truth = dict.fromkeys(("set_up", "norm_row", "head"), 40.0) | {"norm_element": 8 / 3 + 1, "angle": 50.0}
    machine, _ = operators_machine({**truth, "mask_block": 10 / 3, "rope_block": 11 / 3})
    slow = "vec_dot_q5_0_q8_0"  # three times as slow as every other: far beyond what static analysis says
    for one in located:
        if guest.callable_directly(one.kernel):
            cycles = len(one.body) / (1 if one.kernel.name == slow else 3)
            machine.kernel(one, (cycles, len(one.body)), (7, 30))
    parts = {
        "kernels": machine.results(),
        "memory": timed(MEMORY),
        "barrier": timed({f"barrier/{threads}": (64, 400 * (200 + 30 * threads)) for threads in (2, 3, 4)}),
    }

    def run(self: Bench, system: System, part: str, **options: object) -> Regions:
        assert system.name == SYSTEM
        assert (part == "barrier") == ("cores" in options)
        return parts[part]

    monkeypatch.setattr(Bench, "run", run)
    monkeypatch.setattr(Bench, "make", lambda *_: Bench(tmp_path, located, tmp_path, tmp_path))
    monkeypatch.setattr(gem5, "gem5_version", lambda _: "24.0.0.1")
    monkeypatch.setattr(gem5, "configuration", lambda _: "a machine")
    monkeypatch.setattr(gem5, "_checksums", lambda *_: "results not compared")
    out = tmp_path / "made.toml"
    gem5.write_calibration(tmp_path / "gem5.opt", out)
    made, shipped = load_calibration(out), load_calibration("neoverse-n1")
    assert "gem5 24.0.0.1: a machine" in made.origin["analyser"]
    assert (made.runtime.barrier_base_cycles, made.runtime.barrier_cycles_per_thread) == pytest.approx(
        (200, 30), rel=2e-3
    )
    assert made.runtime.rope_angle_cycles == pytest.approx(50)
    assert made.runtime.operator_cycles == shipped.runtime.operator_cycles
    assert made.memory.outstanding_lines == pytest.approx(31.25, rel=1e-3)
    assert made.kernels.keys() == shipped.kernels.keys()
    for one in located:
        kernel = made.kernel(one.kernel.name)
        if guest.callable_directly(one.kernel) and one.kernel.name != slow:
            assert kernel.cycles_per_block == pytest.approx(sum(kernel.per_block.values()) / 3, rel=1e-4)
            assert kernel.call_cycles == pytest.approx(7, abs=1e-4)
    # What gem5 cannot execute, and what it takes far longer for, is the static analysis, and says so.
    for name, words in (("vec_dot_f16", "static analysis"), (slow, "The faster figure stands")):
        assert made.kernel(name).cycles_per_block == pytest.approx(shipped.kernel(name).cycles_per_block, rel=0.1)
        assert words in out.read_text().split(f"[kernels.{name}]")[1].split("[kernels")[0]
    assert made.kernel("rope").cycles_per_block == pytest.approx(11 / 3, rel=1e-4)


@pytest.mark.gem5
@pytest.mark.slow
def test_one_kernel_in_gem5_is_the_shipped_one(tmp_path: Path) -> None:
    """From the sources to cycles: build, simulate, fit; the shipped numbers within 10 %, the results as emulated."""
    binary = find_gem5()
    if binary is None:
        pytest.skip("NOT CHECKED that gem5 makes the shipped numbers again: no gem5.opt on the PATH")
    cross_tools()
    name = SMALL[0]
    bench = Bench.make(binary, tmp_path, [name])
    regions = bench.run(load_system(SYSTEM), "kernels")
    results, _ = kernel_results(bench.located, regions)
    assert regions.sums == guest.checksums(emulate(bench.program, "kernels").stdout)
    calibration = load_calibration(FOLDER / "neoverse-n1.toml")
    if "gem5" not in calibration.origin["analyser"]:
        pytest.skip("NOT CHECKED against the shipped file: it was not made by gem5")
    shipped = calibration.kernel(name)
    assert results[name].cost.cycles_per_block == pytest.approx(shipped.cycles_per_block, rel=0.1)
    assert results[name].cost.call_cycles == pytest.approx(shipped.call_cycles, rel=0.1, abs=2)
