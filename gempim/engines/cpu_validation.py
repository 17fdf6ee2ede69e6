"""The CPU model against measured llama.cpp rates on Arm cores.

Nothing is fitted: the machines' clocks, caches and bandwidths and the measured rates are data with sources
(gempim/data/validation/cpu-rates.toml), the kernel costs are those of the Neoverse-N1 calibration. Memory time is bytes
over bandwidth here, without the DRAM model, since most of these machines have memories that gempim does not model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gempim.engines.calibration import Calibration, load_calibration
from gempim.engines.cpu import PS_PER_S, CpuModel, CpuParams, ModelTraits
from gempim.lowering import lower
from gempim.models.shapes import build, list_models, load_model, read_model_file
from gempim.models.spec import ModelSpec
from gempim.quantity import DataError, check_keys, load_toml, parse_quantity

FOLDER = Path(__file__).resolve().parent.parent / "data" / "validation"

REASONS = (
    "kernel cycles know no cache, TLB or branch misses, and the clock is the highest: the model tends to be fast",
    "the llama.cpp of the T-MAC tables was possibly built without the dot product. Static analysis of our sources "
    "with -march=armv8-a gives 11.0 cycles per block of q4_0 and 93 of q2_K (with the dot product 7.0 and 64): for the "
    "products alone 0.97 and 0.92 tokens/s on one Orin core (measured 1.04 and 0.79), 1.06 and 1.00 on one Pi "
    "core (measured 0.85 and 0.66). This is a guess about that build, and leaves part of the Pi's difference open",
    "Cortex-A76, A78AE and Neoverse-N1 differ in caches and prefetchers; one calibration stands for all three",
    "the Ampere A1 datum has no address, no llama.cpp version and an unknown share of the socket's bandwidth",
)
"""Why predictions may differ from the measurements; nothing was adjusted for any of them."""

MACHINE_UNITS = {
    "cores": "cores",
    "clock_hz": "Hz",
    "l1d_bytes": "byte",
    "l2_bytes": "byte",
    "llc_bytes": "byte",
    "dram_bytes_per_s": "byte/s",
}

POINT_UNITS = {"threads": "threads", "context": "tokens", "tokens_per_s": "tokens/s"}


@dataclass(frozen=True)
class ValidationPoint:
    """One measured rate and what the model predicts for it.

    Attributes:
        name: key in the data file.
        machine, core: where it was measured.
        model, quant, threads, repack: what ran.
        measured_tokens_per_s, predicted_tokens_per_s: batch 1, token generation.
        source: of the measurement.
        memory_share: part of the predicted time in operators that are bound by memory.
    """

    name: str
    machine: str
    core: str
    model: str
    quant: str
    threads: int
    repack: bool
    measured_tokens_per_s: float
    predicted_tokens_per_s: float
    source: str
    memory_share: float

    @property
    def deviation(self) -> float:
        """predicted / measured - 1: positive when the model is too fast."""
        return self.predicted_tokens_per_s / self.measured_tokens_per_s - 1


def validation_points(file: str | Path = FOLDER / "cpu-rates.toml") -> list[ValidationPoint]:
    """Predicted and measured rates of every point of the data file, in its order.

    Raises:
        DataError: naming file and key of what is missing, unknown or in another unit.
    """
    data = load_toml(file)
    check_keys(data, file=file, required=("machines", "points"))
    calibration = load_calibration("neoverse-n1")
    return [_point(name, raw, data["machines"], file, calibration) for name, raw in data["points"].items()]


def _numbers(
    raw: Mapping[str, Any], units: Mapping[str, str], texts: tuple[str, ...], file: str | Path, key: str
) -> dict[str, float]:
    check_keys(raw, file=file, key=key, required=(*units, *texts))
    return {
        name: parse_quantity(raw[name], file=file, key=f"{key}.{name}", unit=unit).as_float()
        for name, unit in units.items()
    }


def _point(
    name: str, raw: Mapping[str, Any], machines: Mapping[str, Any], file: str | Path, calibration: Calibration
) -> ValidationPoint:
    numbers = _numbers(raw, POINT_UNITS, ("machine", "model", "quant", "repack"), file, f"points.{name}")
    if raw["machine"] not in machines:
        raise DataError(f"{file}: points.{name}.machine: {raw['machine']!r} is none of {', '.join(machines)}")
    if not isinstance(raw["repack"], bool):
        raise DataError(f"{file}: points.{name}.repack: expected true or false, got {raw['repack']!r}")
    place = machines[raw["machine"]]
    machine = _numbers(place, MACHINE_UNITS, ("core",), file, f"machines.{raw['machine']}")
    model = _model(raw["model"], raw["quant"])
    params = CpuParams(
        cores=int(machine["cores"]),
        clock_hz=machine["clock_hz"],
        l1d_bytes=int(machine["l1d_bytes"]),
        l2_bytes=int(machine["l2_bytes"]),
        repack=raw["repack"],
        calibration="neoverse-n1",
    )
    threads = int(numbers["threads"])
    cpu = CpuModel(params, calibration, threads, llc_bytes=int(machine["llc_bytes"]), traits=ModelTraits.of(model))
    seconds, memory_seconds = decode_seconds(cpu, model, int(numbers["context"]), machine["dram_bytes_per_s"])
    return ValidationPoint(
        name=name,
        machine=raw["machine"],
        core=place["core"],
        model=raw["model"],
        quant=raw["quant"],
        threads=threads,
        repack=raw["repack"],
        measured_tokens_per_s=numbers["tokens_per_s"],
        predicted_tokens_per_s=1 / seconds,
        source=raw["tokens_per_s"]["source"],
        memory_share=memory_seconds / seconds,
    )


def _model(name: str, quant: str) -> ModelSpec:
    """A model of the shape table, or one whose shape lies beside the validation data."""
    if name in list_models():
        return load_model(name, quant)
    return build(read_model_file(FOLDER / f"{name}.toml"), quant)


def decode_seconds(cpu: CpuModel, model: ModelSpec, context: int, dram_bytes_per_s: float) -> tuple[float, float]:
    """Time of one generated token, and the part of it in operators bound by memory, in seconds.

    An operator takes max(compute, bytes / min(DRAM bandwidth, the threads' own bandwidth)) + barriers.
    """
    bandwidth = min(dram_bytes_per_s, cpu.core_dram_bytes_per_s)
    total = bound = 0.0
    for op in lower(model, "decode", 1, context):
        cost = cpu.cost(op, weights_resident_in_llc=False)
        memory = (cost.dram_read_bytes + cost.dram_write_bytes) / bandwidth
        compute = cost.compute_ps / PS_PER_S
        seconds = (max(compute, memory) + cost.barrier_ps / PS_PER_S) * op.count
        total += seconds
        bound += seconds if memory > compute else 0.0
    return total, bound
