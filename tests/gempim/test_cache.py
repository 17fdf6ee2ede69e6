"""Folders that are made once: by one process at a time, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gempim.cache import cache_dir, cached_folder, point_to

MAKER = """
import os, sys, time
from pathlib import Path
from gempim.cache import cached_folder
target, log = Path(sys.argv[1]), Path(sys.argv[2])
def make(out):
    with log.open("a") as f:
        f.write(f"{os.getpid()}\\n")
    for i in range(20):
        (out / str(i)).write_text(str(os.getpid()))
        time.sleep(0.02)
assert len(list(cached_folder(target, make).iterdir())) == 20
"""


def test_processes_that_want_the_same_folder_make_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-P", "-c", MAKER, str(tmp_path / "cache" / "x"), str(log)]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [p.wait(timeout=60) for p in running] == [0, 0, 0, 0]
    (maker,) = log.read_text().splitlines()
    assert {p.read_text() for p in (tmp_path / "cache" / "x").iterdir()} == {maker}
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == [".x.lock", "x"]


def test_a_folder_that_cannot_be_made_leaves_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    target = tmp_path / "x"

    def fail(out: Path) -> None:
        (out / "half").touch()
        (out.parent / "scratch").touch()
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        cached_folder(target, fail)
    assert [p.name for p in tmp_path.iterdir()] == [".x.lock"]
    assert cached_folder(target, lambda out: (out / "whole").touch()) == target
    assert cached_folder(target, fail) == target, "it is there: not made again"
    assert [p.name for p in target.iterdir()] == ["whole"]


def test_a_link_is_moved_to_another_folder(tmp_path: Path) -> None:
    link = tmp_path / "current"
    for name in ("a", "b", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
        point_to(link, tmp_path / name)
        assert os.readlink(link) == name, "by name, so that the whole cache may be moved"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "current"]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "gempim"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "gempim"
