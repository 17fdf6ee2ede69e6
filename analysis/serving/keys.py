"""What tells serving runs apart: the columns of the table, named keys, and nothing else unseen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gempim.analysis.run import RunError, manifest_value, plain
from gempim.analysis.table import leaves
from gempim.quantity import DataError

KEYS = ("model", "system", "devices", "max_batch", "input", "output", "qps")
"""Columns that identify a row."""

Named = Sequence[tuple[str, Mapping[str, Any]]]
"""Names of runs with their manifests."""

_WORKLOAD = {"requests": ("input", "output", "qps", "arrivals"), "scheduler": ("max_batch",), "routing": ()}
"""Sections that say what was served and how, and their values that columns have."""

_LATER = ("experiment.engine", "experiment.energy_table", "experiment.price_key")
"""Keys of an experiment that its manifest has and `ServeExperiment.to_json` has not."""


def is_workload(key: str) -> bool:
    """Whether a dotted manifest key is of what was served, which a run and its baseline share."""
    return any(key.startswith(f"experiment.{section}.") for section in _WORKLOAD)


def key_titles(keys: Sequence[str]) -> dict[str, str]:
    """Short names of dotted keys: the last part, or with its sections where two keys have the same last part."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: name if last.count(name) == 1 else key.removeprefix("experiment.")
        for key, name in zip(keys, last, strict=True)
    }


def values_of(named: Named, key: str) -> list[Any]:
    """The plain value of a dotted manifest key in each run, None where a run lacks the key's section.

    Raises RunError for a key that is missing in a section that the run has, or whose section no run has.
    """
    section = key.rpartition(".")[0]
    has = [not section or _has(manifest, section) for _, manifest in named]
    if named and not any(has):
        manifest_value(named[0][1], named[0][0], key)
    return [
        manifest_value(manifest, name, key) if there else None
        for (name, manifest), there in zip(named, has, strict=True)
    ]


def _has(manifest: Mapping[str, Any], dotted: str) -> bool:
    try:
        manifest_value(manifest, "", dotted)
    except RunError:
        return False
    return True


def check_told(named: Named, keys: Sequence[str] = ()) -> None:
    """Raise DataError when runs that a table would put side by side differ in a value that no column tells.

    The values of a system must agree among its runs and those of a model among its; what was served, among the runs of
    one model and one kind of arrivals (the number of requests: of one batch too, since it goes with the batch). Runs
    that differ in one of the dotted manifest `keys`, which are columns or repeats, may differ in the rest.
    """
    told = [values_of(named, key) for key in keys]
    seen: dict[tuple[Any, ...], tuple[Any, str]] = {}
    for i, (run, manifest) in enumerate(named):
        e = manifest["experiment"]
        own = tuple(str(values[i]) for values in told)
        model, closed, batch = e["model"]["name"], e["requests"]["qps"] is None, e["scheduler"]["max_batch"]
        found: list[tuple[str, tuple[str, ...], tuple[Any, ...]]] = [
            ("system", (), (plain(e["system"]["name"]),)),
            ("model", ("name",), (model,)),
            *((section, columns, (model, closed)) for section, columns in _WORKLOAD.items()),
        ]
        for section, columns, of in found:
            for name, value in leaves(e[section], columns):
                key = f"experiment.{section}.{name}"
                group = (*of, batch) if key == "experiment.requests.count" else of
                if key in keys:
                    continue
                first, other = seen.setdefault((key, *group, *own), (value, run))
                if first != value:
                    raise DataError(
                        f"{other} has {key} = {first}, {run} has {value}, and no column of the table tells: "
                        f"name it as a key (--key {key}) or, when it is a seed, as a repeat (--repeats {key})"
                    )


def check_told_before(named: Named, keys: Sequence[str] = ()) -> None:
    """`check_told` of runs that are still to be made: of keys that only a finished run has, nothing is known yet."""
    known = [key for key in keys if key.startswith("experiment.") and key not in _LATER]
    if len(known) == len(keys):
        check_told(named, known)


def check_apart(named: Named, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Raise DataError when two rows agree in all `keys`: it names the hash in which their runs differ, if one does."""
    seen: dict[tuple[str, ...], int] = {}
    for i, row in enumerate(rows):
        other = seen.setdefault(tuple(str(row[key]) for key in keys), i)
        if other == i:
            continue
        (first, before), (second, after) = named[other], named[i]
        old, new = before.get("hashes", {}), after.get("hashes", {})
        differ = [f"hashes.{name}" for name in new if old.get(name) != new[name]]
        raise DataError(
            f"{first} and {second} have the same {', '.join(f'{key} {row[key]}' for key in keys)}: "
            + (
                f"they differ in {differ[0]}, made by two versions: leave one out, or name it (--key {differ[0]})"
                if differ
                else "one run twice; leave one out"
            )
        )
