"""Operations through `lutmm_ops` give the embedded engine's results, bit for bit; the files say what they hold."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import FORMATS, random_operation

from gempim import _engine as engine
from gempim.quantity import DataError
from gempim.workloads.ops_file import (
    TYPE_NUMBERS,
    Operation,
    pack_activations,
    read_operations,
    read_results,
    write_operations,
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _run(native: Run, folder: Path, operations: list[Operation], *args: object, **environment: str) -> str:
    write_operations(folder / "ops", operations)
    done = native("lutmm_ops", folder / "ops", folder / "results", *args, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_type_numbers_are_ggmls() -> None:
    gguf = pytest.importorskip("gguf")
    assert {name: gguf.GGMLQuantizationType[name.upper()].value for name in TYPE_NUMBERS} == TYPE_NUMBERS
    assert set(TYPE_NUMBERS) == set(FORMATS)


@pytest.mark.parametrize(
    ("changes", "args"),
    [
        ({}, ("--depth", 1, "--roi")),
        ({}, ("--depth", 5, "--threads", 3)),
        ({}, ("--depth", 4, "--transposed")),
        ({"slices": 5, "nbw": 3, "tile_k": 256, "tile_n": 256}, ("--depth", 2)),
    ],
)
def test_results_are_those_of_the_embedded_engine(
    native: Run, tmp_path: Path, changes: dict[str, int], args: tuple[object, ...]
) -> None:
    rng = np.random.default_rng(3)
    shapes = [(1, 1, 1), (1, 77, 5), (3, 40, 2), (17, 5, 3)]
    made = [random_operation(name, *shapes[(i + j) % 4], rng) for i, name in enumerate(FORMATS) for j in range(2)]
    text = ",".join(f"{key}={value}" for key, value in changes.items())
    out = _run(native, tmp_path, [op for op, _ in made], *args, GEMPIM_SRAM_PIM=text)
    assert out.endswith(f"{len(made)} operations, {len(made)} done\n")
    assert out.count("roi ") == (len(made) if "--roi" in args else 1)
    results = read_results(tmp_path / "results")
    assert len(results) == len(made)
    device = engine.SramPim({**engine.sram_pim_default_params(), **changes})
    names = {number: name for name, number in TYPE_NUMBERS.items()}
    for (op, x), result in zip(made, results, strict=True):
        expected, _ = device.run_matmul(op.weights, names[op.weight_type], op.n, op.k, x)
        assert result.values is not None
        np.testing.assert_array_equal(result.values, expected)


def test_refused_operations_have_a_status_and_no_results(native: Run, tmp_path: Path) -> None:
    good, _ = random_operation("q4_0", 2, 3, 1, np.random.default_rng(0))
    shape, kind = 7, 6  # GEMPIM_ERR_SHAPE, GEMPIM_ERR_TYPE
    bad = [
        (Operation(4, 1, 1, 32, b"", b""), kind),
        (Operation(15, 1, 1, 256, b"", b""), kind),
        (Operation(2, 0, 1, 32, b"", b""), shape),
        (Operation(2, 1, 0, 32, b"", b""), shape),
        (Operation(2, 1, 1, 0, b"", b""), shape),
        (Operation(2, 1, 1, 33, b"", b""), shape),
        (Operation(10, 1, 1, 128, b"", b""), shape),
        (Operation(2, 4097, 1, 32, b"", b""), shape),
        (Operation(2, 1, (1 << 20) + 1, 32, b"", b""), shape),
        (Operation(2, 1, 1, (1 << 20) + 32, b"", b""), shape),
        (Operation(2, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFE0, b"", b""), shape),
    ]
    out = _run(native, tmp_path, [good, *(op for op, _ in bad), good], "--depth", 4)
    assert out.endswith(f"{len(bad) + 2} operations, 2 done\n")
    first, *middle, last = read_results(tmp_path / "results")
    assert [result.status for result in middle] == [status for _, status in bad]
    assert all(result.values is None for result in middle)
    assert first.values is not None
    assert last.values is not None
    np.testing.assert_array_equal(first.values, last.values)


def test_a_changed_operand_changes_the_result(native: Run, tmp_path: Path) -> None:
    """The comparison above could fail: one nibble of one weight is seen."""
    op, _ = random_operation("q4_0", 1, 4, 2, np.random.default_rng(1))
    changed = bytearray(op.weights)
    changed[2 * 2 * 18 + 2] ^= 0x40
    other = Operation(op.weight_type, op.m, op.n, op.k, bytes(changed), op.activations)
    _run(native, tmp_path, [op, other])
    before, after = (result.values for result in read_results(tmp_path / "results"))
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before[0] != after[0], [False, False, True, False])


def test_no_operations(native: Run, tmp_path: Path) -> None:
    assert _run(native, tmp_path, []) == "roi 0 ops.d1.t1\n0 operations, 0 done\n"
    assert read_results(tmp_path / "results") == []


def test_bad_files_are_named(native: Run, tmp_path: Path) -> None:
    op, _ = random_operation("q8_0", 1, 2, 1, np.random.default_rng(0))
    path = tmp_path / "ops"
    write_operations(path, [op])
    good = path.read_bytes()
    short = Operation(op.weight_type, op.m, op.n, op.k, op.weights[:-1], op.activations)
    write_operations(tmp_path / "short", [short])
    huge = bytearray(good)
    huge[28:36] = struct.pack("<Q", 1 << 60)
    wide = bytearray(good)
    wide[16:24] = struct.pack("<2I", 4096, 1 << 20)
    wide[28:44] = struct.pack("<2Q", 34 << 20, 34 * 4096)
    cases = {
        "ends within": good[:-1],
        "first 8 bytes": b"GEM",
        "not a file of operations": b"x" * len(good),
        "more bytes than": good + b"!",
        "67 bytes of weights, its shape needs 68": (tmp_path / "short").read_bytes(),
        "more than 1073741824 bytes of weights": bytes(huge),
        "more than 1073741824 bytes of results": bytes(wide),
    }
    for words, data in cases.items():
        path.write_bytes(data)
        done = native("lutmm_ops", path, tmp_path / "results")
        assert done.returncode == 2, words
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    done = native("lutmm_ops", tmp_path / "missing", tmp_path / "results")
    assert done.returncode == 2
    assert "missing: No such file" in done.stderr
    path.write_bytes(good)
    done = native("lutmm_ops", path, tmp_path / "no" / "folder")
    assert done.returncode == 2
    assert "folder: No such file" in done.stderr


def test_too_many_outstanding_commands_are_refused(native: Run, tmp_path: Path) -> None:
    write_operations(tmp_path / "ops", [])
    for args in (("--depth", "33", "--threads", "2"), ("--depth", "2", "--roi"), ("--threads", "2", "--roi")):
        done = native("lutmm_ops", tmp_path / "ops", tmp_path / "results", *args)
        assert done.returncode == 2
        assert args[0] in done.stderr or args[-1] in done.stderr


@settings(max_examples=50, deadline=None)
@given(
    operations=st.lists(
        st.builds(
            Operation, *(st.integers(0, 2**32 - 1) for _ in range(4)), st.binary(max_size=40), st.binary(max_size=40)
        ),
        max_size=4,
    )
)
def test_operations_are_read_as_written(tmp_path_factory: pytest.TempPathFactory, operations: list[Operation]) -> None:
    path = tmp_path_factory.mktemp("ops") / "ops"
    write_operations(path, operations)
    assert read_operations(path) == operations
    data = path.read_bytes()
    for broken in (data[:-1], data + b"\0", b"GEMPRES1" + data[8:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"ops: "):
            read_operations(path)


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"operation 0: .* 0 to 2\^32 - 1"):
        write_operations(tmp_path / "ops", [Operation(2, 1 << 32, 1, 32, b"", b"")])
    with pytest.raises(DataError, match="cannot be read"):
        read_results(tmp_path / "missing")
    with pytest.raises(DataError, match="q8_0, q8_1 or q8_K"):
        pack_activations({"q": np.zeros((1, 32), np.int8), "d": np.zeros((1, 1), np.float32)}, "q8_2")
