"""What the tests of gem5's scripts share: their folder on the path, a cross-compiled guest, a stand-in for gem5."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gempim.doctor import find_gem5

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "gem5_configs"
sys.path.insert(0, str(CONFIGS))


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`guest.c` for AArch64."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("NOT RUN: no aarch64-linux-gnu-gcc (apt-get install gcc-aarch64-linux-gnu)")
    out = tmp_path_factory.mktemp("guest") / "guest.aarch64"
    subprocess.run([compiler, "-O2", "-static", "-pthread", str(HERE / "guest.c"), "-o", str(out)], check=True)
    return out


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    """The smallest file that passes for a static AArch64 program."""
    return make_elf(tmp_path / "guest.elf")


def make_elf(path: Path, *, machine: int = 183, bits: int = 2, segment: int = 1) -> Path:
    """An ELF header with one program header of type `segment`."""
    head = bytearray(64 + 56)
    head[:5] = b"\x7fELF" + bytes([bits])
    head[18:20] = machine.to_bytes(2, "little")
    head[32:40] = (64).to_bytes(8, "little")
    head[54:56] = (56).to_bytes(2, "little")
    head[56:58] = (1).to_bytes(2, "little")
    head[64:68] = segment.to_bytes(4, "little")
    path.write_bytes(head)
    return path


@pytest.fixture
def fake_gem5(tmp_path: Path) -> Path:
    """A stand-in for gem5.opt; what it does is in the environment variable FAKE_GEM5 (see fake_gem5.py)."""
    path = tmp_path / "gem5.opt"
    path.write_text(f"#!{sys.executable}\n" + (HERE / "fake_gem5.py").read_text())
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def gem5() -> Path:
    """The real gem5.opt."""
    found = find_gem5()
    assert found is not None, "tests marked gem5 are skipped without one"
    return found


def run_script(gem5: Path, out: Path, *options: str, timeout: int = 600) -> subprocess.CompletedProcess[str]:
    """Run run.py in gem5 with `out` as its output folder."""
    command = [str(gem5), f"--outdir={out}", "--json-config=", "--dot-config=", str(CONFIGS / "run.py"), *options]
    env = {k: v for k, v in os.environ.items() if k != "GEMPIM_PLUGIN"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=env)
