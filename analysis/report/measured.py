"""Measured rates of real machines beside the simulated ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from gempim.analysis.llama_bench import Measured
from gempim.analysis.report.content import Table
from gempim.analysis.table import interval_of, si
from gempim.analysis.uncertainty import ends, plus_minus, rounded
from gempim.quantity import DataError

_SAME_PARAMS = 0.01
"""Models whose numbers of parameters differ by less than this share are taken for the same, whatever their names."""

_COLUMNS = ("rate is", "model", "quant", "machine", "test", "t/s", "t/s 95 %", "simulated over measured", "threads",
            "backend", "params", "build")  # fmt: skip

NOTE = (
    "Measured rates are llama-bench's: mean ± standard deviation over its repetitions, without tokenising and sampling."
    " Simulated over measured stands where a simulated row of one sequence has the same number of parameters, weight"
    " type and test as a measured one; it says how far two different machines lie apart, and is no error of the model."
)


def measured_table(frame: pd.DataFrame, measured: Sequence[Measured]) -> Table:
    """Simulated rows and measured ones, by model, weight type and test, each measured one after what it compares with.

    Raises DataError when no measured row has a model of the simulated ones: then the files were mixed up.
    """
    simulated = [row for row in frame.to_dict("records") if row["batch"] == 1]
    together = [m for m in measured if any(_same_model(float(row["params"]), m) for row in simulated)]
    if measured and not together:
        raise DataError(
            f"{measured[0].file}: no measured model ({', '.join(dict.fromkeys(m.model for m in measured))}) has the "
            "parameters of a simulated one with batch 1 "
            f"({', '.join(dict.fromkeys(str(row['model']) for row in frame.to_dict('records')))})"
        )
    rows = []
    for row in simulated:
        if not any(_same_model(float(row["params"]), m) for m in measured):
            continue
        twins = [m for m in together if _same_test(row, m)]
        found = interval_of(row, "tokens_per_s")
        ratios = [f"{rounded(row['tokens_per_s'] / m.tokens_per_s)}x {m.machine}" for m in twins]
        rows.append(
            {
                "rate is": "simulated",
                "model": row["model"],
                "params": si(row["params"]),
                "quant": row["quant"],
                "machine": f"{row['system']} ({row['engine']})",
                "backend": "–",
                "threads": str(row["threads"]),
                "test": row["test"],
                "t/s": plus_minus(row["tokens_per_s"], _std(row["tokens_per_s_std"])),
                "t/s 95 %": ends(found),
                "simulated over measured": ", ".join(ratios) or "–",
                "build": "–",
            }
        )
    rows += [_measured_row(m) for m in together]
    rows.sort(key=lambda row: (row["params"], row["quant"], row["test"][:2], row["test"]))
    left = len(measured) - len(together)
    note = f"{NOTE} {left} measured rows are of other models and not shown." if left else NOTE
    return Table.of(pd.DataFrame(rows)[list(_COLUMNS)], note)


def _measured_row(m: Measured) -> dict[str, str]:
    return {
        "rate is": "measured",
        "model": m.model,
        "params": si(m.params),
        "quant": m.quant,
        "machine": m.machine,
        "backend": m.backend,
        "threads": str(m.threads),
        "test": m.test,
        "t/s": plus_minus(m.tokens_per_s, m.tokens_per_s_std),
        "t/s 95 %": ends(m.error.of(m.tokens_per_s)),
        "simulated over measured": "–",
        "build": f"{m.build}, {m.date}",
    }


def _std(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _same_model(params: float, m: Measured) -> bool:
    return abs(params - m.params) <= _SAME_PARAMS * m.params


def _same_test(row: dict[object, object], m: Measured) -> bool:
    return (
        _same_model(float(str(row["params"])), m)
        and str(row["quant"]).lower() == m.quant
        and str(row["test"]) == m.test
    )
