"""The micro programs on this machine: the guest side of the contract against the software device."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gempim.workloads.build import MICRO, MODELS_ROOT
from gempim.workloads.ops_file import TYPE_NUMBERS

Run = Callable[..., "subprocess.CompletedProcess[str]"]

TYPES = tuple(TYPE_NUMBERS)
SHAPES = ((1, 1, 1), (1, 37, 4), (2, 131, 1), (5, 19, 3), (33, 7, 2))
"""m, n, blocks in k."""


def _ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize(
    ("path", "more"),
    [("lutmm", ()), ("lutmm", ("--transposed",)), ("lutmm", ("--transposed", "--commands")), ("scalar", ())],
)
def test_gemv_gives_the_right_results(native: Run, type_name: str, path: str, more: tuple[str, ...]) -> None:
    for seed, (m, n, blocks) in enumerate(SHAPES):
        k = blocks * (256 if type_name.endswith("K") else 32)
        threads = 1 + seed % 3
        shares = (threads,) if "--commands" in more else ()
        out = _ok(
            native(
                *("gemv", "--type", type_name, "--path", path, "--m", m, "--n", n, "--k", k, *more, *shares),
                *("--threads", threads, "--seed", seed, "--repeat", 2, "--check"),
            )
        )
        label = f"gemv.{type_name}.{path}.m{m}.n{n}.k{k}.t{threads}"
        lines = out.splitlines()
        assert lines[:2] == [f"roi 0 {label}", f"roi 1 {label}"]
        for line in lines[2:]:
            assert re.fullmatch(rf"{type_name} {m} {n} {k} {path} {threads} \d+ ok", line), line
        assert len(lines) == 4


def test_gemv_on_a_device_of_other_size(native: Run) -> None:
    for params in ("slices=3,nbw=2,tile_k=256", "array_rows=512,array_columns=64,arrays_per_slice=8,tile_n=512"):
        for type_name in ("q4_1", "q6_K"):
            _ok(
                native(
                    *("gemv", "--type", type_name, "--path", "lutmm", "--n", 300, "--k", 2048, "--check"),
                    GEMPIM_SRAM_PIM=params,
                )
            )


@pytest.mark.parametrize("type_name", TYPES)
def test_the_check_finds_a_wrong_result(native: Run, type_name: str) -> None:
    done = native("gemv", "--type", type_name, "--m", 2, "--n", 9, "--path", "scalar", "--check", "--corrupt")
    assert done.returncode == 1
    assert re.fullmatch(
        rf"gemv: {type_name}: wrong result in row 1, column 8, repetition 0: expected \S+ \+- \S+, got \S+\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--type", "q4_2"), ("--type q4_2", "q4_0, q4_1")),
        (("--m", "0"), ("--m 0", "1 to 4096")),
        (("--n", "many"), ("--n many", "whole number")),
        (("--n", "-1"), ("--n -1", "whole number")),
        (("--n", "99999999999999999999"), ("--n 99999999999999999999", "whole number")),
        (("--k", "96", "--type", "q2_K"), ("--k 96", "multiple of 256 for q2_K")),
        (("--path", "gpu"), ("--path gpu", "lutmm, neon or scalar")),
        (("--path", "neon"), ("--path neon", "not in this build")),
        (("--path", "scalar", "--transposed"), ("--transposed", "--path lutmm")),
        (("--threads", "65"), ("--threads 65", "1 to 64")),
        (("--seed",), ("--seed", "a value after it")),
        (("--size", "3"), ("--size", "no such option")),
        (("32",), ("32", "not expected")),
    ],
)
def test_bad_options_are_named(native: Run, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = native("gemv", *args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("gemv: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_bad_parameters_of_the_device_are_named(native: Run) -> None:
    for params, word in (("slices=0", "slices"), ("colour=3", "colour"), ("nbw=two", "nbw")):
        done = native("gemv", "--path", "lutmm", GEMPIM_SRAM_PIM=params)
        assert done.returncode == 2
        assert word in done.stderr


def test_every_program_has_help(native: Run) -> None:
    for program in ("gemv", "lutmm_ops", "fuzz", "stream", "chase", "illegal"):
        out = _ok(native(program, "--help"))
        assert out.startswith(f"usage: {program} ")
        assert "--m5" in out


def test_fuzz(native: Run) -> None:
    out = _ok(native("fuzz", "--count", 20000, "--seed", 7))
    counts = dict(re.findall(r"^([A-Z_]+) (\d+)$", out, re.MULTILINE))
    demanded = ["DONE", "ALIGNMENT", "VERSION", "RESERVED", "TYPE", "SHAPE", "STRIDE", "ADDRESS", "OVERLAP"]
    assert set(counts) == {name if name == "DONE" else f"ERR_{name}" for name in demanded}
    assert all(int(count) >= 200 for count in counts.values()), counts
    assert out.endswith("20000 descriptors ok\n")


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("value", r"result \[\d+, \d+\]: expected"),
        ("spill", "accepted, but has changed other memory"),
        ("refusal-writes", "refused, but the descriptor has changed"),
        ("reserved", "expected ERR_RESERVED, the device answers DONE"),
        ("overlap", "expected ERR_OVERLAP, the device answers DONE"),
        ("ticket-twice", "waiting twice for a ticket: expected 11, got 1"),
    ],
)
def test_fuzz_finds_a_defect_of_the_device(native: Run, fault: str, found: str) -> None:
    done = native("fuzz", "--count", 2000, GEMPIM_SOFTWARE_FAULT=fault)
    assert done.returncode == 1
    assert re.search(found, done.stderr), done.stderr


def test_stream_counts_bytes_as_stream_does(native: Run) -> None:
    lines = _ok(native("stream", "--bytes", 80000, "--threads", 3, "--check")).splitlines()
    for index, (kernel, arrays) in enumerate((("copy", 2), ("scale", 2), ("add", 3), ("triad", 3), ("sum", 1))):
        assert lines[2 * index] == f"roi {index} stream.{kernel}.b80000.t3"
        assert re.fullmatch(rf"{kernel} 80000 3 {arrays * 80000} \d+ \d+\.\d{{3}} GB/s", lines[2 * index + 1])
    assert len(lines) == 10
    assert native("stream", "--kernel", "read").returncode == 2


def test_chase_goes_round_every_line(native: Run) -> None:
    for size in (128, 4096 + 64, 1 << 20):
        out = _ok(native("chase", "--bytes", size, "--repeat", 2, "--seed", size))
        assert out.splitlines()[0] == f"roi 0 chase.b{size}.l{size // 64}"
    assert _ok(native("chase", "--bytes", 4096, "--loads", 77)).startswith("roi 0 chase.b4096.l77\n4096 77 ")
    assert native("chase", "--bytes", 100).returncode == 2 == native("chase", "--bytes", 200).returncode


def test_illegal_needs_one_thing_to_do(native: Run) -> None:
    for args in ((), ("--unmapped", "--load-unmapped"), ("--word", 0x12345678), ("--word", 0x02000001)):
        done = native("illegal", *args)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
    for option in ("--unmapped", "--load-unmapped"):
        assert native("illegal", option).returncode == -11  # SIGSEGV


def test_sources_give_no_warnings() -> None:
    for path in sorted(MICRO.glob("*.c*")):
        compiler = ["c++", "-std=c++20"] if path.suffix == ".cc" else ["cc", "-std=gnu11"]
        flags = ["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-DGEMPIM_SOFTWARE_DEVICE"]
        includes = [f"-I{folder}" for folder in (MICRO, MODELS_ROOT)]
        done = subprocess.run([*compiler, *flags, *includes, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_source_names_its_licence() -> None:
    sources = [path for path in Path(MICRO).iterdir() if path.suffix in (".c", ".cc", ".h", ".hh")]
    assert len(sources) > 10
    for path in sources:
        assert "SPDX-License-Identifier: BSD-3-Clause" in path.read_text().splitlines()[0], path
