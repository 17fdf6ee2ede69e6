"""The AArch64 programs under user-mode emulation: llama.cpp's kernels, and what is in the binaries."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gempim.workloads.ops_file import TYPE_NUMBERS

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SIGILL, SIGSEGV = 4, 11


def _signal(done: subprocess.CompletedProcess[str]) -> int:
    """The signal that ended an emulated program: the emulator kills itself with the same."""
    return -done.returncode if done.returncode < 0 else done.returncode - 128


@pytest.mark.parametrize("type_name", TYPE_NUMBERS)
@pytest.mark.parametrize("path", ["neon", "scalar"])
def test_gemv_gives_the_right_results(cross: Run, type_name: str, path: str) -> None:
    block = 256 if type_name.endswith("K") else 32
    for m, n, blocks, threads in ((1, 1, 1, 1), (2, 37, 5, 2), (19, 21, 2, 3)):
        done = cross(
            *("gemv", "--type", type_name, "--path", path, "--m", m, "--n", n, "--k", blocks * block),
            *("--threads", threads, "--seed", n, "--check"),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith(" ok\n")


@pytest.mark.parametrize("type_name", TYPE_NUMBERS)
def test_the_check_finds_a_wrong_result_of_a_kernel(cross: Run, type_name: str) -> None:
    done = cross("gemv", "--type", type_name, "--path", "neon", "--check", "--corrupt")
    assert done.returncode == 1
    assert "wrong result in row 0, column 63" in done.stderr


def test_the_others_run(cross: Run) -> None:
    for args in (("stream", "--threads", 2, "--bytes", 65536, "--check"), ("chase", "--bytes", 65536)):
        done = cross(*args)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("roi 0 ")


def test_what_no_emulator_knows_is_illegal(cross: Run) -> None:
    """Neither lutmm nor gem5's operations are executed unless they are asked for."""
    assert _signal(cross("gemv", "--path", "lutmm")) == SIGILL
    assert _signal(cross("gemv", "--m5")) == SIGILL
    for word in (0x02000000, 0x02600000, 0x03E00000, 0x02000400):
        done = cross("illegal", "--word", hex(word))
        assert done.stdout == f"0x{word:08x} runs\n"
        assert _signal(done) == SIGILL
    assert _signal(cross("illegal", "--load-unmapped")) == SIGSEGV


@pytest.fixture(scope="module")
def listing(cross_folder: Path) -> str:
    """gemv, disassembled."""
    done = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", cross_folder / "gemv"], capture_output=True, text=True, check=True
    )
    return done.stdout


def _function(listing: str, name: str) -> str:
    found = re.search(rf"^[0-9a-f]+ <{re.escape(name)}>:\n(.*?)\n\n", listing, re.MULTILINE | re.DOTALL)
    assert found, name
    return found.group(1)


@pytest.mark.parametrize("type_name", TYPE_NUMBERS)
def test_kernels_are_llama_cpps_with_dot_product_instructions(listing: str, type_name: str) -> None:
    activation = "q8_K" if type_name.endswith("K") else "q8_1" if type_name.endswith("1") else "q8_0"
    assert re.search(r"\tsdot\tv\d+\.4s", _function(listing, f"ggml_vec_dot_{type_name}_{activation}"))


def test_instructions_are_encoded_as_the_contract_says(listing: str) -> None:
    words = set(re.findall(r"^ +[0-9a-f]+:\t([0-9a-f]{8}) ", listing, re.MULTILINE))
    lutmm = {"02000000", "02200000", "02400000"}
    gem5 = {f"ff{function:02x}0110" for function in (0x5A, 0x5B, 0x07, 0x01)}
    assert lutmm <= words
    assert gem5 <= words
    in_those_groups = {word for word in words if int(word, 16) >> 25 & 15 == 1 or word.startswith("ff")}
    assert in_those_groups == lutmm | gem5


def test_no_system_call_ends_gem5(listing: str) -> None:
    """clone3 (435) is what gem5's emulation does not know; see no_clone3.c."""
    assert not re.search(r"\tmov\tx8, #0x1b3\b", listing)
    assert re.search(r"\tmov\tx8, #0xdc\b", listing)  # clone: how threads are made
