"""Cycles of kernels, memory system, barrier and `lutmm` from the calibration program's regions of interest.

Every kernel is called on short and on long rows, each in a region of its own; operands are in the L1 data cache. With
c(i) cycles a call of i loop iterations, corrected for an empty region and an empty call, the cost of an iteration is
(c(many) - c(few)) / (many - few), that of a call c(few) - few * iteration. The instructions that gem5 committed give a
second line, whose slope must be the length of the loop body that the static analysis found.

Kernels without a function of their own (`guest.THROUGH_OPERATORS`), per element of a row:

* mask: softmax with a mask less softmax without one.
* rope: the calls cost f + t d/2 + h (r + c d) with h heads of d elements, t cycles an angle: four regions.
* rms_norm_sum: the fused RMS norm less rms_norm_scale, which gets the decoder's bound, instructions / 4; only their
  sum is ever used.

Memory: a chain of loads, each needing the one before, over lines that are in one level only gives that level's
load-to-use latency; reading in order, at 16 bytes a load, gives the bandwidth of one core, and Little's law the lines
in flight. The instruction mixes stay those of the static analysis, which are exact: gem5 counts micro-operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gempim.calibrate import guest
from gempim.calibrate.analyse import DECODE_WIDTH, Cost, Located
from gempim.calibrate.regions import Region, Regions, core_counts
from gempim.calibrate.toolchain import ToolError
from gempim.calibrate.write import MEMORY, Number

TOLERANCE = 0.05
"""How far the instructions that gem5 commits may be from the static count, as for `python -m gempim.calibrate mca`."""

BARRIER_THREADS = 4
"""Most threads, and simulated cores, of the barrier's regions."""

PS_PER_S = 10**12


def line(few: tuple[float, float], many: tuple[float, float]) -> tuple[float, float]:
    """Slope and intercept of the line through two points (x, y).

    Raises:
        ValueError: the points do not rise from left to right.
    """
    if many[0] <= few[0] or many[1] <= few[1]:
        raise ValueError(f"expected a rising line, got {few} and {many}")
    slope = (many[1] - few[1]) / (many[0] - few[0])
    return slope, few[1] - slope * few[0]


@dataclass(frozen=True)
class Fit:
    """A line in cycles and one in instructions: for one more unit of length, and for none."""

    cycles: float
    call_cycles: float
    instructions: float
    call_instructions: float


class Calls:
    """Cycles and instructions of single calls: those of a region, less an empty region, over its calls, less an empty
    call."""

    def __init__(self, regions: Regions) -> None:
        self.regions = regions
        self._region = core_counts(regions.get("empty/region").section)
        calls = regions.get("empty/calls")
        with_calls = core_counts(calls.section)
        self._call = tuple((a - b) / calls.work for a, b in zip(with_calls, self._region, strict=True))

    def call(self, label: str) -> tuple[float, float]:
        """Cycles and instructions of one call of region `label`."""
        region = self.regions.get(label)
        counts = core_counts(region.section)
        cycles, instructions = (
            (have - base) / region.work - call
            for have, base, call in zip(counts, self._region, self._call, strict=True)
        )
        return cycles, instructions

    def fit(self, name: str, lengths: tuple[float, float]) -> Fit:
        """The lines through regions `name`/few and `name`/many, which work on such lengths.

        Raises:
            ToolError: the longer one did not take longer.
        """
        few, many = self.call(f"{name}/few"), self.call(f"{name}/many")
        try:
            cycles, instructions = (line((lengths[0], few[i]), (lengths[1], many[i])) for i in (0, 1))
        except ValueError as error:
            raise ToolError(f"{self.regions.folder / 'stats.txt'}: {name}: {error}") from error
        return Fit(*cycles, *instructions)


@dataclass(frozen=True)
class Result:
    """A kernel's cycles by gem5, and the instructions of one iteration as gem5 committed them and as counted in the
    assembly (0: not measured on its own)."""

    cost: Cost
    executed: float = 0.0
    static: float = 0.0


def _check(name: str, result: Result) -> None:
    """Raises ToolError when the instructions are not those of the loop, or the cycles none."""
    _above_zero(f"{name}: cycles a block", result.cost.cycles_per_block)
    if abs(result.executed - result.static) > TOLERANCE * result.executed:
        raise ToolError(
            f"{name}: the loop has {result.static:g} instructions an iteration, but gem5 committed "
            f"{result.executed:g}: the wrong loop, wrong trip counts, or not the code that was analysed"
        )


def _above_zero(what: str, value: float) -> None:
    if value <= 0:
        raise ToolError(f"{what}: {value:g} by gem5's regions: longer rows did not take longer")


def _words(text: str) -> str:
    return f"gem5: {text}"


def _direct(located: Located, calls: Calls) -> Result:
    """A kernel that the program calls itself."""
    few, many = guest.lengths(located)
    fit = calls.fit(located.kernel.name, (few, many))
    words = _words(f"line through calls of {few} and {many} iterations, {located.tiles} blocks each")
    return Result(
        Cost(fit.cycles / located.tiles, words, max(0.0, fit.call_cycles), words, "measured"),
        fit.instructions,
        len(located.body),
    )


def _elements(located: Located) -> int:
    """Elements of one iteration of an elementwise kernel."""
    return located.blocks * located.kernel.block_elements


def _mask(located: Located, calls: Calls) -> Result:
    without, masked = (calls.fit(name, guest.ELEMENTS) for name in ("soft_max", "soft_max_masked"))
    elements = _elements(located)
    words = _words("an element of softmax with a mask less one without")
    return Result(
        Cost((masked.cycles - without.cycles) * located.kernel.block_elements, words, 0.0, words, "measured"),
        (masked.instructions - without.instructions) * elements,
        len(located.body),
    )


def _rms_norm(sum_: Located, scale: Located, calls: Calls) -> tuple[Result, Result]:
    """The two loops of the fused RMS norm; a row's fixed cost is the sum's."""
    few_rows, many_rows = guest.ROWS
    fit = calls.fit("rms_norm", guest.ELEMENTS)
    more = (calls.call("rms_norm/rows")[0] - calls.call("rms_norm/few")[0]) / (many_rows - few_rows)
    row = max(0.0, more - guest.ELEMENTS[0] * fit.cycles)
    bound = len(scale.body) / DECODE_WIDTH / _elements(scale)
    static = len(sum_.body) / _elements(sum_) + len(scale.body) / _elements(scale)
    words = _words(f"an element of the fused RMS norm ({fit.cycles:.6g} cycles) less rms_norm_scale")
    row_words = _words(f"a row more of {guest.ELEMENTS[0]} elements, less its elements")
    scale_words = f"instructions / {DECODE_WIDTH} (decode width); rms_norm_sum has the rest of what gem5 measured"
    return (
        Result(
            Cost((fit.cycles - bound) * sum_.kernel.block_elements, words, row, row_words, "measured"),
            fit.instructions,
            static,
        ),
        Result(Cost(bound * scale.kernel.block_elements, scale_words, 0.0, scale_words, "derived"), 1, 1),
    )


def _rope(located: Located, calls: Calls) -> tuple[Result, float]:
    """Rotation, and the cycles of one angle of its table."""
    small, large = guest.HEAD_DIMS
    fits = [calls.fit(f"rope_{dims}", guest.HEADS) for dims in (small, large)]
    element = (fits[1].cycles - fits[0].cycles) / (large - small)
    instructions = (fits[1].instructions - fits[0].instructions) / (large - small)
    head = max(0.0, fits[0].cycles - small * element)
    angle = (fits[1].call_cycles - fits[0].call_cycles) / ((large - small) / 2)
    words = _words(f"calls on {guest.HEADS[0]} and {guest.HEADS[1]} heads of {small} and {large} elements")
    cost = Cost(element * located.kernel.block_elements, words, head, words, "measured")
    return Result(cost, instructions * _elements(located), len(located.body)), angle


def kernel_results(kernels: Sequence[Located], regions: Regions) -> tuple[dict[str, Result], dict[str, Number]]:
    """Cycles of each kernel by name, and what the same regions say of [runtime].

    Raises:
        ToolError: regions or statistics are missing, cycles come out as nothing, or the instructions committed are
            not those of the loop.
    """
    calls = Calls(regions)
    by_name = {located.kernel.name: located for located in kernels}
    results: dict[str, Result] = {}
    runtime: dict[str, Number] = {}
    for name, located in by_name.items():
        if guest.callable_directly(located.kernel):
            results[name] = _direct(located, calls)
    if "mask" in by_name:
        results["mask"] = _mask(by_name["mask"], calls)
    if {"rms_norm_sum", "rms_norm_scale"} <= by_name.keys():
        pair = _rms_norm(by_name["rms_norm_sum"], by_name["rms_norm_scale"], calls)
        results["rms_norm_sum"], results["rms_norm_scale"] = pair
    if "rope" in by_name:
        results["rope"], angle = _rope(by_name["rope"], calls)
        _above_zero("rope_angle_cycles", angle)
        runtime["rope_angle_cycles"] = (
            angle,
            "cycles",
            "one angle",
            _words("ggml_rope_cache_init: heads of two sizes, what their tables take"),
            "measured",
        )
    for name, result in results.items():
        _check(name, result)
    return results, runtime


def memory_numbers(regions: Regions, clock_hz: float) -> tuple[dict[str, Number], str]:
    """Numbers of [memory], and a line on the latencies of the caches.

    Raises:
        ToolError: regions are missing, or a level is not slower than the one above it.
    """
    empty = regions.get("empty/region").sim_ps

    def each(label: str) -> float:
        region = regions.get(label)
        return (region.sim_ps - empty) / region.work

    levels = ("l1", "l2", "llc", "dram")
    latency = {level: each(f"latency/{level}") for level in levels}
    if sorted(latency.values()) != list(latency.values()) or latency["l1"] <= 0:
        raise ToolError(
            f"{regions.folder}: load-to-use latencies of {', '.join(levels)} must rise, got "
            f"{', '.join(f'{latency[level] / 1000:.4g}' for level in levels)} ns"
        )
    line_bytes = MEMORY["line_bytes"][0]
    dram_ps, llc_ps = each("stream/dram"), each("stream/llc")
    cycle_ps = PS_PER_S / clock_hz
    chain = "a chain of dependent loads over lines that are only there"
    numbers: dict[str, Number] = {
        "outstanding_lines": (
            latency["dram"] / dram_ps / line_bytes,
            "lines",
            "core",
            _words(
                f"one core reads DRAM in order at {1000 / dram_ps:.4g} GB/s; times dram_latency_ns, over line_bytes "
                "(Little's law)"
            ),
            "measured",
        ),
        "dram_latency_ns": (latency["dram"] / 1000, "ns", "load to use, idle", _words(chain), "measured"),
        "llc_latency_ns": (latency["llc"] / 1000, "ns", "load to use, idle", _words(chain), "measured"),
        "llc_bytes_per_cycle": (
            cycle_ps / llc_ps,
            "bytes/cycle",
            "core",
            _words("one core reads in order what the LLC has and its L2 has not"),
            "measured",
        ),
    }
    near = " and ".join(f"{latency[level] / cycle_ps:.3g} ({level.upper()})" for level in ("l1", "l2"))
    return numbers, f"load to use of the caches {near} cycles"


def barrier_line(cycles: Mapping[int, float]) -> tuple[float, float]:
    """Base and slope of a barrier's cycles over its threads by least squares, both at least 0.

    With a negative base (or slope) the best line through the origin (or the mean) is the nearest that is allowed.
    """
    n = len(cycles)
    mean_x, mean_y = sum(cycles) / n, sum(cycles.values()) / n
    spread = sum((x - mean_x) ** 2 for x in cycles)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in cycles.items()) / spread
    base = mean_y - slope * mean_x
    if slope < 0:
        return mean_y, 0.0
    if base < 0:
        return 0.0, sum(x * y for x, y in cycles.items()) / sum(x * x for x in cycles)
    return base, slope


def barrier_numbers(regions: Regions, clock_hz: float) -> dict[str, Number]:
    """The barrier's numbers of [runtime]. Raises ToolError when regions are missing."""
    cycles = {}
    for threads in range(2, BARRIER_THREADS + 1):
        region = regions.get(f"barrier/{threads}")
        cycles[threads] = region.sim_ps / region.work * clock_hz / PS_PER_S
    base, each = barrier_line(cycles)
    points = ", ".join(f"{threads}: {count:.4g}" for threads, count in cycles.items())
    words = _words(f"ggml_barrier's two counters, spinning threads; cycles by threads {points}; line by least squares")
    return {
        "barrier_base_cycles": (base, "cycles", "barrier of more than one thread", words, "measured"),
        "barrier_cycles_per_thread": (each, "cycles", "barrier, each thread", words, "measured"),
    }


def pim_numbers(regions: Regions, clock_hz: float) -> dict[str, Number]:
    """Numbers of a system's [pim_host]: whole cycles of the core to issue a command, and to go on after one is done.

    The device's own time, from taking a command to writing its status, is a statistic of the device.

    Raises:
        ToolError: regions or the device's statistics are missing, or a time is not above 0.
    """
    cycles_per_ps = clock_hz / PS_PER_S
    empty = regions.get("empty/region").sim_ps
    issue, both = regions.get("pim/issue"), regions.get("pim/issue_and_wait")
    each = {region.label: (region.sim_ps - empty) / region.work for region in (issue, both)}
    inside = _device_ps(both, "commandTicks", "commandsDone")
    cycles = {
        "issue_cycles": each[issue.label] * cycles_per_ps,
        "wait_cycles": (each[both.label] - each[issue.label] - inside) * cycles_per_ps,
    }
    for key, value in cycles.items():
        if round(value) < 1:
            raise ToolError(f"{regions.folder / 'stats.txt'}: pim_host.{key}: {value:g} cycles, expected at least 1")
    return {
        "issue_cycles": (
            round(cycles["issue_cycles"]),
            "cycle",
            "lutmm, one core",
            _words(f"descriptor and instruction, {issue.work} commands one after another"),
            "measured",
        ),
        "wait_cycles": (
            round(cycles["wait_cycles"]),
            "cycle",
            "operator",
            _words(
                f"{both.work} commands, each issued and waited for, less issue_cycles and the device's own "
                f"{inside * cycles_per_ps:.4g} cycles"
            ),
            "measured",
        ),
    }


def _device_ps(region: Region, ticks: str, commands: str) -> float:
    """The device's time of one command, in gem5's ticks of 1 ps. Raises ToolError when its statistics are not there."""
    section = region.section
    names = [name.removesuffix(f".{commands}") for name in section.scalars if name.endswith(f".{commands}")]
    where = f"{section.file}: section {section.index}"
    if len(names) != 1 or f"{names[0]}.{ticks}" not in section:
        raise ToolError(f"{where}: expected one device with {commands} and {ticks}, got {', '.join(names) or 'none'}")
    done = section.get(f"{names[0]}.{commands}")
    if done != region.work:
        raise ToolError(f"{where}: expected {region.work} commands done, got {done:g}")
    return section.get(f"{names[0]}.{ticks}") / done
