"""What every manifest says of where a run comes from."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gempim import __version__
from gempim.systems import System

PACKAGE = Path(__file__).parent


def code_sha256(folders: Iterable[str]) -> str:
    """Hash of the Python files directly in these folders of the package."""
    h = hashlib.sha256()
    for path in sorted(p for folder in folders for p in (PACKAGE / folder).glob("*.py")):
        h.update(path.name.encode())
        h.update(path.read_bytes())
    return h.hexdigest()


def provenance(
    path: Path,
    hashes: Mapping[str, str],
    wall_seconds: float,
    command: Sequence[str] | None,
    packages: Iterable[str] = (),
) -> dict[str, Any]:
    """Keys of a manifest: hash of the experiment, hashes of its inputs, versions, host, time and command.

    :param path: the run directory's final path
    :param command: what the user typed; default: this process's command line
    :param packages: libraries whose versions may show in the result
    """
    return {
        "experiment_hash": path.name.rsplit("-", 1)[-1],
        "hashes": dict(hashes),
        "versions": {
            "gempim": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "wall_seconds": wall_seconds,
        "host": {"cpu": platform.machine(), "cores": os.cpu_count()},
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": list(command) if command else sys.argv,
    }


def choices(system: System) -> list[dict[str, Any]]:
    """The system's parameters that are our choice, or that nobody has verified."""
    return [
        {"key": f"{section}.{key}", "value": q.value, "unit": q.unit, "source": q.source, "kind": q.kind}
        for section, params in system.sections.items()
        for key, q in params.items()
        if q.kind in ("choice", "unverified")
    ]
