"""Style that a machine can check: ruff, mypy, clang-format, and the arrows between rooms that must never exist."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ["gempim", "analysis", "tests", "workloads", "gem5_configs", "src_ext"]


def _run(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: pip install '.[test]'")
    return found


def test_ruff() -> None:
    _run(_tool("ruff"), "check", *PYTHON)
    _run(_tool("ruff"), "format", "--check", *PYTHON)


def test_mypy(tmp_path: Path) -> None:
    """The distribution as it is installed: the top-level folders mapped into one package."""
    package = tmp_path / "gempim"
    package.mkdir()
    for entry in (ROOT / "gempim").iterdir():
        (package / entry.name).symlink_to(entry)
    for folder in ("analysis", "workloads"):
        (package / folder).symlink_to(ROOT / folder)
    _run(_tool("mypy"), "--config-file", str(ROOT / "pyproject.toml"), "-p", "gempim", cwd=tmp_path)


def test_clang_format() -> None:
    folders = (ROOT / "src_ext", ROOT / "workloads", ROOT / "gempim" / "calibrate" / "guest")
    sources = [str(p) for f in folders for p in sorted(f.rglob("*")) if p.suffix in (".c", ".cc", ".cpp", ".hh", ".h")]
    assert sources
    _run(_tool("clang-format"), "--dry-run", "--Werror", *sources)


def _imports(path: Path) -> set[str]:
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            out |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return out


def test_analysis_reads_run_directories_only() -> None:
    """design: analysis must not know the engines, the models or the lowering, so that it serves gem5 runs as well."""
    forbidden = re.compile(r"gempim\.(_engine|engines|lowering|models|simulate|experiment|systems)\b")
    for path in (ROOT / "analysis").rglob("*.py"):
        bad = [i for i in _imports(path) if forbidden.match(i)]
        assert not bad, f"{path}: {bad}"


def test_device_models_know_only_isa_and_the_standard_library() -> None:
    """design: a device model knows nothing of gem5, Python or files, so that both hosts drive the same class."""
    for path in [*(ROOT / "src_ext/models").rglob("*.hh"), *(ROOT / "src_ext/models").rglob("*.cc")]:
        text = path.read_text()
        for quoted in re.findall(r'#include "([^"]+)"', text):
            assert quoted.startswith(("models/", "isa/")), f"{path}: {quoted}"
        for angled in re.findall(r"#include <([^>]+)>", text):
            assert "/" not in angled, f"{path}: {angled}"
            assert angled not in ("fstream", "filesystem", "iostream"), (
                f"{path}: {angled}: no file I/O in a device model"
            )


def test_only_text_is_tracked() -> None:
    """No build product or download slips into a commit: every tracked file is text or a figure, at most 1 MiB."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: nothing is tracked")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            data = path.read_bytes()
            assert b"\0" not in data or path.suffix == ".png", f"{name} is binary"
            assert len(data) <= 1 << 20, f"{name} has {len(data)} bytes"
