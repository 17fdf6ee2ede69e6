"""The command `gempim run`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from gempim.cli_options import (
    Batch,
    Context,
    Energy,
    Format,
    Gguf,
    Model,
    Out,
    Prices,
    Quant,
    ReportDir,
    Runs,
    Sets,
    Threads,
    Tokens,
    Utilisation,
    document,
    err,
    given_options,
    prices_of,
    system_of,
)
from gempim.quantity import DataError

_GEM5 = "Engine gem5-se"
"""Panel of the options of the engine gem5-se in `gempim run --help`."""
_LINUX = "Engine gem5-fs"
"""Panel of the options of Linux in gem5; those of gem5-se go with it as well."""
_LLAMA = "Engine gem5-se with --gguf"
"""Panel of the options of llama.cpp in gem5."""

RunEngine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="Engine: embedded; gem5-se: llama.cpp on --gguf, or --binary, in gem5; gem5-fs: --binary or --script under"
        " Linux in gem5.",
    ),
]
RunPrompt = Annotated[
    str | None,
    typer.Option(
        "--prompt", "-p", help="Tokens to prefill; 0 skips. Default: the context. With gem5-se: the text to go on with."
    ),
]


def _progress_bar(text: str) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    bar = tqdm(total=0, desc=text, file=sys.stderr, unit="step", leave=False)

    def step(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return step, bar.close


def simulate_one(experiment: Any, runs: Path) -> Path:
    """The run directory of a resolved experiment, simulated unless it is there."""
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

_LINUX_ONLY = ("script", "files", "linux", "hang_after")
"""Parameters of `run` that only the engine gem5-fs has."""

_GUEST_ONLY = (*_BINARY_ONLY, "cpu", "caches", "mem_size", "gem5", "plugin", *_LLAMA_ONLY, *_LINUX_ONLY)
"""Parameters of `run` that only the engines in gem5 have."""

_NOT_LLAMA = ("file", "model", "quant", "batch", *_BINARY_ONLY)
"""Parameters of `run` that llama.cpp in gem5 does not have."""


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
    script: Annotated[
        Path | None, typer.Option("--script", help="A shell script instead of --binary.", rich_help_panel=_LINUX)
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--file", help="A file for the guest's /work: FILE[=NAME]. Repeatable.", rich_help_panel=_LINUX),
    ] = None,
    linux: Annotated[
        Path | None,
        typer.Option("--linux", help="Made by `gempim linux build`. Default: the cache's.", rich_help_panel=_LINUX),
    ] = None,
    hang_after: Annotated[
        float | None,
        typer.Option("--hang-after", help="Fail when idle for these simulated seconds.", rich_help_panel=_LINUX),
    ] = None,
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

    Example: `gempim run --engine gem5-fs --system sail --script run.sh --file gemv.aarch64 --cpu timing --cores 4`
    """
    from gempim.experiment import load_experiment, resolve
    from gempim.output import print_runs

    if engine != "gem5-fs" and (given := given_options(ctx, _LINUX_ONLY)):
        raise DataError(f"{given[0]} goes with --engine gem5-fs")
    if engine == "gem5-fs":
        from gempim.cli_fs import run_under_linux

        if given := given_options(ctx, (*_MODEL_ONLY, *_LLAMA_ONLY)):
            raise DataError(f"--engine gem5-fs runs a script or a program, not a model: {given[0]} does not go with it")
        run_under_linux(
            system_of(system, sets), runs, output, script=script, binary=binary, args=args, files=files, linux=linux,
            cpu=cpu, cores=cores, caches=caches, mem_size=mem_size if given_options(ctx, ("mem_size",)) else "1GiB",
            fast_forward=fast_forward, max_ticks=max_ticks, stop_after_roi=stop_after_roi, hang_after=hang_after,
            restore=restore, gem5=gem5, plugin=plugin, allow_idle_pim=allow_idle_pim,
        )  # fmt: skip
        return
    if engine == "gem5-se" and gguf is not None and binary is None:
        from gempim.cli_llama import generate
        from gempim.engines.llama import LlamaRequest

        if given := given_options(ctx, _NOT_LLAMA):
            raise DataError(f"--engine gem5-se --gguf: {given[0]} does not go with it")
        if prompt is None:
            raise DataError('--engine gem5-se --gguf: --prompt "TEXT" is missing: the text that the model goes on with')
        request = LlamaRequest(
            gguf=gguf, prompt=prompt, tokens=tokens, cpu=cpu,
            threads=threads if given_options(ctx, ("threads",)) else 1,
            sample=sample, sample_passes=sample_passes, warmup=warmup_regions, context=context or 0,
            flash_attn=flash_attn, ignore_eos=ignore_eos, caches=caches,
            mem_size=mem_size if given_options(ctx, ("mem_size",)) else "",
        )  # fmt: skip
        generate(
            request, system_of(system, sets), runs, output, gem5=gem5, plugin=plugin, prices=prices_of(price),
            energy=energy, utilisation=utilisation, report=report,
        )  # fmt: skip
        return
    if engine == "gem5-se":
        if given := given_options(ctx, _LLAMA_ONLY):
            raise DataError(f"--engine gem5-se: {given[0]} goes with --gguf")
        if given := given_options(ctx, _MODEL_ONLY):
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
            system_of(system, sets), options, runs,
            gem5=gem5, plugin=plugin, allow_idle_pim=allow_idle_pim, command=list(sys.argv),
        )  # fmt: skip
        err.print(f"run: {path}", style="dim", soft_wrap=True, highlight=False)
        print_rows(region_rows(path), output)
        return
    if given := given_options(ctx, _GUEST_ONLY):
        raise DataError(f"{given[0]} goes with --engine gem5-se")
    if file is not None:
        if given := given_options(ctx, _IN_FILE):
            raise DataError(f"{file}: {given[0]} and an experiment file exclude each other: the file says it")
        experiment = load_experiment(file)
    else:
        doc = document(
            system, model, quant, gguf, batch, _prompt_tokens(prompt), context, tokens, threads, sets, engine
        )
        experiment = resolve(doc, origin="command line")
    path = simulate_one(experiment, runs)
    print_runs([path], output, prices=prices_of(price), energy=energy, utilisation=utilisation, report=report)


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
