"""The checkpoint at the shell: made once for a kernel, a number of cores and a memory size, shared by every system."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from typing import Any, Dict, Iterator, List, Optional

from spec.errors import SpecError
from spec.linux import Linux, cache_folder

CPU_CLOCK = "3GHz"
"""Of the cores that boot. They bypass the caches; whatever restores the checkpoint has a clock of its own."""

LIMIT_PS = 2_000_000_000_000
"""Simulated time after which a boot that has not come to the agent is given up; it takes a tenth of a second."""

_MACHINE_FILES = ("components/soc.py", "spec/devicetree.py")
"""Scripts that decide what a checkpoint is of."""


def identity(linux: Linux, *, cores: int, mem_bytes: int, gem5_sha256: str) -> Dict[str, Any]:
    """What must be the same for a checkpoint to be used."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    machine = hashlib.sha256()
    for name in _MACHINE_FILES:
        with open(os.path.join(here, name), "rb") as f:
            machine.update(f.read())
    return {
        "linux": linux.identity,
        "cores": cores,
        "mem_bytes": mem_bytes,
        "machine_sha256": machine.hexdigest(),
        "gem5_sha256": gem5_sha256,
    }


def place(same: Dict[str, Any], folder: Optional[str]) -> str:
    """The folder of the checkpoint.

    :param folder: of all boot checkpoints; default: in gempim's cache
    """
    key = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]
    parent = folder or os.path.join(cache_folder(), "linux-boot")
    return os.path.join(parent, f"c{same['cores']}-{same['mem_bytes'] >> 20}MiB-{key}")


def is_there(checkpoint: str) -> bool:
    """Whether it has been made."""
    return os.path.isfile(os.path.join(checkpoint, "m5.cpt"))


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    import fcntl

    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _end_with_parent() -> None:
    """Whoever ends this gem5 ends the one that boots, too."""
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def ensure(checkpoint: str, command: List[str], log: str) -> bool:
    """Make the checkpoint unless it is there; one process at a time.

    :param command: boots and leaves the checkpoint in the folder that is put behind it, gem5's output in another
    :param log: file for what that prints
    :return: whether it had to be made
    :raises SpecError: the boot failed; the message has its last lines
    """
    if is_there(checkpoint):
        return False
    try:
        os.makedirs(os.path.dirname(checkpoint), exist_ok=True)
        with _locked(checkpoint + ".lock"):
            if is_there(checkpoint):
                return False
            with tempfile.TemporaryDirectory(prefix=".boot-", dir=os.path.dirname(checkpoint)) as scratch:
                made = os.path.join(scratch, "checkpoint")
                gem5, script = command[0], command[1:]
                with open(log, "wb") as out:
                    status = subprocess.run(
                        [gem5, f"--outdir={scratch}/out", "--json-config=", "--dot-config=", *script, made],
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        stdin=subprocess.DEVNULL,
                        preexec_fn=_end_with_parent,
                        check=False,
                    ).returncode
                if status or not is_there(made):
                    raise SpecError(f"the boot of Linux failed with status {status}; {log} ends with:\n{_tail(log)}")
                shutil.rmtree(checkpoint, ignore_errors=True)
                os.rename(made, checkpoint)
    except OSError as e:
        raise SpecError(f"{checkpoint}: the checkpoint of the boot cannot be kept there: {e}") from None
    return True


def _tail(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as f:
        return "".join("  " + line for line in f.read().splitlines(keepends=True)[-15:])
