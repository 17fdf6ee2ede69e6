"""Reads files out of Debian packages: an `ar` archive that holds a compressed tar archive `data.tar`.

Format: deb(5). Debian compresses with xz; gzip and plain tar are read as well.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from gempim.quantity import DataError

_MAGIC = b"!<arch>\n"
_HEADER_BYTES = 60


def ar_members(data: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of an `ar` archive. :raises DataError: not one, or cut short; `where` names it"""
    if not data.startswith(_MAGIC):
        raise DataError(f"{where}: no Debian package: it does not begin with {_MAGIC!r}")
    at = len(_MAGIC)
    while at < len(data):
        header = data[at : at + _HEADER_BYTES]
        size = header[48:58].strip()
        if len(header) < _HEADER_BYTES or header[58:] != b"`\n" or not size.isdigit():
            raise DataError(f"{where}: damaged: no member header at byte {at}")
        begin, end = at + _HEADER_BYTES, at + _HEADER_BYTES + int(size)
        if end > len(data):
            raise DataError(f"{where}: damaged: {len(data)} bytes, a member ends at {end}")
        yield header[:16].rstrip().decode("ascii", "replace").rstrip("/"), data[begin:end]
        at = end + end % 2


def read_file(package: Path, name: str) -> bytes:
    """The content of one file of a package.

    :param name: its path without a leading slash, such as `bin/busybox`
    :raises DataError: no package, or no such file in it
    """
    try:
        data = package.read_bytes()
    except OSError as e:
        raise DataError(f"{package}: cannot be read: {e.strerror or e}") from None
    for member, content in ar_members(data, str(package)):
        if not member.startswith("data.tar"):
            continue
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as tar:
                for entry in tar:
                    if entry.isfile() and entry.name.removeprefix("./") == name:
                        stream = tar.extractfile(entry)
                        assert stream is not None
                        return stream.read()
        except (tarfile.TarError, EOFError, OSError) as e:
            raise DataError(f"{package}: {member}: cannot be unpacked: {e}") from None
        raise DataError(f"{package}: no file {name} in it")
    raise DataError(f"{package}: damaged: no data.tar in it")
