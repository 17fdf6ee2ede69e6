"""Building the micro programs: the cache, and what happens when something is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gempim.calibrate.toolchain import ToolError
from gempim.quantity import DataError
from gempim.workloads import build


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a copy of the sources that a test may change."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(build.MICRO, tmp_path / "package" / "workloads" / "micro")
    for part in ("isa", "models"):
        shutil.copytree(build.MODELS_ROOT / part, tmp_path / "package" / "src_ext" / part)
    monkeypatch.setattr(build, "MICRO", tmp_path / "package" / "workloads" / "micro")
    monkeypatch.setattr(build, "MODELS_ROOT", tmp_path / "package" / "src_ext")
    return tmp_path / "cache" / "gempim" / "micro"


def _fake_build(kit: object, folder: Path, jobs: int) -> None:
    for name in build.PROGRAMS:
        (folder / name).touch()


def _folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_programs_are_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_build", _fake_build)
    first = build.build_micro(native=True)
    assert sorted(path.name for path in first.iterdir()) == sorted(build.PROGRAMS)
    monkeypatch.setattr(build, "_build", None)
    assert build.build_micro(native=True) == first
    assert _folders(cache) == [first]


@pytest.mark.parametrize("changed", ["workloads/micro/micro.h", "src_ext/isa/lutmm.h", "src_ext/models/ggml/fp16.hh"])
def test_a_changed_source_is_another_build(cache: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    monkeypatch.setattr(build, "_build", _fake_build)
    first = build.build_micro(native=True)
    path = build.MICRO.parent.parent / changed
    path.write_text(path.read_text() + "\n")
    assert build.build_micro(native=True) != first


def test_a_broken_source_leaves_nothing(cache: Path) -> None:
    (build.MICRO / "chase.c").write_text("int main(void) { return oops; }\n")
    for path in [*build.MODELS_ROOT.rglob("*.cc"), *build.MICRO.glob("*.cc"), build.MICRO / "stream.c"]:
        path.write_text("int main() {}\n")  # quick
    with pytest.raises(DataError, match=r"(?s)building the micro programs: compiling chase.c: .*oops"):
        build.build_micro(native=True, jobs=1)
    assert _folders(cache) == []


def test_a_failed_link_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kit: object, folder: Path, jobs: int) -> None:
        (folder / "gemv").touch()
        raise ToolError("linking gemv: no")

    monkeypatch.setattr(build, "_build", fail)
    with pytest.raises(DataError, match="linking gemv: no"):
        build.build_micro(native=True)
    assert _folders(cache) == []


def test_what_is_missing_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"aarch64-linux-gnu-gcc is not on the PATH; .* g\+\+-aarch64-linux-gnu"):
        build.build_micro()
    with pytest.raises(DataError, match=r"cc is not on the PATH; .* gcc and g\+\+"):
        build.build_micro(native=True)
    shutil.rmtree(build.MODELS_ROOT / "isa")
    with pytest.raises(DataError, match=r"sources are incomplete: no folder .*isa"):
        build.build_micro(native=True)
    with pytest.raises(DataError, match="jobs = 0: expected at least 1"):
        build.build_micro(native=True, jobs=0)
