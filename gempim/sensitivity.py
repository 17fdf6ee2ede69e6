"""How much the parameters that a paper does not give move a result: each alone, around its default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from gempim.analysis.run import load_run
from gempim.experiment import Experiment
from gempim.quantity import DataError
from gempim.simulate import simulate

SAIL_UNKNOWNS: Mapping[str, Sequence[Any]] = {
    "sram_pim.clock_ps": (500, 1000, 2000),
    "sram_pim.arrays_per_slice": (8, 16, 32, 64),
    "sram_pim.nbw": (1, 2, 3, 4),
    "sram_pim.activation_bits": (4, 6, 8),
    "sram_pim.lookup_carry_cycles": (0, 2, 4),
    "sram_pim.prt_hit_cycles": (0, 1, 4),
    "sram_pim.prt_scope": ("vector", "group"),
    "sram_pim.convert_in_memory": (True, False),
    "sram_pim.fp32_mul_cycles": (11, 87, 346),
    "sram_pim.reduce_links": (1, 8, 32),
    "sram_pim.llc_link_bytes_per_cycle": (32, 64, 128),
    "pim_host.issue_cycles": (10, 79, 400),
    "memory.channels": (2, 4, 8),
}
"""Parameters of SAIL that no public source gives, with the values that are tried; the shipped default is among them."""


def sensitivity(
    experiment: Experiment,
    runs: Path,
    unknowns: Mapping[str, Sequence[Any]] = SAIL_UNKNOWNS,
    *,
    most: int | None = 4,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Decode rate of `experiment` with one parameter changed at a time.

    :param most: keep the parameters with the largest ratio of best to worst rate; None keeps all
    :return: columns parameter, value, metric, metric_value [tokens/s], is_default; largest swing first
    :raises DataError: a parameter whose default is not among the values, or that the system does not have
    """
    if not experiment.workload.tokens:
        raise DataError("sensitivity: the workload decodes no tokens")
    points = []
    for key, values in unknowns.items():
        section, _, name = key.partition(".")
        default = experiment.system.sections[section][name].value
        if default not in values:
            raise DataError(f"sensitivity: {key}: the default {default!r} is not among {list(values)}")
        points += [(key, value, value == default) for value in values]
    rows = []
    for done, (key, value, is_default) in enumerate(points):
        system = experiment.system.with_override(key, value, origin="sensitivity")
        path = simulate(replace(experiment, system=system), runs)
        decode = load_run(path).rois_of("decode")
        rate = sum(r.tokens for r in decode) / sum(r.sim_ps for r in decode) * 1e12
        rows.append(
            {
                "parameter": key,
                "value": value,
                "metric": "decode [tokens/s]",
                "metric_value": rate,
                "is_default": is_default,
            }
        )
        if progress:
            progress(done + 1, len(points))
    frame = pd.DataFrame(rows)
    by = frame.groupby("parameter")["metric_value"]
    order = list((by.max() / by.min()).sort_values(ascending=False).index)[:most]
    return pd.concat([frame[frame["parameter"] == p] for p in order], ignore_index=True)
