"""The commands `gempim plugin`, `gempim micro` and `gempim guest`: what is compiled for gem5."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gempim.quantity import DataError

plugin_app = typer.Typer(no_args_is_help=True, help="The run-time plug-in for a gem5 of your own.")


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
