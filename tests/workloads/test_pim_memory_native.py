"""The guest programs for memory with PIM on this machine, with the model in the place of the simulator."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from gempim.systems import load_system

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _memory(stacks: int = 1, **changes: object) -> str:
    """What the software device is told: the shipped system, with few rows."""
    system = load_system("duplex")
    values = {**system.values("logic_pim"), **system.values("dram"), "rows": 8, "window_bytes": 262144 * stacks * 4}
    values.update(changes, stacks=stacks)
    return ",".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in values.items())


@pytest.mark.parametrize("stacks", [1, 5])
@pytest.mark.parametrize("number_format", ["fp16", "bf16"])
@pytest.mark.parametrize("split", ["n", "k"])
def test_gemv_gives_the_right_results(native: Run, stacks: int, number_format: str, split: str) -> None:
    for n, k, tokens, spaces in ((1, 1, 1, 1), (37, 130, 3, 2), (300, 700, 2, 3), (5, 3, 7, 4)):
        done = native(
            *("pim_gemv", "--format", number_format, "--split", split, "--n", n, "--k", k, "--tokens", tokens),
            *("--spaces", spaces, "--threads", 2, "--bytes", 4096, "--repeat", 2, "--check"),
            GEMPIM_PIM_MEMORY=_memory(stacks),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("ok\n")


def test_the_check_finds_a_wrong_result(native: Run) -> None:
    options = ("pim_gemv", "--n", 9, "--k", 40, "--check")
    done = native(*options, "--corrupt", GEMPIM_PIM_MEMORY=_memory())
    assert done.returncode == 1
    assert "output 8: expected" in done.stderr
    done = native(*options, GEMPIM_PIM_MEMORY=_memory(), GEMPIM_SOFTWARE_FAULT="value")
    assert done.returncode == 1
    assert "output 8: expected" in done.stderr


@pytest.mark.parametrize("stacks", [1, 5])
def test_what_the_contract_refuses(native: Run, stacks: int) -> None:
    done = native("pim_fuzz", GEMPIM_PIM_MEMORY=_memory(stacks))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("reserved", "desc.reserved[i] = UINT64_C(1) << 63: expected 6, got 1"),
        ("refusal-writes", "memory after a refusal"),
        ("value", "24 as FP16"),
    ],
)
def test_fuzz_finds_a_defect_of_the_device(native: Run, fault: str, words: str) -> None:
    done = native("pim_fuzz", GEMPIM_PIM_MEMORY=_memory(), GEMPIM_SOFTWARE_FAULT=fault)
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    ("memory", "options", "words"),
    [
        (None, (), "there is no PIM memory"),
        ("", (), "GEMPIM_PIM_MEMORY: "),
        (_memory() + ",other=1", (), "other: unknown parameter"),
        (_memory(bundle_banks=3), (), "logic_pim.bundle_banks = 3: allowed is"),
        (_memory(), ("--format", "fp32"), "--format fp32: expected fp16 or bf16"),
        (_memory(), ("--split", "m"), "--split m: expected n or k"),
        (_memory(), ("--first-space", 2, "--spaces", 3), "the memory has 4"),
        (_memory(), ("--n", 4096, "--k", 4096), "do not fit a window"),
    ],
)
def test_bad_input_is_named(native: Run, memory: str | None, options: tuple[object, ...], words: str) -> None:
    environment = {} if memory is None else {"GEMPIM_PIM_MEMORY": memory}
    done = native("pim_gemv", *options, **environment)
    assert done.returncode == 2
    assert words in done.stderr
