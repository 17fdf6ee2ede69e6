"""Run directories: written aside, renamed last, never mistaken for complete when they are not.

`ROOT/<slug>-<hash>/` holds `manifest.json`, `stats.txt` (gem5 format, one section an ROI), `roi.jsonl` (one line a
section) and `result.json`. The directory gets its name only when everything is in it, so a run that died half-way
leaves a `.partial-*` directory that no command reads and the next run of the same experiment removes.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gempim.quantity import DataError

SCHEMA = 1


def is_complete(path: Path) -> bool:
    """Whether `path` holds a complete run: its manifest says so and the three other files are there."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except (OSError, json.JSONDecodeError):
        return False
    others = ("stats.txt", "roi.jsonl", "result.json")
    return manifest.get("status") == "complete" and all((path / f).is_file() for f in others)


def write_run(path: Path, fill: Callable[[Path], None]) -> bool:
    """Make the run directory `path` by calling `fill` on a directory beside it, then renaming that.

    :return: False when another process finished the same run first (its result is kept; ours is dropped)
    """

    def fill_and_sync(aside: Path) -> None:
        fill(aside)
        for f in (p for p in aside.rglob("*") if p.is_file()):
            with f.open("rb") as handle:
                os.fsync(handle.fileno())

    return write_folder(path, fill_and_sync, is_complete)


def write_folder(path: Path, fill: Callable[[Path], None], complete: Callable[[Path], bool]) -> bool:
    """Make `path` by calling `fill` on a folder beside it, then renaming that; an incomplete one makes way for it.

    :return: False when another process made it first (its folder is kept; ours is dropped)
    :raises DataError: the folder that is to hold it cannot be written
    """
    try:
        aside, held = _aside_folder(path)
    except OSError as e:
        raise DataError(f"{path.parent}: cannot be written: {e.strerror or e}") from None
    try:
        fill(aside)
        aside.chmod(0o755)
        if path.exists() and not complete(path):
            shutil.rmtree(path)
        try:
            aside.rename(path)
        except OSError:
            if complete(path):
                return False
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(held)
    return True


def _aside_folder(path: Path) -> tuple[Path, int]:
    """A new empty folder beside `path`, to be renamed to it, and the descriptor of it that holds it; those that dead
    processes left for it are removed.

    A folder belongs to whoever has locked it: the system gives the lock up when that process dies, and a process in
    another container or on another machine of the same file system counts as well, which no process number would do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".partial-{path.name}-*"):
        held = _lock(left)
        if held is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)
    while True:
        aside = Path(tempfile.mkdtemp(prefix=f".partial-{path.name}-", dir=path.parent))
        held = _lock(aside)
        if held is not None and aside.is_dir():
            return aside, held
        # Another process took it for left behind before it was locked.
        if held is not None:
            os.close(held)


def _lock(folder: Path) -> int | None:
    """A descriptor that locks the folder; None when another process has it, or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def write_json(path: Path, data: Any) -> None:
    """Pretty JSON with a final newline."""
    path.write_text(json.dumps(data, indent=1, sort_keys=False) + "\n")
