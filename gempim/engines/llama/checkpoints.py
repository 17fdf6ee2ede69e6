"""The functional run: the guest on a fast CPU model, once, for its tokens and for the checkpoints of the detailed runs.

It is kept in the cache under the hash of all that decides it, checkpoints included (each is about as large as the
model). A user may delete any folder there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gempim.cache import cache_dir
from gempim.engines.gem5_se import LOG, Gem5Options, check_ended, remove_scratch
from gempim.quantity import DataError
from gempim.rundir import write_folder, write_json

Runner = Callable[[Path, Gem5Options], int]
"""Runs gem5 with an output folder and options, and gives its exit status: all that the rest knows of gem5."""

GUEST_OUT = "guest.out"
ENTRY = "entry.json"
"""Written last: an entry without it is not one."""
_FOLDER = "checkpoints"


def entries() -> Path:
    """The folder that holds the entries."""
    return cache_dir() / "llama"


def entry_path(options: Gem5Options, decides: Mapping[str, Any]) -> Path:
    """Where the entry of a functional run is.

    :param decides: what decides the run besides the options: resolved system, hashes of the files
    """
    content = {"options": options.to_json(), "continue": options.checkpoint_continue, "decides": dict(decides)}
    return entries() / hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def is_complete(entry: Path) -> bool:
    """Whether the entry is there."""
    return (entry / ENTRY).is_file()


def checkpoint_of(entry: Path, regions: Sequence[int], region: int) -> Path:
    """The checkpoint at the beginning of `region`, of an entry with checkpoints at `regions`."""
    return entry / _FOLDER if len(regions) == 1 else entry / _FOLDER / f"roi-{region}"


def functional_run(
    options: Gem5Options, decides: Mapping[str, Any], runner: Runner, saved_log: Path, explain: Callable[[Path], None]
) -> Path:
    """The entry of a functional run, made unless it is there.

    :param options: checkpoints at `checkpoint_at_roi`; `checkpoint_continue`: to the guest's end
    :param saved_log: where the log goes when the run fails
    :param explain: called with the output folder of a failed run: raises a DataError that says more than gem5 does
    :raises DataError: gem5 or the guest failed
    """
    final = entry_path(options, decides)
    if is_complete(final):
        return final
    regions = options.checkpoint_at_roi
    whole = options.checkpoint_continue or not regions

    def fill(aside: Path) -> None:
        status = runner(aside, replace(options, checkpoint=aside / _FOLDER) if regions else options)
        if status:
            explain(aside)
        check_ended(status, aside, saved_log, (GUEST_OUT,))
        missing = [n for n in regions if not (checkpoint_of(aside, regions, n) / "m5.cpt").is_file()]
        if missing:
            raise DataError(f"gem5 ended well, but wrote no checkpoint of region {missing[0]}")
        remove_scratch(aside)
        for name in ("stats.txt", "config.ini", "system.json", "roi.jsonl"):
            (aside / name).unlink(missing_ok=True)  # of a CPU whose time says nothing
        write_json(aside / ENTRY, {"regions": list(regions), "whole": whole, "decides": dict(decides)})

    write_folder(final, fill, is_complete)
    return final


def size_bytes(entry: Path) -> int:
    """Bytes of an entry on disk."""
    return sum(os.path.getsize(p) for p in entry.rglob("*") if p.is_file())


def log_of(entry: Path) -> Path:
    """gem5's log of the functional run."""
    return entry / LOG
