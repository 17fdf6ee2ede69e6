"""What the simulated machine gets from the host: a script and files, as one `cpio` archive (format newc).

The agent in the initramfs (workloads/linux/agent.c) unpacks it into /work. It is written block by block, since a model
has hundreds of megabytes; the writer of the initramfs (workloads/linux/cpio.py) is for another Python.
"""

import os
import re
import shlex
from typing import BinaryIO, Iterable, Iterator, List, NamedTuple, Sequence

from spec.errors import SpecError

SCRIPT = "script"
_MOST_BYTES = 0xFFFFFFFF
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@=-]{0,200}")


class HostFile(NamedTuple):
    """A file of the host, and its name in the guest's /work."""

    path: str
    name: str


def host_file(text: str) -> HostFile:
    """The file of an option such as `model.gguf` or `/data/m.gguf=model.gguf`.

    :raises SpecError: it cannot be read, or the name is none for /work
    """
    path, _, name = text.partition("=") if "=" in text and not os.path.isfile(text) else (text, "", "")
    name = name or os.path.basename(path)
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise SpecError(f"--file {text}: no such file, or it cannot be read")
    if not _NAME.fullmatch(name) or name == SCRIPT:
        raise SpecError(f"--file {text}: {name!r}: expected a name of letters, digits and . _ + @ = -, not {SCRIPT!r}")
    if os.path.getsize(path) > _MOST_BYTES:
        raise SpecError(f"--file {text}: {os.path.getsize(path)} bytes; at most {_MOST_BYTES}")
    return HostFile(path, name)


def command_script(program: str, args: Sequence[str], env: Sequence[str]) -> bytes:
    """A script that runs one program of /work and nothing else."""
    exports = []
    for item in env:
        name, _, value = item.partition("=")
        exports.append(f"export {name}={shlex.quote(value)}\n")
    command = " ".join(shlex.quote(part) for part in (f"./{program}", *args))
    return f"#!/bin/sh\n{''.join(exports)}exec {command}\n".encode()


def _header(number: int, name: str, mode: int, size: int) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(encoded), 0)
    out = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return out + bytes(-len(out) % 4)


def write(path: str, script: bytes, files: Sequence[HostFile]) -> None:
    """Write the archive."""
    with open(path, "wb") as out:
        _append(out, 1, SCRIPT, 0o100755, len(script), [script])
        for number, item in enumerate(files, 2):
            mode = 0o100755 if os.access(item.path, os.X_OK) else 0o100644
            with open(item.path, "rb") as f:
                _append(out, number, item.name, mode, os.path.getsize(item.path), _blocks(f))
        out.write(_header(0, "TRAILER!!!", 0, 0))


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while True:
        block = stream.read(1 << 20)
        if not block:
            return
        yield block


def _append(out: BinaryIO, number: int, name: str, mode: int, size: int, blocks: Iterable[bytes]) -> None:
    out.write(_header(number, name, mode, size))
    for block in blocks:
        out.write(block)
    out.write(bytes(-size % 4))


def check_names(files: List[HostFile]) -> None:
    """:raises SpecError: two files of one name"""
    seen = set()
    for item in files:
        if item.name in seen:
            raise SpecError(f"--file {item.path}={item.name}: another file has that name")
        seen.add(item.name)
