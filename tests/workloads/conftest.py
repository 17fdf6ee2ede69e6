"""The micro programs, built once for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gempim.quantity import DataError
from gempim.workloads.build import build_micro

Run = Callable[..., "subprocess.CompletedProcess[str]"]

EMULATOR = "qemu-aarch64-static"


def _runner(folder: Path, prefix: tuple[str, ...] = ()) -> Run:
    def run(program: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [*prefix, str(folder / program), *map(str, args)]
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300, check=False
        )

    return run


@pytest.fixture(scope="session")
def native() -> Run:
    """Runs a program of the native build: run("gemv", "--m", 3, GEMPIM_SRAM_PIM="nbw=2")."""
    return _runner(build_micro(native=True))


@pytest.fixture(scope="session")
def cross_folder() -> Path:
    """The AArch64 programs."""
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("no aarch64-linux-gnu-g++ (Debian package g++-aarch64-linux-gnu): NO AArch64 PROGRAM WAS BUILT")
    try:
        return build_micro()
    except DataError as error:
        if "downloading" not in str(error):
            raise
        pytest.skip(f"NO AArch64 PROGRAM WAS BUILT: {error}")


@pytest.fixture(scope="session")
def cross(cross_folder: Path) -> Run:
    """Runs an AArch64 program under user-mode emulation."""
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"no {EMULATOR} (Debian package qemu-user-static): NO AArch64 PROGRAM WAS RUN")
    return _runner(cross_folder, (EMULATOR,))
