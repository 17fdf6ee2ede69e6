"""A run directory is complete or it is not there: what a crash, a second process or a damaged file must not do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gempim.quantity import DataError
from gempim.rundir import is_complete, write_json, write_run


def _fill(tag: str):
    def fill(folder: Path) -> None:
        (folder / "stats.txt").write_text(tag)
        (folder / "roi.jsonl").write_text(tag)
        write_json(folder / "manifest.json", {"status": "complete", "tag": tag})
        write_json(folder / "result.json", {"tag": tag})

    return fill


def test_complete_run_is_found(tmp_path: Path) -> None:
    path = tmp_path / "sail-x-123"
    assert not is_complete(path)
    assert write_run(path, _fill("a"))
    assert is_complete(path)
    assert json.loads((path / "manifest.json").read_text())["tag"] == "a"
    assert [p.name for p in tmp_path.iterdir()] == ["sail-x-123"]


def test_a_crash_half_way_leaves_no_run(tmp_path: Path) -> None:
    path = tmp_path / "sail-x-123"

    def dies(folder: Path) -> None:
        _fill("a")(folder)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_run(path, dies)
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_process_are_removed_and_never_counted(tmp_path: Path) -> None:
    path = tmp_path / "sail-x-123"
    code = (
        "import os, signal, sys; from pathlib import Path; from gempim.rundir import write_run\n"
        "def fill(folder):\n"
        "    (folder / 'result.json').write_text('{}'); print(folder, flush=True); sys.stdin.readline()\n"
        "write_run(Path(sys.argv[1]), fill)"
    )
    dead, alive = (
        subprocess.Popen(
            [sys.executable, "-P", "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    )
    folders = [Path(process.stdout.readline().strip()) for process in (dead, alive) if process.stdout]
    assert all(f.is_dir() for f in folders), "two at once leave each other alone"
    dead.kill()
    dead.wait()
    assert not is_complete(path)
    assert write_run(path, _fill("new"))
    assert not folders[0].exists()
    assert folders[1].exists(), "another running process's directory must stay"
    alive.communicate("\n")
    assert not folders[1].exists(), "it came second"
    assert json.loads((path / "result.json").read_text())["tag"] == "new"


@pytest.mark.parametrize("missing", ["stats.txt", "roi.jsonl", "result.json", "manifest.json"])
def test_a_run_with_a_file_missing_is_made_again(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "sail-x-123"
    write_run(path, _fill("old"))
    (path / missing).unlink()
    assert not is_complete(path)
    assert write_run(path, _fill("new"))
    assert json.loads((path / "result.json").read_text())["tag"] == "new"


def test_the_first_of_two_processes_wins(tmp_path: Path) -> None:
    path = tmp_path / "sail-x-123"

    def slow(folder: Path) -> None:
        assert write_run(path, _fill("first"))
        _fill("second")(folder)

    assert write_run(path, slow) is False
    assert json.loads((path / "result.json").read_text())["tag"] == "first"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_damaged_manifest_is_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "sail-x-123"
    write_run(path, _fill("a"))
    (path / "manifest.json").write_text('{"status": "comp')
    assert not is_complete(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder of the runs should be")
    with pytest.raises(DataError, match=rf"^{tmp_path / 'runs'}: cannot be written: "):
        write_run(tmp_path / "runs" / "sail-x-123", _fill("a"))
