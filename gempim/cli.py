"""The command `gempim`. Results go to stdout in the format asked for; progress and messages go to stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gempim.cli_build import guest_app, micro_app, plugin_app
from gempim.cli_inspect import diff, inspect
from gempim.cli_linux import linux_app
from gempim.cli_model import model_app
from gempim.cli_options import (
    Context,
    Energy,
    Engine,
    Format,
    Gguf,
    LlamaBench,
    Model,
    Out,
    Prices,
    Prompt,
    ReportDir,
    Runs,
    Sets,
    Tokens,
    Utilisation,
    document,
    err,
    given_options,
    prices_of,
    system_of,
)
from gempim.cli_run import run, simulate_one
from gempim.cli_serve import Count, Devices, Keys, Lin, Lout, Repeats, compare_serving, serve, serving_options
from gempim.quantity import DataError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Processing-in-memory hardware for LLM inference: tokens/s, J/token and $/1M tokens.",
)
app.command()(run)
app.command()(serve)
app.command()(inspect)
app.command()(diff)
for _name, _sub in (
    ("plugin", plugin_app),
    ("model", model_app),
    ("micro", micro_app),
    ("guest", guest_app),
    ("linux", linux_app),
):
    app.add_typer(_sub, name=_name)


def _version(show: bool) -> None:
    if show:
        from gempim.doctor import versions

        for name, value in versions().items():
            print(f"{name} {value}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print all versions.")
    ] = False,
) -> None:
    del version


@app.command("resolve")
def resolve_system(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[EXPERIMENT.toml]", help="An experiment file; or use --system.")
    ] = None,
    system: Annotated[str, typer.Option("--system", "-s", help="A shipped system or a TOML file.")] = "sail",
    sets: Sets = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The JSON file. Default: stdout.")] = None,
) -> None:
    """The resolved values of a system as one JSON file, for `gem5_configs/run.py --experiment`.

    Example: `gempim resolve --system sail --set system.sram_pim.nbw=3 -o sail.json`
    """
    import json

    from gempim.experiment import load_experiment
    from gempim.resolve import resolved_values

    if file is not None and (given := given_options(ctx, ("system", "sets"))):
        raise DataError(f"{file}: {given[0]} and an experiment file exclude each other: the file says it")
    found = load_experiment(file).system if file is not None else system_of(system, sets)
    text = json.dumps(resolved_values(found), indent=1) + "\n"
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text)
    except OSError as e:
        raise DataError(f"--out {out}: cannot be written: {e.strerror or e}") from None


@app.command()
def compare(
    ctx: typer.Context,
    systems: Annotated[list[str], typer.Argument(metavar="BASELINE SYSTEM...", help="The baseline first.")],
    model: Model = None,
    quant: Annotated[str | None, typer.Option("--quant", "-q", help="ggml types, comma separated.")] = None,
    gguf: Gguf = None,
    batch: Annotated[str, typer.Option("--batch", "-b", help="Batch sizes, comma separated.")] = "1",
    prompt: Prompt = None,
    context: Context = None,
    tokens: Tokens = 16,
    threads: Annotated[str, typer.Option("--threads", "-t", help="Thread counts, comma separated.")] = "16",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="SYSTEM:sram_pim.nbw=4 or, for all, cpu.clock_hz=3e9.")
    ] = None,
    engine: Engine = "embedded",
    runs: Runs = Path("runs"),
    output: Out = Format.md,
    price: Prices = None,
    energy: Energy = None,
    utilisation: Utilisation = 1.0,
    report: ReportDir = None,
    lin: Lin = None,
    lout: Lout = None,
    devices: Devices = 4,
    requests: Count = None,
    llama_bench: LlamaBench = None,
) -> None:
    """Speedup, J/token, $/1M tokens and tokens/$ of systems against a baseline.

    Example: `gempim compare neoverse-n1 sail --model llama-2-7b --quant q2_k,q4_0 --batch 1,8 -o md --report out`

    Example: `gempim compare gpu-h100 gpu-h100@8 --model mixtral-8x7b --batch 32,64 --lin 256,1024 --lout 256`
    """
    from gempim.experiment import resolve
    from gempim.output import print_comparison

    if len(systems) < 2:
        raise DataError("compare: expected a baseline and at least one more system")
    if llama_bench and (report is None or serving_options(ctx)):
        raise DataError("compare: --llama-bench stands in a report of runs: it needs --report, and no serving options")
    if serving_options(ctx):
        compare_serving(
            systems, model, batch=_ints(batch, "--batch"), lin=_ints(lin or "", "--lin"),
            lout=_ints(lout or "", "--lout"), devices=devices, count=requests, sets=sets or [], runs=runs,
            output=output, price=price, energy=energy, utilisation=utilisation, report=report,
        )  # fmt: skip
        return
    quants: list[str | None] = list(quant.split(",")) if quant else [None]
    paths = []
    for q in quants:
        for b in _ints(batch, "--batch"):
            for t in _ints(threads, "--threads"):
                for system in systems:
                    mine = [s.split(":", 1)[-1] for s in sets or [] if ":" not in s or s.split(":", 1)[0] == system]
                    doc = document(system, model, q, gguf, b, prompt, context, tokens, t, mine, engine)
                    paths.append(simulate_one(resolve(doc, origin="command line"), runs))
    print_comparison(
        paths, systems[0], output, prices=prices_of(price), energy=energy, utilisation=utilisation, report=report,
        llama_bench=llama_bench or (),
    )  # fmt: skip


def _ints(text: str, option: str) -> list[int]:
    try:
        return [int(x) for x in text.split(",")]
    except ValueError:
        raise DataError(f"{option} {text}: expected whole numbers, comma separated") from None


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.toml")],
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Worker processes. Default: all cores.")] = None,
    dask: Annotated[
        str | None,
        typer.Option("--dask", help="Scheduler of a Dask cluster that shares the folder of the runs: tcp://HOST:PORT."),
    ] = None,
    runs: Runs = Path("runs"),
    output: Out = Format.md,
    price: Prices = None,
    energy: Energy = None,
    utilisation: Utilisation = 1.0,
    report: ReportDir = None,
) -> None:
    """Simulate the cartesian product of axes; finished runs are kept when it is killed and started again.

    Example: `gempim sweep workloads/sweeps/bits-x-batch.toml -o csv > bits.csv`
    """
    from gempim.output import print_comparison, print_runs
    from gempim.sweep import load_sweep, run_sweep

    plan = load_sweep(file)
    paths = run_sweep(plan, runs, jobs=jobs, dask=dask)
    options: dict[str, Any] = {
        "prices": prices_of(price),
        "energy": energy,
        "utilisation": utilisation,
        "report": report,
    }
    options["extra_keys"] = plan.keys
    if plan.baseline:
        print_comparison(paths, plan.baseline, output, match=plan.match, **options)
    else:
        print_runs(paths, output, **options)


@app.command()
def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("out"),
    baseline: Annotated[str | None, typer.Option("--baseline", help="System that speedups are against.")] = None,
    price: Prices = None,
    energy: Energy = None,
    utilisation: Utilisation = 1.0,
    keys: Keys = None,
    repeats: Repeats = None,
    llama_bench: LlamaBench = None,
) -> None:
    """HTML, Markdown, CSV and JSON report of run directories.

    Example: `gempim report runs/* --baseline neoverse-n1 --out out`

    Example: `gempim report runs/* --repeats experiment.workload.routing_seed --llama-bench bench.json`

    Example: `gempim report runs/serve-* --repeats experiment.requests.seed --baseline gpu-h100`
    """
    from gempim.output import make_report

    index = make_report(
        run_dirs, out, baseline=baseline, prices=prices_of(price), energy=energy, utilisation=utilisation,
        keys=keys or (), repeats=repeats or (), llama_bench=llama_bench or (),
    )  # fmt: skip
    print(index)


@app.command()
def explain(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN")],
    price: Prices = None,
    energy: Energy = None,
    utilisation: Utilisation = 1.0,
) -> None:
    """Where a run's numbers come from: formulas, counts, table rows, sources.

    Example: `gempim explain runs/sail-llama-2-7b-*`
    """
    from gempim.output import explain_run

    print(explain_run(run_dir, prices=prices_of(price), energy=energy, utilisation=utilisation))


@app.command()
def models(
    action: Annotated[str, typer.Argument(help="list or show")] = "list",
    name: Annotated[str | None, typer.Argument(help="A model's name, for show.")] = None,
    output: Out = Format.md,
) -> None:
    """The shipped model shapes, with sources.

    Example: `gempim models show llama-2-7b`
    """
    from gempim.catalogue import model_rows, models_table
    from gempim.output import print_rows

    print_rows(model_rows(_shown(action, name, "models")) if action == "show" else models_table(), output)


@app.command()
def systems(
    action: Annotated[str, typer.Argument(help="list or show")] = "list",
    name: Annotated[str | None, typer.Argument(help="A system's name, for show.")] = None,
    output: Out = Format.md,
) -> None:
    """The shipped systems: every parameter with unit, scope and source.

    Example: `gempim systems show sail`
    """
    from gempim.catalogue import system_rows, systems_table
    from gempim.output import print_rows

    print_rows(system_rows(_shown(action, name, "systems")) if action == "show" else systems_table(), output)


def _shown(action: str, name: str | None, what: str) -> str:
    if name is None:
        raise DataError(f"{what} {action}: expected a name, for example: gempim {what} show NAME")
    return name


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("out"),
    runs: Runs = Path("runs"),
) -> None:
    """A real GGUF and Llama-2-7B on SAIL, its Neoverse-N1 baseline and a V100 roofline: a table and a report.

    Example: `gempim demo --out out`
    """
    from gempim.demo import demo as run_demo

    page = run_demo(out, runs)
    err.print(f"report: {page}", style="green", soft_wrap=True, highlight=False, markup=False)


@app.command()
def fetch() -> None:
    """Download (once) the SmolLM2-135M-Instruct Q4_1 GGUF and print its path.

    Example: `gempim run --system sail --gguf "$(gempim fetch)"`
    """
    from gempim.models.fetch import smollm2_gguf

    print(smollm2_gguf())


@app.command()
def calibrate(
    gem5: Annotated[Path, typer.Option("--gem5", help="gem5.opt, built for Arm.")],
    out: Annotated[Path, typer.Option("--out", help="The TOML file to write.")],
    plugin: Annotated[
        Path | None, typer.Option("--plugin", help="The built plug-in: also measure lutmm, for [pim_host].")
    ] = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="A folder to leave gem5's results in.")] = None,
) -> None:
    """Make the calibration file of the embedded engine's CPU by running llama.cpp's kernels in gem5 (minutes).

    Example: `gempim calibrate --gem5 build/ARM/gem5.opt --out neoverse-n1.toml`
    """
    from gempim.calibrate.asm import AsmError
    from gempim.calibrate.gem5 import write_calibration
    from gempim.calibrate.toolchain import ToolError
    from gempim.engines.gem5_se import find_binary

    try:
        write_calibration(find_binary(gem5), out, plugin=plugin, keep=keep)
    except (ToolError, AsmError) as e:
        raise DataError(f"calibrate: {e}") from None


@app.command()
def doctor() -> None:
    """What is installed, what is missing, and how to get it.

    Example: `gempim doctor`
    """
    from gempim.doctor import check

    ok = True
    for row in check():
        mark = "ok     " if row.ok else ("MISSING" if row.required else "absent ")
        print(f"{mark} {row.name}: {row.found}" + (f"  -> {row.remedy}" if not row.ok else ""))
        ok = ok and (row.ok or not row.required)
    raise typer.Exit(0 if ok else 1)


def main() -> None:
    """Entry point: a DataError is one clear line on stderr and exit status 2; a bug shows its trace."""
    try:
        app()
    except DataError as e:
        err.print(f"gempim: {e}", style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
