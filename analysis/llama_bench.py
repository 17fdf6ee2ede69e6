"""Measured rates of real machines: what llama.cpp's `llama-bench` writes with ``-o json`` or ``-o jsonl``.

Strict, since its fields have changed many times: a field that is needed must be there and of its type; a field that
this version does not know may be there when it has one value in all rows, and is an error when rows differ in it; two
rows that agree in everything but their times are an error. Nothing is averaged that llama-bench did not average.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gempim.analysis.uncertainty import Error, spread
from gempim.quantity import DataError, suggest

NEEDED: Mapping[str, type | tuple[type, ...]] = {
    "build_commit": str,
    "build_number": int,
    "cpu_info": str,
    "gpu_info": str,
    "model_filename": str,
    "model_type": str,
    "model_size": int,
    "model_n_params": int,
    "n_batch": int,
    "n_ubatch": int,
    "n_threads": int,
    "type_k": str,
    "type_v": str,
    "n_gpu_layers": int,
    "n_prompt": int,
    "n_gen": int,
    "test_time": str,
    "avg_ns": int,
    "stddev_ns": int,
    "avg_ts": (int, float),
    "stddev_ts": (int, float),
}
"""Fields that every row must have, with their types."""

KNOWN = frozenset((
    *NEEDED, "backends", "n_depth", "samples_ns", "samples_ts", "cpu_mask", "cpu_strict", "poll", "n_cpu_moe",
    "split_mode", "main_gpu", "no_kv_offload", "flash_attn", "devices", "tensor_split", "tensor_buft_overrides",
    "use_mmap", "use_direct_io", "embeddings", "no_op_offload", "no_host", "repack", "fit_target", "fit_min_ctx",
    "load_mode", "moe_cache", "n_gen_warmup", "cuda", "vulkan", "kompute", "metal", "sycl", "rpc", "gpu_blas", "blas",
))  # fmt: skip
"""Fields that this version knows: those of llama.cpp's tools/llama-bench (README and source), old and new."""

_TIMES = ("test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts")
_QUANT = re.compile(r"(?:^|\s)(?:mostly )?((?:I?Q\d|TQ\d|MXFP|NVFP|BF16|F16|F32)[\w]*)(?: - (Small|Medium|Large))?$")
_TOLERANCE = 0.01
"""By how much a row's mean may differ from that of its own samples [share]."""


@dataclass(frozen=True)
class Measured:
    """One test on a real machine. `size_bytes` of the model; rates in tokens per second over `repeats` repetitions.

    `quant` is the weights' type as gempim writes it (``q4_k_m``); `options` are the other settings of the row.
    """

    model: str
    quant: str
    size_bytes: int
    params: int
    machine: str
    backend: str
    threads: int
    test: str
    tokens_per_s: float
    tokens_per_s_std: float
    repeats: int | None
    error: Error
    build: str
    date: str
    options: Mapping[str, Any]
    file: Path

    def row(self) -> dict[str, Any]:
        """As plain values."""
        found = self.error.of(self.tokens_per_s)
        return {
            "model": self.model,
            "quant": self.quant,
            "size_bytes": self.size_bytes,
            "params": self.params,
            "system": self.machine,
            "backend": self.backend,
            "threads": self.threads,
            "test": self.test,
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_std": self.tokens_per_s_std,
            "tokens_per_s_low": None if found is None else found.low,
            "tokens_per_s_high": None if found is None else found.high,
            "repeats": self.repeats,
            "build": self.build,
            "date": self.date,
            "file": self.file.name,
        }


def load_llama_bench(files: Iterable[str | Path]) -> list[Measured]:
    """The tests of result files of llama-bench, JSON or JSON lines, in order.

    Raises DataError naming file, row and field: not JSON, an empty file, a missing field or one of the wrong type, a
    mean that is not that of its samples, an unknown field in which rows differ, two rows of the same test.
    """
    found: list[Measured] = []
    for name in files:
        file = Path(name)
        rows = _read(file)
        _check_unknown(file, rows)
        found += [_measured(file, where, row) for where, row in rows]
    keys: dict[tuple[Any, ...], Measured] = {}
    for test in found:
        key = (test.model, test.quant, test.machine, test.backend, test.threads, test.test, test.build,
               json.dumps(test.options, sort_keys=True))  # fmt: skip
        if key in keys:
            raise DataError(
                f"{test.file}: two rows of {test.model} {test.test} on {test.machine} with the same settings (also in "
                f"{keys[key].file}): which one counts?"
            )
        keys[key] = test
    return found


def _read(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Rows with what names them in errors."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    numbered: list[tuple[str, Any]]
    if text.lstrip().startswith("["):
        document = _decode(text, str(file))
        numbered = [(f"{file}: row {i + 1}", row) for i, row in enumerate(document)]
    else:
        lines = [(f"{file}: line {i}", line) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
        numbered = [(where, _decode(line, where)) for where, line in lines]
    if not numbered:
        raise DataError(f"{file}: no test in it (expected the output of llama-bench -o json or -o jsonl)")
    for where, row in numbered:
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object of llama-bench, got {type(row).__name__}")
    return numbered


def _decode(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not JSON as llama-bench -o json or -o jsonl writes it: {error}") from error


def _check_unknown(file: Path, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    first_where, first = rows[0]
    for where, row in rows:
        for name in {*row, *first} - KNOWN:
            if name not in row or name not in first or row[name] != first[name]:
                raise DataError(
                    f"{where}: {name}: {row.get(name, 'missing')!r}, but {first.get(name, 'missing')!r} in "
                    f"{first_where.removeprefix(f'{file}: ')}, and this version of gempim does not know the field"
                    f"{suggest(name, KNOWN)}"
                )


def _measured(file: Path, where: str, row: Mapping[str, Any]) -> Measured:
    for name, kind in NEEDED.items():
        if name not in row:
            raise DataError(f"{where}: missing field {name!r}{suggest(name, set(row) - KNOWN)}")
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, kind):
            names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise DataError(f"{where}: {name}: expected {names}, got {value!r}")
    for name in ("model_size", "model_n_params", "n_threads", "avg_ns", "avg_ts"):
        if not 0 < row[name] < math.inf:
            raise DataError(f"{where}: {name}: expected a number above zero, got {row[name]!r}")
    rate, samples = float(row["avg_ts"]), _samples(row, where)
    if samples and not math.isclose(rate, math.fsum(samples) / len(samples), rel_tol=_TOLERANCE):
        raise DataError(f"{where}: avg_ts is {rate:g}, the mean of samples_ts {math.fsum(samples) / len(samples):g}")
    quant = _QUANT.search(row["model_type"])
    if quant is None:
        raise DataError(
            f"{where}: model_type: expected a name that ends with the weights' type, got {row['model_type']!r}"
        )
    noise = spread(samples)
    backend = str(row.get("backends", "")) or "–"
    gpu = row["gpu_info"] if row["n_gpu_layers"] != 0 and row["gpu_info"] else ""
    options = {
        name: value
        for name, value in row.items()
        if name not in (*_TIMES, "model_type", "model_size", "model_n_params", "build_commit", "build_number")
        and name not in ("cpu_info", "gpu_info", "backends", "n_threads", "n_prompt", "n_gen", "n_depth")
    }
    return Measured(
        model=row["model_type"][: quant.start()].strip() or row["model_type"],
        quant=f"{quant[1]}{'_' + quant[2][0] if quant[2] else ''}".lower(),
        size_bytes=row["model_size"],
        params=row["model_n_params"],
        machine=gpu or row["cpu_info"] or "unnamed machine",
        backend=backend,
        threads=row["n_threads"],
        test=_test(row, where),
        tokens_per_s=rate,
        tokens_per_s_std=float(row["stddev_ts"]),
        repeats=len(samples) or None,
        error=Error({} if noise is None else {"repeats": noise}),
        build=f"{row['build_commit']} ({row['build_number']})",
        date=row["test_time"],
        options=options,
        file=file,
    )


def _samples(row: Mapping[str, Any], where: str) -> list[float]:
    samples = row.get("samples_ts", [])
    good = isinstance(samples, list) and all(
        isinstance(s, int | float) and not isinstance(s, bool) and 0 < s < math.inf for s in samples
    )
    if not good:
        raise DataError(f"{where}: samples_ts: expected a list of rates above zero, got {samples!r}")
    return [float(s) for s in samples]


def _test(row: Mapping[str, Any], where: str) -> str:
    """The test as llama-bench names it."""
    prompt, made, depth = row["n_prompt"], row["n_gen"], row.get("n_depth", 0)
    if isinstance(depth, bool) or not isinstance(depth, int) or min(prompt, made, depth) < 0 or not prompt + made:
        raise DataError(f"{where}: n_prompt {prompt}, n_gen {made}, n_depth {depth!r}: no test of tokens")
    name = f"pp{prompt}+tg{made}" if prompt and made else f"pp{prompt}" if prompt else f"tg{made}"
    return name + (f" @ d{depth}" if depth else "")
