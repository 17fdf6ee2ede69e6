"""gem5_configs/ runs inside gem5: an older Python without packages, and no part of gempim on the path."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import CONFIGS

FILES = sorted(p for p in CONFIGS.rglob("*.py"))
OWN = {"components", "gempim_gem5", "gempim_plugin", "simulation", "simulation_fs", "spec"}
GEM5 = {"gem5", "m5", "_m5"}
NEWER = {"tomllib"}
"""Modules of the standard library that only newer Pythons have; the code must do without."""


def _imported(path: Path) -> set[str]:
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            out.add(node.module.partition(".")[0])
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(CONFIGS).as_posix())
def test_python_3_8_and_nothing_installed(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))
    foreign = _imported(path) - OWN - GEM5 - NEWER - set(sys.stdlib_module_names)
    assert not foreign
    if path.parent.name == "spec" or path.name == "run.py":
        assert "m5" not in _imported(path) or path.name == "run.py", "options and geometry are checked without gem5"


def test_ruff() -> None:
    beside = Path(sys.executable).parent / "ruff"
    ruff = str(beside) if beside.exists() else shutil.which("ruff")
    assert ruff, "pip install '.[test]'"
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *command, "--no-cache", str(CONFIGS)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_types_of_what_needs_no_gem5(tmp_path: Path) -> None:
    mypy = Path(sys.executable).parent / "mypy"
    config = CONFIGS.parent / "pyproject.toml"
    command = [str(mypy), f"--config-file={config}", f"--cache-dir={tmp_path}", "-p", "spec"]
    done = subprocess.run(command, cwd=CONFIGS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
