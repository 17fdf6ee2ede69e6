"""The command `gempim`. Results go to stdout in the format asked for; progress and messages go to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from tqdm import tqdm

from gempim.cli_model import model_app
from gempim.quantity import DataError

if TYPE_CHECKING:
    from gempim.systems import System

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Processing-in-memory hardware for LLM inference: tokens/s, J/token and $/1M tokens.",
)
err = Console(stderr=True)

_GEM5 = "Engine gem5-se"
"""Panel of the options of the engine gem5-se in `gempim run --help`."""
_LLAMA = "Engine gem5-se with --gguf"
"""Panel of the options of llama.cpp in gem5."""


class Format(StrEnum):
    """Table formats, as in llama-bench."""

    md = "md"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"


Model = Annotated[str | None, typer.Option("--model", "-m", help="A shipped model shape (`gempim models`).")]
Quant = Annotated[str | None, typer.Option("--quant", "-q", help="ggml type of the weights, for example q4_0.")]
Gguf = Annotated[
    Path | None, typer.Option("--gguf", help="A GGUF file of the Llama family instead of --model and --quant.")
]
Batch = Annotated[int, typer.Option("--batch", "-b", help="Sequences decoded together.")]
Prompt = Annotated[int | None, typer.Option("--prompt", "-p", help="Tokens to prefill; 0 skips. Default: the context.")]
Context = Annotated[
    int | None, typer.Option("--context", "-d", help="Tokens in the KV cache when decoding starts. Default: 512.")
]
Tokens = Annotated[int, typer.Option("--tokens", "-n", help="Tokens to decode; 0 skips.")]
Threads = Annotated[int, typer.Option("--threads", "-t", help="Threads on the host CPU.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="A system parameter: system.sram_pim.nbw=4. Repeatable.")]
Engine = Annotated[str, typer.Option("--engine", help="Engine: embedded.")]
RunEngine = Annotated[
    str, typer.Option("--engine", help="Engine: embedded, or gem5-se: llama.cpp on --gguf, or --binary, in gem5.")
]
RunPrompt = Annotated[
    str | None,
    typer.Option(
        "--prompt", "-p", help="Tokens to prefill; 0 skips. Default: the context. With gem5-se: the text to go on with."
    ),
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the run directories.")]
Out = Annotated[Format, typer.Option("-o", "--output", help="Format on stdout.")]
Prices = Annotated[
    list[str] | None, typer.Option("--price", help="Override a price: aws-p3-2xlarge.usd_per_hour=2.0. Repeatable.")
]
Energy = Annotated[str | None, typer.Option("--energy", help="Energy table: a shipped name or a TOML file.")]
Utilisation = Annotated[
    float, typer.Option("--utilisation", help="Share of the paid time that serves tokens.", min=0.01, max=1.0)
]
ReportDir = Annotated[Path | None, typer.Option("--report", help="Also write the HTML report into this folder.")]


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


def _pairs(items: list[str] | None, option: str) -> dict[str, str]:
    out = {}
    for item in items or []:
        key, eq, value = item.partition("=")
        if not eq or not key or not value:
            raise DataError(f"{option} {item}: expected KEY=VALUE")
        out[key] = value
    return out


def _prices(items: list[str] | None) -> dict[str, float]:
    from gempim.analysis.cost import parse_overrides

    return parse_overrides(items or [])


def _document(
    system: str, model: str | None, quant: str | None, gguf: Path | None, batch: int, prompt: int | None,
    context: int | None, tokens: int, threads: int, sets: list[str] | None, engine: str,
) -> dict[str, Any]:  # fmt: skip
    context = 512 if context is None else context
    choice: dict[str, Any] = {}
    if model is not None:
        choice["name"] = model
    if quant is not None:
        choice["quant"] = quant
    if gguf is not None:
        choice["gguf"] = str(gguf)
    return {
        "experiment": {"system": system, "engine": engine},
        "model": choice,
        "workload": {
            "batch": batch,
            "prompt": context if prompt is None else prompt,
            "context": context,
            "tokens": tokens,
            "threads": threads,
        },
        "set": dict(_pairs(sets, "--set")),
    }


def _progress_bar(text: str) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    bar = tqdm(total=0, desc=text, file=sys.stderr, unit="step", leave=False)

    def step(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return step, bar.close


def _simulate(experiment: Any, runs: Path) -> Path:
    from gempim.simulate import simulate

    step, close = _progress_bar(experiment.slug())
    try:
        path = simulate(experiment, runs, command=list(sys.argv), progress=step)
    finally:
        close()
    err.print(f"run: {path}", style="dim", soft_wrap=True, highlight=False)
    return path


_IN_FILE = ("system", "model", "quant", "gguf", "batch", "prompt", "context", "tokens", "threads", "sets", "engine")
"""Parameters of `run` that an experiment file has keys for."""

_MODEL_ONLY = ("file", "model", "quant", "gguf", "batch", "prompt", "context", "tokens", "threads", "price", "energy",
               "utilisation", "report")  # fmt: skip
"""Parameters of `run` that the engine gem5-se does not have when it runs --binary, a program and not a model."""

_BINARY_ONLY = ("binary", "args", "cores", "fast_forward", "max_ticks", "stop_after_roi", "restore", "allow_idle_pim")
"""Parameters of `run` that go with --binary only."""

_LLAMA_ONLY = ("sample", "sample_passes", "warmup_regions", "flash_attn", "ignore_eos")
"""Parameters of `run` that go with the engine gem5-se and --gguf only."""

_GUEST_ONLY = (*_BINARY_ONLY, "cpu", "caches", "mem_size", "gem5", "plugin", *_LLAMA_ONLY)
"""Parameters of `run` that only the engine gem5-se has."""

_NOT_LLAMA = ("file", "model", "quant", "batch", *_BINARY_ONLY)
"""Parameters of `run` that llama.cpp in gem5 does not have."""


def _given(ctx: typer.Context, names: tuple[str, ...]) -> list[str]:
    """Those of the parameters that were given, as options."""
    # By its name: newer typer brings its own copy of click, whose enum is another one.
    sources = {name: ctx.get_parameter_source(name) for name in names}
    found = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    return ["EXPERIMENT.toml" if n == "file" else "--" + ("set" if n == "sets" else n.replace("_", "-")) for n in found]


@app.command()
def run(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[EXPERIMENT.toml]", help="An experiment file; or use the options.")
    ] = None,
    system: Annotated[str, typer.Option("--system", "-s", help="A shipped system or a TOML file.")] = "sail",
    model: Model = None,
    quant: Quant = None,
    gguf: Gguf = None,
    batch: Batch = 1,
    prompt: RunPrompt = None,
    context: Context = None,
    tokens: Tokens = 16,
    threads: Threads = 16,
    sets: Sets = None,
    engine: RunEngine = "embedded",
    runs: Runs = Path("runs"),
    output: Out = Format.md,
    price: Prices = None,
    energy: Energy = None,
    utilisation: Utilisation = 1.0,
    report: ReportDir = None,
    binary: Annotated[
        Path | None, typer.Option("--binary", help="The guest: a static AArch64 program.", rich_help_panel=_GEM5)
    ] = None,
    args: Annotated[str, typer.Option("--args", help="Its arguments, in quotes.", rich_help_panel=_GEM5)] = "",
    cpu: Annotated[
        str,
        typer.Option("--cpu", help="atomic_noncaching, atomic, timing, minor or o3.", rich_help_panel=_GEM5),
    ] = "o3",
    cores: Annotated[int, typer.Option("--cores", help="Simulated cores.", rich_help_panel=_GEM5)] = 1,
    caches: Annotated[str, typer.Option("--caches", help="n1 or none.", rich_help_panel=_GEM5)] = "n1",
    mem_size: Annotated[
        str, typer.Option("--mem-size", help="Simulated memory, in MiB or GiB.", rich_help_panel=_GEM5)
    ] = "4GiB",
    gem5: Annotated[
        Path | None, typer.Option("--gem5", help="gem5.opt. Default: the one on the PATH.", rich_help_panel=_GEM5)
    ] = None,
    plugin: Annotated[
        Path | None, typer.Option("--plugin", help="The built plug-in. Default: $GEMPIM_PLUGIN.", rich_help_panel=_GEM5)
    ] = None,
    fast_forward: Annotated[
        bool, typer.Option("--fast-forward", help="Fastest CPU until the first region.", rich_help_panel=_GEM5)
    ] = False,
    max_ticks: Annotated[
        int | None, typer.Option("--max-ticks", help="Fail after this many simulated ps.", rich_help_panel=_GEM5)
    ] = None,
    stop_after_roi: Annotated[
        int | None,
        typer.Option("--stop-after-roi", help="End when this region (from 0) has ended.", rich_help_panel=_GEM5),
    ] = None,
    restore: Annotated[
        Path | None, typer.Option("--restore", help="Start from a checkpoint of run.py.", rich_help_panel=_GEM5)
    ] = None,
    allow_idle_pim: Annotated[
        bool,
        typer.Option("--allow-idle-pim", help="Accept a guest that leaves the PIM idle.", rich_help_panel=_GEM5),
    ] = False,
    sample: Annotated[
        str,
        typer.Option(
            "--sample",
            help="What is simulated in detail: a few layers, all (layers), none (left out).",
            rich_help_panel=_LLAMA,
        ),
    ] = "layers",
    sample_passes: Annotated[
        str,
        typer.Option(
            "--sample-passes",
            help="Of these passes: prefill, first, middle, last or numbers, comma separated.",
            rich_help_panel=_LLAMA,
        ),
    ] = "last",
    warmup_regions: Annotated[
        int, typer.Option("--warmup-regions", help="Layers run before a measured one.", rich_help_panel=_LLAMA)
    ] = 1,
    flash_attn: Annotated[
        str, typer.Option("--flash-attn", help="auto, on or off, as in llama.cpp.", rich_help_panel=_LLAMA)
    ] = "auto",
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on after the end of the text.", rich_help_panel=_LLAMA)
    ] = False,
) -> None:
    """Simulate one experiment and print its rates; or run llama.cpp or another program in gem5.

    Example: `gempim run --system sail --model llama-2-7b --quant q4_0 --batch 1 --context 512 --tokens 16 --threads 16`

    Example: `gempim run --engine gem5-se --system sail --gguf FILE.gguf --prompt "Once upon" --tokens 8 --threads 4`

    Example: `gempim run --engine gem5-se --system sail --binary gemv.aarch64 --args "-t q4_0" --cpu o3 --cores 4`
    """
    from gempim.experiment import load_experiment, resolve
    from gempim.output import print_runs

    if engine == "gem5-se" and gguf is not None and binary is None:
        from gempim.cli_llama import generate
        from gempim.engines.llama import LlamaRequest

        if given := _given(ctx, _NOT_LLAMA):
            raise DataError(f"--engine gem5-se --gguf: {given[0]} does not go with it")
        if prompt is None:
            raise DataError('--engine gem5-se --gguf: --prompt "TEXT" is missing: the text that the model goes on with')
        request = LlamaRequest(
            gguf=gguf, prompt=prompt, tokens=tokens, threads=threads if _given(ctx, ("threads",)) else 1, cpu=cpu,
            sample=sample, sample_passes=sample_passes, warmup=warmup_regions, context=context or 0,
            flash_attn=flash_attn, ignore_eos=ignore_eos, caches=caches,
            mem_size=mem_size if _given(ctx, ("mem_size",)) else "",
        )  # fmt: skip
        generate(
            request, _system(system, sets), runs, output, gem5=gem5, plugin=plugin, prices=_prices(price),
            energy=energy, utilisation=utilisation, report=report,
        )  # fmt: skip
        return
    if engine == "gem5-se":
        if given := _given(ctx, _LLAMA_ONLY):
            raise DataError(f"--engine gem5-se: {given[0]} goes with --gguf")
        if given := _given(ctx, _MODEL_ONLY):
            raise DataError(f"--engine gem5-se runs a program, not a model: {given[0]} does not go with it")
        if binary is None:
            raise DataError(
                "--engine gem5-se: --binary GUEST is missing: a statically linked AArch64 Linux program; or --gguf FILE"
                ' and --prompt "TEXT", for llama.cpp'
            )
        from gempim.engines.gem5_se import Gem5Options, region_rows, run_gem5_se, split_args
        from gempim.output import print_rows

        options = Gem5Options(
            binary=binary, args=split_args(args), cpu=cpu, cores=cores, caches=caches, mem_size=mem_size,
            fast_forward=fast_forward, max_ticks=max_ticks, stop_after_roi=stop_after_roi, restore=restore,
        )  # fmt: skip
        path = run_gem5_se(
            _system(system, sets), options, runs,
            gem5=gem5, plugin=plugin, allow_idle_pim=allow_idle_pim, command=list(sys.argv),
        )  # fmt: skip
        err.print(f"run: {path}", style="dim", soft_wrap=True, highlight=False)
        print_rows(region_rows(path), output)
        return
    if given := _given(ctx, _GUEST_ONLY):
        raise DataError(f"{given[0]} goes with --engine gem5-se")
    if file is not None:
        if given := _given(ctx, _IN_FILE):
            raise DataError(f"{file}: {given[0]} and an experiment file exclude each other: the file says it")
        experiment = load_experiment(file)
    else:
        doc = _document(
            system, model, quant, gguf, batch, _prompt_tokens(prompt), context, tokens, threads, sets, engine
        )
        experiment = resolve(doc, origin="command line")
    path = _simulate(experiment, runs)
    print_runs([path], output, prices=_prices(price), energy=energy, utilisation=utilisation, report=report)


def _prompt_tokens(text: str | None) -> int | None:
    """The number of tokens to prefill, for engines that need no text."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise DataError(
            f"--prompt {text!r}: expected a number of tokens; a text goes with --engine gem5-se --gguf FILE"
        ) from None


def _system(name: str, sets: list[str] | None) -> System:
    """A system with its overrides from the command line."""
    from gempim.systems import load_system

    system = load_system(name)
    for key, value in _pairs(sets, "--set").items():
        system = system.with_override(key.removeprefix("system."), value, origin="--set")
    return system


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

    if file is not None and (given := _given(ctx, ("system", "sets"))):
        raise DataError(f"{file}: {given[0]} and an experiment file exclude each other: the file says it")
    found = load_experiment(file).system if file is not None else _system(system, sets)
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
) -> None:
    """Speedup, J/token, $/1M tokens and tokens/$ of systems against a baseline.

    Example: `gempim compare neoverse-n1 sail --model llama-2-7b --quant q2_k,q4_0 --batch 1,8 -o md --report out`
    """
    from gempim.experiment import resolve
    from gempim.output import print_comparison

    if len(systems) < 2:
        raise DataError("compare: expected a baseline and at least one more system")
    quants: list[str | None] = list(quant.split(",")) if quant else [None]
    paths = []
    for q in quants:
        for b in _ints(batch, "--batch"):
            for t in _ints(threads, "--threads"):
                for system in systems:
                    mine = [s.split(":", 1)[-1] for s in sets or [] if ":" not in s or s.split(":", 1)[0] == system]
                    doc = _document(system, model, q, gguf, b, prompt, context, tokens, t, mine, engine)
                    paths.append(_simulate(resolve(doc, origin="command line"), runs))
    print_comparison(
        paths, systems[0], output, prices=_prices(price), energy=energy, utilisation=utilisation, report=report
    )


def _ints(text: str, option: str) -> list[int]:
    try:
        return [int(x) for x in text.split(",")]
    except ValueError:
        raise DataError(f"{option} {text}: expected whole numbers, comma separated") from None


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.toml")],
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Worker processes. Default: all cores.")] = None,
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
    paths = run_sweep(plan, runs, jobs=jobs)
    options: dict[str, Any] = {"prices": _prices(price), "energy": energy, "utilisation": utilisation, "report": report}
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
) -> None:
    """HTML, Markdown, CSV and JSON report of run directories.

    Example: `gempim report runs/* --baseline neoverse-n1 --out out`
    """
    from gempim.output import make_report

    index = make_report(run_dirs, out, baseline=baseline, prices=_prices(price), energy=energy, utilisation=utilisation)
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

    print(explain_run(run_dir, prices=_prices(price), energy=energy, utilisation=utilisation))


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


plugin_app = typer.Typer(no_args_is_help=True, help="The run-time plug-in for a gem5 of your own.")
app.add_typer(plugin_app, name="plugin")
app.add_typer(model_app, name="model")


@plugin_app.callback()
def _plugin() -> None:
    """The run-time plug-in for a gem5 of your own."""


@plugin_app.command("build")
def plugin_build(
    gem5: Annotated[Path | None, typer.Option("--gem5", help="gem5.opt. Default: the one on the PATH.")] = None,
    source: Annotated[
        Path | None, typer.Option("--gem5-source", help="gem5's source folder. Default: above the binary.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Compilations at a time. Default: all cores.")
    ] = None,
) -> None:
    """Build the plug-in for a gem5 binary (once: it is cached) and print its folder.

    Example: `gempim plugin build --gem5 build/ARM/gem5.opt`
    """
    from gempim.plugin import build

    print(build(gem5, source, jobs=jobs))


micro_app = typer.Typer(no_args_is_help=True, help="The guest microbenchmarks of workloads/micro.")
app.add_typer(micro_app, name="micro")


@micro_app.callback()
def _micro() -> None:
    """The guest microbenchmarks of workloads/micro."""


@micro_app.command("build")
def micro_build(
    native: Annotated[
        bool, typer.Option("--native", help="For this machine, with the device in software, instead of AArch64.")
    ] = False,
) -> None:
    """Compile the guest programs (once: they are cached) and print their folder.

    Example: `gempim run --engine gem5-se --binary "$(gempim micro build)/gemv" --args "--type q4_0 --path lutmm --m5"`
    """
    from gempim.workloads.build import build_micro

    print(build_micro(native))


guest_app = typer.Typer(no_args_is_help=True, help="llama.cpp as the guest of workloads/llama.")
app.add_typer(guest_app, name="guest")


@guest_app.callback()
def _guest() -> None:
    """llama.cpp as the guest of workloads/llama."""


@guest_app.command("build")
def guest_build(
    isa: Annotated[str, typer.Option("--isa", help="Instruction set of the simulated machine: aarch64.")] = "aarch64",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Compilations at a time. Default: all cores.")
    ] = None,
) -> None:
    """Cross-compile llama.cpp with the lutmm backend and a driver (once: it is cached) and print the program's path.

    Example: `gempim guest build`
    """
    from gempim.workloads.guest import ISAS, PROGRAM, build_guest

    if isa not in ISAS:
        raise DataError(f"--isa {isa}: expected one of {', '.join(ISAS)}")
    print(build_guest(jobs=jobs) / PROGRAM)


@guest_app.command(
    "native", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def guest_native(ctx: typer.Context) -> None:
    """Build the same program for this machine, with the PIM in software, and run it with the arguments given here.

    Example: `gempim guest native --model "$(gempim fetch)" --prompt "Once upon a time" --tokens 16 --device lutmm`
    """
    import os

    from gempim.workloads.guest import PROGRAM, build_guest

    program = build_guest(native=True) / PROGRAM
    os.execv(program, [str(program), *ctx.args])


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
