"""Sweeps: the cartesian product of named axes, in parallel, resumable.

::

    [sweep]
    name = "bits x batch"
    baseline = "neoverse-n1"          # the system that speedups are against

    [base.experiment]                 # any key of an experiment file, under `base`
    system = "sail"
    [base.model]
    name = "llama-2-7b"
    quant = "q4_0"

    [axes]
    "experiment.system" = ["neoverse-n1", "sail"]
    "model.quant" = ["q2_k", "q4_0"]
    "workload.batch" = [1, 8]
    "set.sram_pim.nbw" = { values = [2, 4], only_systems = ["sail"] }
"""

from __future__ import annotations

import copy
import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
from tqdm import tqdm

from gempim.experiment import Experiment, resolve
from gempim.quantity import DataError, load_toml
from gempim.rundir import is_complete
from gempim.simulate import run_path, simulate

# Axes that are columns of every table of runs (`test` holds prompt, tokens and context), or that are in no result.
_TABLE_AXES = {
    *(f"experiment.{key}" for key in ("system", "engine", "name")),
    *(f"model.{key}" for key in ("name", "quant", "gguf")),
    *(f"workload.{key}" for key in ("batch", "prompt", "context", "tokens", "threads")),
}
_SWEEP_KEYS = {"name", "baseline"}
_RUNS_PER_WORKER = 10


@dataclass(frozen=True)
class Sweep:
    """A resolved sweep.

    `keys` are the manifest keys of axes that a table of runs has no column for (``experiment.system.sram_pim.nbw``);
    `match` those of them that the baseline varies too: each of its points is compared with the baseline's own.
    """

    name: str
    baseline: str | None
    points: tuple[Experiment, ...]
    keys: tuple[str, ...] = ()
    match: tuple[str, ...] = ()


def _axis(file: Path, key: str, raw: Any) -> tuple[list[Any], set[str] | None]:
    only: set[str] | None = None
    if isinstance(raw, Mapping):
        extra = set(raw) - {"values", "only_systems"}
        if extra or "values" not in raw:
            raise DataError(f"{file}: axes.{key}: expected a list, or {{ values, only_systems }}; got {sorted(raw)}")
        only = set(raw["only_systems"]) if "only_systems" in raw else None
        raw = raw["values"]
    if not isinstance(raw, list) or not raw:
        raise DataError(f"{file}: axes.{key}: expected a non-empty list of values")
    section = key.partition(".")[0]
    if section not in ("experiment", "model", "workload", "set"):
        raise DataError(f"{file}: axes.{key}: starts with {section!r}; allowed: experiment, model, workload, set")
    return raw, only


def _put(doc: dict[str, Any], key: str, value: Any) -> None:
    section, _, name = key.partition(".")
    doc.setdefault(section, {})[name] = value


def load_sweep(path: Path) -> Sweep:
    """Read and resolve a sweep file: every point is checked before the first one runs.

    :raises DataError: an unknown key or an impossible point, naming the file, the key and the point
    """
    doc = load_toml(path)
    for key in doc:
        if key not in ("sweep", "base", "axes"):
            raise DataError(f"{path}: {key}: unknown table; allowed: sweep, base, axes")
    head = doc.get("sweep", {})
    for key in head:
        if key not in _SWEEP_KEYS:
            raise DataError(f"{path}: sweep.{key}: unknown key; allowed: {', '.join(sorted(_SWEEP_KEYS))}")
    axes = {k: _axis(path, k, v) for k, v in doc.get("axes", {}).items()}
    if not axes:
        raise DataError(f"{path}: axes: missing; a sweep needs at least one axis")
    systems = [str(v) for v in axes.get("experiment.system", ([], None))[0]]
    systems = systems or [str(doc.get("base", {}).get("experiment", {}).get("system"))]
    for key, (_, only) in axes.items():
        unknown = sorted((only or set()) - set(systems))
        if unknown:
            raise DataError(
                f"{path}: axes.{key}: only_systems: {unknown[0]!r} is no system of this sweep ({', '.join(systems)})"
            )
    points: dict[str, Experiment] = {}
    for values in itertools.product(*(v for v, _ in axes.values())):
        point = copy.deepcopy(doc.get("base", {}))
        chosen = dict(zip(axes, values, strict=True))
        system = chosen.get("experiment.system", point.get("experiment", {}).get("system"))
        for key, value in chosen.items():
            only = axes[key][1]
            if only is None or system in only:
                _put(point, key, value)
        label = ", ".join(f"{k}={v}" for k, v in chosen.items())
        experiment = resolve(point, origin=f"{path} at {label}", base_dir=path.parent)
        # Axes that do not apply to a system leave the same point several times: it is simulated once.
        points.setdefault(repr(experiment.to_json()), experiment)
    baseline = head.get("baseline")
    names = list(dict.fromkeys(p.system.name for p in points.values()))
    if baseline is not None and baseline not in (*names, *systems):
        raise DataError(f"{path}: sweep.baseline: {baseline!r} is no system of this sweep ({', '.join(names)})")
    extra = {_manifest_key(key): only for key, (_, only) in axes.items() if key not in _TABLE_AXES}
    match = tuple(key for key, only in extra.items() if only is None)
    return Sweep(head.get("name", path.stem), baseline, tuple(points.values()), tuple(extra), match)


def _manifest_key(axis: str) -> str:
    """Where a run's manifest has the value of an axis."""
    section, _, name = axis.partition(".")
    return f"experiment.system.{name.removeprefix('system.')}" if section == "set" else f"experiment.{axis}"


@contextmanager
def _progress(total: int, text: str) -> Iterator[Any]:
    with tqdm(total=total, desc=text, file=sys.stderr, unit="run") as bar:
        yield bar


def _one(experiment: Experiment, root: Path, command: list[str]) -> Path:
    return simulate(experiment, root, command=command)


def run_sweep(sweep: Sweep, root: Path, *, jobs: int | None = None, dask: str | None = None) -> list[Path]:
    """Run every point that has no complete run yet, in parallel; the run directories in the order of the points.

    :param jobs: worker processes; default: the number of cores
    :param dask: address of a Dask scheduler whose workers do it instead
    :raises DataError: see `simulate` and `run_on_dask`
    """
    if dask is not None and jobs is not None:
        raise DataError("--jobs and --dask exclude each other: the cluster has the workers that it has")
    jobs = jobs or os.cpu_count() or 1
    command = list(sys.argv)
    paths = [run_path(p, root) for p in sweep.points]
    missing = [p for p, path in zip(sweep.points, paths, strict=True) if not is_complete(path)]
    with _progress(len(paths), sweep.name) as bar:
        bar.update(len(paths) - len(missing))
        if dask is not None:
            from gempim.sweep_dask import run_on_dask

            if missing:
                pairs = [(point, run_path(point, root)) for point in missing]
                run_on_dask(pairs, root, dask, command=command, done=bar.update)
            return paths
        # Starting worker processes costs seconds: not for a handful of runs.
        workers = min(jobs, max(1, len(missing) // _RUNS_PER_WORKER))
        tasks = (joblib.delayed(_one)(p, root, command) for p in missing)
        for _ in joblib.Parallel(n_jobs=workers, return_as="generator", batch_size="auto")(tasks):
            bar.update()
    return paths
