"""The header of a GGUF file (metadata and tensor table), read in bounded memory and time.

Nothing in the file is believed before it is checked against the size of the file, so a truncated, mutated or hostile
file gives a `GgufError` and never a crash, a hang or an allocation of gigabytes. The tensor data itself is not read.
Format: GGUF versions 2 and 3, docs/gguf.md of ggml; type numbers and block sizes from the `gguf` package.
`gguf.GGUFReader` is not used: it trusts the counts of the file, and builds one object per vocabulary entry (seconds for
a file of which some dozens of numbers are needed).
"""

from __future__ import annotations

import itertools
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from gguf.constants import GGUF_DEFAULT_ALIGNMENT, GGUFValueType

from gempim.models.ggml import BLOCKS, NAMES
from gempim.quantity import DataError

MAGIC = b"GGUF"
VERSIONS = (2, 3)

MAX_KEY_BYTES = 65535
"""GGUF's own limit on the length of a metadata key."""
MAX_NAME_BYTES = 64
"""GGUF's own limit on the length of a tensor name."""
MAX_DIMS = 4
"""GGUF's own limit on the dimensions of a tensor (GGML_MAX_DIMS)."""
MAX_ENTRIES = 1 << 20
"""Metadata entries or tensors: the largest public models have some thousands; this bounds the time to read."""
MAX_STRINGS = 1 << 22
"""Strings in one array (a vocabulary has some hundred thousand): each must be walked, which takes time."""
MAX_HEADER_BYTES = 1 << 28
"""Metadata and tensor table of public models stay below 30 MiB; this bounds what is kept in memory."""
MAX_KEPT_ITEMS = 4096
"""Longer arrays (token types, scores) are checked and skipped: no shape is in them."""

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}

# A tensor entry of no name and no dimension: name length, dimension count, type, offset.
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8
# A metadata entry of an empty key and a one-byte value: key length, type, value.
_MIN_KV_BYTES = 8 + 4 + 1


class GgufError(DataError):
    """A GGUF file that cannot be used; the message names the file, what is wrong and what was expected."""


@dataclass(frozen=True)
class SkippedArray:
    """A metadata array that is in the file but was not kept: its item type's name and its length.

    Arrays of strings (vocabulary, merges) and arrays longer than MAX_KEPT_ITEMS are not kept.
    """

    item_type: str
    length: int


Value = int | float | bool | str | list[int | float | bool] | SkippedArray


@dataclass(frozen=True)
class GgufTensor:
    """One entry of the tensor table. `shape` is in GGUF's order: the fastest dimension (row length) first."""

    name: str
    shape: tuple[int, ...]
    ggml_type: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata and tensor table of one file. Tensor offsets count from `data_start`, in bytes."""

    path: Path
    version: int
    metadata: dict[str, Value]
    tensors: tuple[GgufTensor, ...]
    data_start: int


def read_header(path: str | Path) -> GgufHeader:
    """Read and check the header of the GGUF file `path`.

    Raises GgufError for anything that is not a complete, consistent, little-endian GGUF file of version 2 or 3.
    """
    file = Path(path)
    try:
        with file.open("rb") as handle:
            size = handle.seek(0, 2)
            if size < len(MAGIC):
                raise GgufError(f"{file}: {'empty file' if size == 0 else f'only {size} bytes'}, expected a GGUF file")
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _Reader(file, view, size).header()
    except OSError as error:
        raise GgufError(f"{file}: cannot be read: {error.strerror or error}") from error


class _Reader:
    """A cursor over the file that refuses to go past its end."""

    def __init__(self, file: Path, view: mmap.mmap, size: int) -> None:
        self.file = file
        self.view = view
        self.size = size
        self.position = 0

    def fail(self, what: str) -> GgufError:
        return GgufError(f"{self.file}: {what}")

    def need(self, count: int, what: str) -> None:
        if count > self.size - self.position:
            raise self.fail(
                f"truncated: {what} needs {count} bytes at byte {self.position}, but the file has {self.size} bytes"
            )
        if count > MAX_HEADER_BYTES - self.position:
            raise self.fail(f"{what} ends beyond byte {MAX_HEADER_BYTES}, expected a header smaller than that")

    def number(self, code: str, what: str) -> int | float | bool:
        width = struct.calcsize("<" + code)
        self.need(width, what)
        (value,) = struct.unpack_from("<" + code, self.view, self.position)
        self.position += width
        result: int | float | bool = value
        return result

    def integer(self, code: str, what: str) -> int:
        return int(self.number(code, what))

    def skip_string(self, what: str) -> None:
        length = self.integer("Q", f"the length of {what}")
        self.need(length, what)
        self.position += length

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.integer("Q", f"the length of {what}")
        if limit is not None and length > limit:
            raise self.fail(f"{what} is {length} bytes long, expected at most {limit}")
        self.need(length, what)
        raw = self.view[self.position : self.position + length]
        self.position += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8 text ({raw[:32]!r})") from error

    def header(self) -> GgufHeader:
        magic = self.view[: len(MAGIC)]
        if magic != MAGIC:
            raise self.fail(f"wrong magic {magic!r}, expected {MAGIC!r}: not a GGUF file")
        self.position = len(MAGIC)
        version = self.integer("I", "the version")
        if version not in VERSIONS:
            if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
                raise self.fail("a big-endian GGUF file, expected a little-endian one")
            raise self.fail(f"GGUF version {version}, expected {' or '.join(map(str, VERSIONS))}")
        n_tensors = self.count("tensor count", _MIN_TENSOR_BYTES)
        n_kv = self.count("metadata count", _MIN_KV_BYTES)
        metadata: dict[str, Value] = {}
        for index in range(n_kv):
            key = self.string(f"the key of metadata entry {index} of {n_kv}", MAX_KEY_BYTES)
            if key in metadata:
                raise self.fail(f"metadata key {key!r} is there twice")
            metadata[key] = self.value(key)
        alignment = self.alignment(metadata)
        entries = [self.tensor_entry(index, n_tensors) for index in range(n_tensors)]
        data_start = -(-self.position // alignment) * alignment
        tensors = self.checked(entries, alignment, data_start)
        return GgufHeader(self.file, version, metadata, tensors, data_start)

    def count(self, what: str, smallest: int) -> int:
        value = self.integer("Q", f"the {what}")
        most = min(MAX_ENTRIES, (self.size - self.position) // smallest)
        if value > most:
            raise self.fail(f"{what} is {value}, expected at most {most} in a file of {self.size} bytes")
        return value

    def value_type(self, what: str) -> GGUFValueType:
        raw = self.integer("I", f"the type of {what}")
        try:
            return GGUFValueType(raw)
        except ValueError as error:
            raise self.fail(f"{what} has unknown value type {raw}, expected 0 to {max(GGUFValueType)}") from error

    def value(self, key: str) -> Value:
        what = f"metadata {key!r}"
        kind = self.value_type(what)
        if kind == GGUFValueType.STRING:
            return self.string(what)
        if kind == GGUFValueType.ARRAY:
            return self.array(what)
        return self.number(_SCALARS[kind], what)

    def array(self, what: str) -> Value:
        kind = self.value_type(f"the items of {what}")
        length = self.integer("Q", f"the length of {what}")
        if kind == GGUFValueType.ARRAY:
            raise self.fail(f"{what} is an array of arrays, expected an array of numbers, bools or strings")
        if kind == GGUFValueType.STRING:
            most = min(MAX_STRINGS, (self.size - self.position) // 8)
            if length > most:
                raise self.fail(f"{what} has {length} strings, expected at most {most} in a file of {self.size} bytes")
            for _ in range(length):
                self.skip_string(what)
            return SkippedArray(kind.name.lower(), length)
        code = _SCALARS[kind]
        width = struct.calcsize("<" + code)
        self.need(length * width, f"{what} ({length} items)")
        if length > MAX_KEPT_ITEMS:
            self.position += length * width
            return SkippedArray(kind.name.lower(), length)
        return [self.number(code, what) for _ in range(length)]

    def alignment(self, metadata: dict[str, Value]) -> int:
        value = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value & (value - 1):
            raise self.fail(f"general.alignment is {value!r}, expected a power of two")
        return value

    def tensor_entry(self, index: int, total: int) -> GgufTensor:
        name = self.string(f"the name of tensor {index} of {total}", MAX_NAME_BYTES)
        what = f"tensor {name!r}"
        n_dims = self.integer("I", f"the dimension count of {what}")
        if not 1 <= n_dims <= MAX_DIMS:
            raise self.fail(f"{what} has {n_dims} dimensions, expected 1 to {MAX_DIMS}")
        shape = tuple(self.integer("Q", f"the shape of {what}") for _ in range(n_dims))
        number = self.integer("I", f"the type of {what}")
        offset = self.integer("Q", f"the offset of {what}")
        if number not in NAMES:
            raise self.fail(f"{what} has unknown type number {number}, expected one of {sorted(NAMES)}")
        ggml_type = NAMES[number]
        elements = 1
        for dimension in shape:
            if dimension < 1:
                raise self.fail(f"{what} has shape {list(shape)}, expected dimensions of at least 1")
            elements *= dimension
        block, block_bytes = BLOCKS[ggml_type]
        if shape[0] % block:
            raise self.fail(
                f"{what} has rows of {shape[0]} elements, expected a multiple of {ggml_type}'s block {block}"
            )
        return GgufTensor(name, shape, ggml_type, offset, elements // block * block_bytes)

    def checked(self, entries: list[GgufTensor], alignment: int, data_start: int) -> tuple[GgufTensor, ...]:
        names: set[str] = set()
        for tensor in entries:
            what = f"tensor {tensor.name!r}"
            if tensor.name in names:
                raise self.fail(f"{what} is there twice")
            names.add(tensor.name)
            if tensor.offset % alignment:
                raise self.fail(
                    f"{what} is at offset {tensor.offset}, expected a multiple of the alignment {alignment}"
                )
            end = data_start + tensor.offset + tensor.bytes
            if end > self.size:
                raise self.fail(
                    f"{what} {list(tensor.shape)} {tensor.ggml_type} ends at byte {end}, but the file has {self.size} "
                    "bytes: the file is truncated or its tensor table is wrong"
                )
        by_offset = sorted(entries, key=lambda tensor: tensor.offset)
        for first, second in itertools.pairwise(by_offset):
            if first.offset + first.bytes > second.offset:
                raise self.fail(f"tensors {first.name!r} and {second.name!r} overlap")
        return tuple(entries)
