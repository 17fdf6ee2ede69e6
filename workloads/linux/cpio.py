"""Writes `cpio` archives in the format `newc`, which the kernel unpacks as an initramfs and the agent as what it is
handed. Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.

The same files give the same bytes: no time, owner or inode number of this machine gets in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

_TRAILER = "TRAILER!!!"
_MOST_BYTES = 0xFFFF_FFFF


@dataclass(frozen=True)
class Entry:
    """One file, folder, link or device of an archive."""

    name: str
    """Path without a leading slash; folders come before what is in them."""
    mode: int
    """Type and permission bits, as in stat(2)."""
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""


def folder(name: str) -> Entry:
    """A folder."""
    return Entry(name, 0o040755)


def file(name: str, data: bytes, *, executable: bool = False) -> Entry:
    """A file."""
    return Entry(name, 0o100755 if executable else 0o100644, data)


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, 0o120777, target.encode())


def character_device(name: str, major: int, minor: int) -> Entry:
    """A character device."""
    return Entry(name, 0o020600, device=(major, minor))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def header(number: int, name: str, mode: int, size: int, device: tuple[int, int] = (0, 0)) -> bytes:
    """The header of one entry, its name and their padding. :raises ValueError: a size that the format cannot say"""
    if not 0 <= size <= _MOST_BYTES:
        raise ValueError(f"{name}: {size} bytes: a cpio archive holds files below 4 GiB")
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, size, 0, 0, *device, len(encoded), 0)
    return _padded(b"070701" + b"".join(b"%08X" % value for value in fields) + encoded)


def chunks(entries: Sequence[Entry]) -> Iterator[bytes]:
    """The archive, piece by piece. :raises ValueError: as :func:`header`"""
    for number, entry in enumerate(entries, 1):
        yield header(number, entry.name, entry.mode, len(entry.data), entry.device)
        yield _padded(entry.data)
    yield header(0, _TRAILER, 0, 0)


def write(stream: BinaryIO, entries: Sequence[Entry]) -> None:
    """Write the archive. :raises ValueError: as :func:`header`"""
    for chunk in chunks(entries):
        stream.write(chunk)
