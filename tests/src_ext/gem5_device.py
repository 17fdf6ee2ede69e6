"""Runs guest programs on the SRAM-PIM in gem5, for tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gempim.analysis.stats import Section, parse_stats
from gempim.engines.gem5_se import config_folder, pim_counters
from gempim.resolve import resolved_values
from gempim.rundir import write_json
from gempim.systems import load_system


@dataclass(frozen=True)
class Run:
    """What a run of gem5 left behind."""

    folder: Path
    status: int
    log: str

    def sections(self) -> list[Section]:
        """One a region of interest."""
        return parse_stats(self.folder / "stats.txt")

    def pim(self) -> list[dict[str, Any]]:
        """The device's counters in each region."""
        found = [pim_counters(section) for section in self.sections()]
        return [counters for counters in found if counters is not None]


@dataclass(frozen=True)
class Gem5:
    """A gem5 with the plug-in, and the micro programs."""

    binary: Path
    plugin: Path
    micro: Path

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the shipped system's SRAM-PIM."""
        return load_system("sail").values("sram_pim")

    def run(
        self, folder: Path, program: str, *args: object, system: str = "sail", cpu: str = "atomic", cores: int = 1,
        caches: str = "n1", sets: Mapping[str, Any] | None = None, options: tuple[str, ...] = (), out: str = "m5out",
        check: bool = True, timeout: int = 900,
    ) -> Run:  # fmt: skip
        """Run a micro program under run.py; a run that fails is an assertion with the log's end unless check=False."""
        resolved = load_system(system)
        for key, value in (sets or {}).items():
            resolved = resolved.with_override(key, value, origin="test")
        write_json(folder / "system.json", resolved_values(resolved))
        command = [
            self.binary, f"--outdir={folder / out}", "--json-config=", "--dot-config=", config_folder() / "run.py",
            f"--experiment={folder / 'system.json'}", f"--plugin={self.plugin}", f"--cpu={cpu}", f"--cores={cores}",
            f"--caches={caches}", f"--binary={self.micro / program}", *options, "--args", *args, "--m5",
        ]  # fmt: skip
        done = subprocess.run(
            [str(c) for c in command], capture_output=True, text=True, timeout=timeout, check=False,
            env={k: v for k, v in os.environ.items() if k != "GEMPIM_PLUGIN"},
        )  # fmt: skip
        log = done.stdout + done.stderr
        assert not check or done.returncode == 0, log[-3000:]
        return Run(folder / out, done.returncode, log)
