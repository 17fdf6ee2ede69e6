"""The cache: what is downloaded, built and simulated once. A user may delete any folder in it."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """The folder of the cache: gempim below XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gempim"


def cached_folder(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, made unless it is there; by one process at a time, others wait for it.

    :param make: fills a new folder, which is renamed to `target` when it returns; when it raises, nothing is left. The
        folder's parent is scratch space that is removed afterwards.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
                out = Path(scratch) / "out"
                out.mkdir()
                make(out)
                os.rename(out, target)
    return target


def point_to(link: Path, target: Path) -> None:
    """Let the symbolic link name `target`, which lies beside it, in one step."""
    if link.is_symlink() and os.readlink(link) == target.name:
        return
    fresh = link.parent / f".link-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.name)
    fresh.replace(link)
