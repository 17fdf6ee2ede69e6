"""What a gem5 checkpoint does not say: which system, cores and program it belongs to, and how many regions were over.

gem5 restores a checkpoint into whatever machine the script builds; one that differs fails far from the cause, or does
not fail.
"""

import hashlib
import json
import os
from typing import Any, Dict, Optional, Sequence

from spec.errors import SpecError

FILE = "gempim.json"
OUTPUT = "guest.out"
"""What the guest had printed, beside FILE: it may hold labels of regions that come after the checkpoint."""


def facts(resolved: Dict[str, Any], options: Any, pim: bool) -> Dict[str, Any]:
    """What must be the same when the checkpoint is restored."""
    text = json.dumps(resolved, sort_keys=True).encode()
    with open(options.binary, "rb") as f:
        binary = hashlib.sha256(f.read()).hexdigest()
    return {
        "system": resolved["system"],
        "system_sha256": hashlib.sha256(text).hexdigest(),
        "pim": pim,
        "caches": options.caches,
        "cores": options.cores,
        "mem_bytes": options.mem_bytes,
        "binary_sha256": binary,
        "args": list(options.args),
        "env": list(options.env),
    }


def place(folder: str, regions: Optional[Sequence[int]], region: Optional[int]) -> str:
    """Where the checkpoint of `region` lies: `folder` itself, or beneath it when a run writes several.

    :param regions: all regions that get one; None when its place is none of them
    """
    return folder if regions is None or len(regions) == 1 else os.path.join(folder, f"roi-{region}")


def save(folder: str, same: Dict[str, Any], next_index: int, region: Any, guest_output: str) -> None:
    """Write FILE and OUTPUT into the checkpoint."""
    doc = {"schema": 1, "same": same, "next_index": next_index, "open_region": region}
    with open(os.path.join(folder, OUTPUT), "w", encoding="utf-8") as f:
        f.write(guest_output)
    with open(os.path.join(folder, FILE), "w", encoding="utf-8") as f:
        f.write(json.dumps(doc, indent=1) + "\n")


def load(folder: str, same: Dict[str, Any]) -> Dict[str, Any]:
    """Read FILE and hold it against this run; `guest_output` added.

    :raises SpecError: not a checkpoint of run.py, or of another machine or program
    """
    path = os.path.join(folder, FILE)
    try:
        with open(path, encoding="utf-8") as f:
            doc: Dict[str, Any] = json.load(f)
        with open(os.path.join(folder, OUTPUT), encoding="utf-8", errors="replace") as f:
            doc["guest_output"] = f.read()
    except (OSError, ValueError) as e:
        raise SpecError(f"--restore {folder}: not a checkpoint of gempim's run.py: {e}") from None
    there = doc.get("same", {})
    for key, value in same.items():
        if there.get(key) != value:
            raise SpecError(
                f"--restore {folder}: its {key} is {there.get(key)!r}, this run's is {value!r}; they must be the same"
            )
    return doc
