"""The command `gempim serve`, and `gempim compare` of systems that serve."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from gempim.cli_options import Energy, Format, Out, ReportDir, Runs, Utilisation, err, given_options, prices_of
from gempim.quantity import DataError

_SERVING = "Systems that serve (gpu-h100 and others with an xPU)"
"""Panel of the options of serving in `gempim compare --help`."""

Lin = Annotated[
    str | None, typer.Option("--lin", help="Mean prompt lengths, comma separated.", rich_help_panel=_SERVING)
]
Lout = Annotated[
    str | None, typer.Option("--lout", help="Mean answer lengths, comma separated.", rich_help_panel=_SERVING)
]
Devices = Annotated[
    int, typer.Option("--devices", help="Devices; SYSTEM@8 for one system.", min=1, max=64, rich_help_panel=_SERVING)
]
Count = Annotated[
    int | None,
    typer.Option(
        "--requests", help="Requests answered a run. Default: twice the batch.", min=1, rich_help_panel=_SERVING
    ),
]
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", help="Manifest key in which runs differ, as a column: experiment.system.sram_pim.nbw."),
]
Repeats = Annotated[
    list[str] | None,
    typer.Option("--repeats", help="Manifest key (a seed) in which repeated runs differ: their mean is shown."),
]
_PRICE = typer.Option("--price", help="Override a price: h100.usd_per_hour=2.5. Repeatable.")

_SERVING_ONLY = ("lin", "lout", "devices", "requests")
_NOT_SERVING = ("quant", "gguf", "prompt", "context", "tokens", "threads", "engine")


def serving_options(ctx: typer.Context) -> bool:
    """Whether `gempim compare` was asked to serve. Raises DataError for options that do not go together."""
    if not given_options(ctx, _SERVING_ONLY):
        return False
    if given := given_options(ctx, _NOT_SERVING):
        raise DataError(f"{given[0]} does not go with {given_options(ctx, _SERVING_ONLY)[0]}: serving computes in FP16")
    if missing := [name for name in ("lin", "lout") if not given_options(ctx, (name,))]:
        raise DataError(f"--{missing[0]} is missing: mean lengths, for example --lin 1024 --lout 256")
    return True


def serve(
    files: Annotated[list[Path], typer.Argument(metavar="EXPERIMENT.toml...", help="Serving experiments.")],
    runs: Runs = Path("runs"),
    output: Out = Format.md,
    price: Annotated[list[str] | None, _PRICE] = None,
    energy: Energy = None,
    utilisation: Utilisation = 1.0,
    report: ReportDir = None,
    keys: Keys = None,
    repeats: Repeats = None,
) -> None:
    """Serve a stream of requests by continuous batching: TTFT, time between tokens, end to end, tokens/s, J/token.

    A file has one seed of the requests and one of the routes; several files are several seeds, and `--repeats` makes
    one row of them, with 95 % intervals.

    Example: `gempim serve workloads/serve/mixtral-qps.toml --report out`

    Example: `gempim serve seed0.toml seed1.toml seed2.toml --repeats experiment.requests.seed`
    """
    from gempim.analysis.serving.keys import check_told_before
    from gempim.serve.spec import load_serve

    found = [(e, f"{file}: {e.slug()}") for file in files for e in load_serve(file)]
    # Before hours of simulation, not after.
    check_told_before([(name, {"experiment": e.to_json()}) for e, name in found], (*(keys or ()), *(repeats or ())))
    _run(
        [e for e, _ in found], runs, output, price=price, energy=energy, utilisation=utilisation, report=report,
        keys=keys or (), repeats=repeats or (),
    )  # fmt: skip


def compare_serving(
    systems: Sequence[str],
    model: str | None,
    *,
    batch: Sequence[int],
    lin: Sequence[int],
    lout: Sequence[int],
    devices: int,
    count: int | None,
    sets: Sequence[str],
    runs: Path,
    output: Format,
    price: list[str] | None,
    energy: str | None,
    utilisation: float,
    report: Path | None,
) -> None:
    """Systems in the steady state of a closed loop, at every batch and pair of lengths; the first is the baseline.

    :param count: requests answered in each run; None: twice the batch
    :param sets: ``policy.moe=coprocess-code``, for every system that has the section, or ``SYSTEM:KEY=VALUE``
    """
    from gempim.analysis.serving.keys import check_told_before
    from gempim.serve.spec import resolve_serve, split_name

    if model is None:
        raise DataError("--model is missing: a shipped model shape, for example mixtral-8x7b")
    experiments = []
    for b in batch:
        for i in lin:
            for o in lout:
                for system in systems:
                    own = dict(_set(text, split_name(system)[0]) for text in sets if _for(text, system))
                    doc: dict[str, Any] = {
                        "serve": {"system": system, "devices": devices},
                        "model": {"name": model},
                        "requests": {"count": count or 2 * b, "input": i, "output": o},
                        "scheduler": {"max_batch": b, "start": "steady"},
                        "set": own,
                    }
                    experiments += resolve_serve(doc, origin="command line")
    check_told_before([(e.slug(), {"experiment": e.to_json()}) for e in experiments])
    _run(
        experiments, runs, output, price=price, energy=energy, utilisation=utilisation, report=report,
        baseline=experiments[0].system.name + f" x{experiments[0].devices}",
    )  # fmt: skip


def _set(text: str, system: str) -> tuple[str, str]:
    key, eq, value = text.partition("=")
    if not eq or not key or not value:
        raise DataError(f"--set {text}: expected KEY=VALUE or SYSTEM:KEY=VALUE")
    return key.removeprefix(f"{system}:"), value


def _for(text: str, system: str) -> bool:
    """Whether an override is for this system: it names it, or none and the system has its section."""
    from gempim.serve.spec import split_name
    from gempim.systems import load_system

    name = split_name(system)[0]
    key = text.partition("=")[0]
    if ":" in key:
        return key.partition(":")[0] == name
    return key.removeprefix("system.").partition(".")[0] in load_system(name).sections


def _run(
    experiments: Sequence[Any],
    runs: Path,
    output: Format,
    *,
    price: list[str] | None,
    energy: str | None,
    utilisation: float,
    report: Path | None,
    baseline: str | None = None,
    keys: Sequence[str] = (),
    repeats: Sequence[str] = (),
) -> None:
    from gempim.output_serve import print_serving
    from gempim.serve.simulate import simulate_serve

    def follow(bar: Any) -> Callable[[int, int], None]:
        return lambda done, _: bar.update(done - bar.n)

    paths = []
    for experiment in experiments:
        with tqdm(total=experiment.requests.count, desc=experiment.slug(), file=sys.stderr, leave=False) as bar:
            paths.append(simulate_serve(experiment, runs, command=list(sys.argv), progress=follow(bar)))
        err.print(f"run: {paths[-1]}", style="dim", soft_wrap=True, highlight=False)
    print_serving(
        paths, output, prices=prices_of(price), energy=energy, utilisation=utilisation, report=report,
        baseline=baseline, keys=keys, repeats=repeats,
    )  # fmt: skip
