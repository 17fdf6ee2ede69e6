"""Wraps a Linux kernel Image as the ELF program that gem5 loads: boot stub and kernel, each where it belongs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gempim.quantity import DataError

_ARM64 = 0x644D_5241
"""`ARM\\x64`, at byte 56 of an arm64 Image (Documentation/arch/arm64/booting.rst)."""

_AARCH64 = 183
_MACHINES = {0x3E: "x86-64", 0x28: "32-bit Arm", 0xF3: "RISC-V", _AARCH64: "AArch64"}


def check_kernel(data: bytes, where: str) -> int:
    """The bytes that the kernel takes in memory, from its header.

    :param where: names the file, for messages
    :raises DataError: no uncompressed arm64 Image, or one with big-endian data or pages of another size than 4 KiB
    """
    magic = int.from_bytes(data[56:60], "little") if len(data) >= 64 else 0
    if magic != _ARM64:
        raise DataError(f"{where}: no arm64 Linux Image: {_what_it_is(data)}; expected 'ARM\\x64' at byte 56")
    size, flags = struct.unpack_from("<QQ", data, 16)
    if flags & 1 or flags >> 1 & 3 not in (0, 1):
        raise DataError(f"{where}: image flags {flags:#x}: expected a little-endian kernel with pages of 4 KiB")
    return max(int(size), len(data))


def _what_it_is(data: bytes) -> str:
    if data[:2] == b"\x1f\x8b":
        return "it is gzip-compressed"
    if data[:4] == b"\x7fELF":
        machine = int.from_bytes(data[18:20], "little")
        return f"it is an ELF file for {_MACHINES.get(machine, f'machine {machine}')}"
    if data[0x202:0x206] == b"HdrS":
        return "it is an x86 bzImage"
    return "it is something else"


@dataclass(frozen=True)
class Segment:
    """Bytes at a physical address."""

    address: int
    data: bytes


def wrap(entry: int, segments: tuple[Segment, ...]) -> bytes:
    """A 64-bit little-endian AArch64 ELF program with these segments, entered at `entry`."""
    head = 64 + 56 * len(segments)
    out = bytearray(
        struct.pack(
            "<16sHHIQQQIHHHHHH",
            b"\x7fELF\x02\x01\x01",
            2,  # ET_EXEC
            _AARCH64,
            1,
            entry,
            64,
            0,
            0,
            64,
            56,
            len(segments),
            64,
            0,
            0,
        )
    )
    at = head
    placed = []
    for segment in segments:
        at += -at % 4096  # congruent to the address, as ELF wants
        at += segment.address % 4096
        placed.append(at)
        size = len(segment.data)
        out += struct.pack("<IIQQQQQQ", 1, 7, at, segment.address, segment.address, size, size, 4096)
        at += size
    for offset, segment in zip(placed, segments, strict=True):
        out += bytes(offset - len(out))
        out += segment.data
    return bytes(out)
