"""`gempim run --engine gem5-fs`: a program or a script under Linux in gem5."""

from __future__ import annotations

import sys
from pathlib import Path

from gempim.cli_options import Format, err
from gempim.engines.gem5_fs import FullSystemOptions, host_file, run_gem5_fs
from gempim.engines.gem5_se import region_rows, split_args
from gempim.systems import System


def run_under_linux(
    system: System,
    runs: Path,
    output: Format,
    *,
    script: Path | None,
    binary: Path | None,
    args: str,
    files: list[str] | None,
    linux: Path | None,
    cpu: str,
    cores: int,
    caches: str,
    mem_size: str,
    fast_forward: bool,
    max_ticks: int | None,
    stop_after_roi: int | None,
    hang_after: float | None,
    restore: Path | None,
    gem5: Path | None,
    plugin: Path | None,
    allow_idle_pim: bool,
) -> None:
    """Run, and print one row a region. Parameters are the options of the command.

    :raises DataError: as :func:`run_gem5_fs`, and when what `gempim linux build` makes cannot be made
    """
    from gempim.output import print_rows
    from gempim.workloads.linux.build import build_linux

    options = FullSystemOptions(
        linux=linux if linux is not None else build_linux(),
        script=script, binary=binary, args=split_args(args), files=tuple(host_file(text) for text in files or []),
        cpu=cpu, cores=cores, caches=caches, mem_size=mem_size, fast_forward=fast_forward, max_ticks=max_ticks,
        stop_after_roi=stop_after_roi, hang_after=hang_after, restore=restore,
    )  # fmt: skip
    path = run_gem5_fs(
        system, options, runs, gem5=gem5, plugin=plugin, allow_idle_pim=allow_idle_pim, command=list(sys.argv)
    )
    sys.stderr.write((path / "guest.out").read_text(errors="replace"))
    err.print(f"run: {path}", style="dim", soft_wrap=True, highlight=False)
    print_rows(region_rows(path), output)
