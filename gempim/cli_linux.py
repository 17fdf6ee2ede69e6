"""The commands `gempim linux`: what a boot in gem5's full system needs, and the boot itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

linux_app = typer.Typer(no_args_is_help=True, help="Linux for gem5's full system: kernel, boot stub, initramfs.")


@linux_app.callback()
def _linux() -> None:
    """Linux for gem5's full system: kernel, boot stub, initramfs."""


@linux_app.command("build")
def linux_build(
    mirror: Annotated[
        str | None,
        typer.Option("--mirror", help="A Debian mirror. Default: $GEMPIM_DEBIAN_MIRROR, then Debian's own."),
    ] = None,
    packages: Annotated[
        Path | None, typer.Option("--packages", help="A folder that holds the two Debian packages: no download.")
    ] = None,
    kernel: Annotated[
        Path | None, typer.Option("--kernel", help="An arm64 kernel Image of your own instead of Debian's.")
    ] = None,
) -> None:
    """Make what a boot in gem5 needs (once: it is cached) and print its folder. Needs no root.

    Example: `gempim linux build`
    """
    from gempim.workloads.linux.build import build_linux

    print(build_linux(mirror, packages, kernel))
