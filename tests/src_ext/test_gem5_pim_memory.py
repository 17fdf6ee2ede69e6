"""Memory with Logic-PIM in gem5 against the embedded engine, and its contract from the guest's side.

The guest program `pim_gemv` waits until the memory is at rest, rings a doorbell and asks for the status without
touching memory, region after region. The embedded engine is asked for the same operator from the same clock of a
refresh interval: times must be equal to the picosecond, counters to the event.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gem5_device import Gem5, Run

from gempim import _engine as engine
from gempim.analysis.stats import Section
from gempim.systems import load_system

pytestmark = pytest.mark.gem5

MEMORY = "board.memory.dram."
XPU = "board.memory.xpu."
COUNTERS = [info["name"] for info in engine.logic_pim_counter_info()]
SYSTEM = load_system("duplex")
PIM, DRAM = SYSTEM.values("logic_pim"), SYSTEM.values("dram")
STACKS = SYSTEM.values("memory")["channels"] * DRAM["subchannels"] // PIM["pseudo_channels"]
REST_PS = 900_000
"""By which a region outlasts its command, for the xPU's stream."""
INTERVAL = DRAM["tREFI_ps"] // DRAM["tCK_ps"]
"""Clocks from one refresh of a rank to the next."""


@dataclass(frozen=True)
class Machine:
    """What the embedded engine is told of the memory."""

    pim: dict[str, Any]
    dram: dict[str, Any]
    stacks: int


@dataclass(frozen=True)
class Operator:
    """What the guest asks for, and what the xPU reads beside it."""

    n: int
    k: int
    tokens: int
    spaces: tuple[int, ...]
    split: str = "n"
    xpu_bytes: int = 0
    xpu_spaces: tuple[int, ...] = ()

    def guest(self) -> list[object]:
        """Options of pim_gemv."""
        return [
            "--n", self.n, "--k", self.k, "--tokens", self.tokens, "--split", self.split,
            "--first-space", self.spaces[0], "--spaces", len(self.spaces),
        ]  # fmt: skip

    def options(self) -> tuple[str, ...]:
        """Options of run.py."""
        if not self.xpu_bytes:
            return ()
        return (f"--xpu-bytes={self.xpu_bytes}", f"--xpu-spaces={','.join(map(str, self.xpu_spaces))}")

    def embedded(self, clock: int, machine: Machine) -> tuple[int, int, dict[str, int]]:
        """(pim_ps, xpu_ps, counts) of the embedded engine, from that clock of a refresh interval on."""
        pim = {**machine.pim, "refresh_phase": (clock + 0.5) / INTERVAL}
        device = engine.LogicPim(pim, machine.dram, machine.stacks)
        spaces, beside = list(self.spaces), list(self.xpu_spaces)
        cost: tuple[int, int, dict[str, int]] = device.gemm(
            self.n, self.k, self.tokens, spaces, self.xpu_bytes, beside, self.split
        )
        return cost


def _start_clock(section: Section) -> int:
    """Clock of a refresh interval at which the region's command started."""
    start = section.get(MEMORY + "lastCommandStart")
    assert start % DRAM["tCK_ps"] == 0
    return int(start // DRAM["tCK_ps"] % INTERVAL)


def _compare(run: Run, operator: Operator, machine: Machine) -> list[dict[str, int]]:
    """Hold all regions but the first against the embedded engine. :return: the counts of those that were compared"""
    compared = []
    for section in run.sections()[1:]:  # in the first one the core fetches code from memory while the command runs
        clock = _start_clock(section)
        if clock * DRAM["tCK_ps"] < DRAM["tRFC_ps"] + 100_000:
            continue  # the embedded engine has no refresh before its time 0, which gem5 would still be at
        pim_ps, xpu_ps, counts = operator.embedded(clock, machine)
        assert section.get(MEMORY + "commandsDone") == 1
        assert section.get(MEMORY + "lastCommandTicks") == pim_ps
        assert section.get("simTicks") > pim_ps + REST_PS  # the guest did not hear of it before
        assert {name: section.get(MEMORY + name) for name in COUNTERS} == counts
        if operator.xpu_bytes:
            assert section.get(XPU + "streams") == 1
            assert section.get(XPU + "lastStreamTicks") == xpu_ps
            assert section.get(XPU + "bytesRead") == operator.xpu_bytes
        else:
            assert section.get(MEMORY + "dram_reads") == 0  # else it was no rest
        compared.append(counts | {"pim_ps": pim_ps})
    return compared


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(Operator(64, 256, 40, (1, 2)), id="alone"),
        pytest.param(
            Operator(50, 200, 33, (0, 1, 2), "k", xpu_bytes=655360, xpu_spaces=(3,)), id="xpu in another space"
        ),
        pytest.param(Operator(64, 256, 40, (0, 1), xpu_bytes=655360, xpu_spaces=(0, 3)), id="xpu in the same space"),
    ],
)
def test_same_times_and_counts(device: Gem5, tmp_path: Path, operator: Operator) -> None:
    run = device.run(
        tmp_path, "pim_gemv", *operator.guest(), "--repeat", 10, "--settle-ns", 8000, "--sweep-ns", 3900,
        "--rest-ns", REST_PS // 1000,
        system="duplex", cpu="timing", options=("--fast-forward", *operator.options()),
    )  # fmt: skip
    compared = _compare(run, operator, Machine(PIM, DRAM, STACKS))
    assert len(compared) >= 6
    # Starts at several places of the refresh interval, so that not all of them were the same run.
    assert any(counts["refs"] or counts["stall_refresh_ps"] for counts in compared)
    assert len({counts["pim_ps"] for counts in compared}) > 1
    if 0 in operator.xpu_spaces:
        assert all(counts["conflicts"] > 0 for counts in compared)  # the two did meet


def test_other_parameters_are_the_same_in_both_hosts(device: Gem5, tmp_path: Path) -> None:
    """Every kind of parameter reaches the model in gem5: numbers, fractions, flags and words; and another geometry."""
    # A queue this short makes every late request a lost clock.
    changes = {"bundle_ccd_nCK": 6, "activation_limit": "normal", "priority": "xpu", "rows_ahead": 0, "sum_bytes": 2,
               "reorder_spaces": False, "instruction_ps": 31_000, "refresh_phase": 0.25}  # fmt: skip
    operator = Operator(128, 64, 40, (0, 1), xpu_bytes=131072, xpu_spaces=(2,))
    sets = {f"logic_pim.{key}": value for key, value in changes.items()} | {"dram.read_queue": 2}
    run = device.run(
        tmp_path, "pim_gemv", *operator.guest(), "--repeat", 6, "--settle-ns", 8000, "--sweep-ns", 3900,
        "--rest-ns", REST_PS // 1000,
        system="duplex", cpu="timing", options=("--fast-forward", *operator.options()),
        sets={**sets, "memory.channels": 16},
    )  # fmt: skip
    machine = Machine({**PIM, **changes}, {**DRAM, "read_queue": 2}, 1)
    assert len(_compare(run, operator, machine)) >= 3
    as_shipped = operator.embedded(500, Machine(PIM, DRAM, 1))
    assert operator.embedded(500, machine) != as_shipped  # the changes matter
    assert operator.embedded(500, Machine(PIM, machine.dram, 1))[1] != as_shipped[1]


@pytest.mark.parametrize(
    ("cpu", "cores", "caches", "extra"),
    [
        ("atomic_noncaching", 1, "none", ("--format", "bf16", "--spaces", 3)),
        ("timing", 2, "none", ("--format", "fp16", "--first-space", 3)),
        ("o3", 2, "n1", ("--format", "bf16", "--split", "k", "--spaces", 2, "--first-space", 1)),
    ],
)
def test_the_guest_finds_the_right_results(
    device: Gem5, tmp_path: Path, cpu: str, cores: int, caches: str, extra: tuple[object, ...]
) -> None:
    """While other threads read ordinary memory: results and sums are checked in the guest, within the model's bound."""
    run = device.run(
        tmp_path, "pim_gemv", "--n", 40, "--k", 300, "--tokens", 2, "--threads", cores, "--bytes", 16384, "--repeat", 2,
        *extra, "--check", system="duplex", cpu=cpu, cores=cores, caches=caches,
    )  # fmt: skip
    assert "\nok\n" in run.log
    for section in run.sections():
        assert section.get(MEMORY + "commandsDone") == 1
        assert section.get(MEMORY + "macs") == 40 * 300 * 2
    if cpu == "timing":  # without caches every load is the memory's
        assert run.sections()[0].get(MEMORY + "xpu_reads") > 0


def test_the_guests_check_finds_a_wrong_result(device: Gem5, tmp_path: Path) -> None:
    run = device.run(
        tmp_path, "pim_gemv", "--n", 8, "--k", 16, "--check", "--corrupt", system="duplex", cpu="atomic_noncaching",
        check=False,
    )  # fmt: skip
    assert run.status == 1
    assert "output 7: expected" in run.log


def test_what_the_contract_refuses(device: Gem5, tmp_path: Path) -> None:
    """Each wrong descriptor gets its status, each odd access of a register an answer, and the next commands work."""
    run = device.run(tmp_path, "pim_fuzz", system="duplex", cpu="timing")
    (section,) = run.sections()
    assert section.get(MEMORY + "commandsRefused") > 30
    assert section.get(MEMORY + "commandsDone") == section.get(MEMORY + "commandsAccepted") == 17
    assert section.get(MEMORY + "ringsIgnored") == 1
    assert section.get(MEMORY + "badRegisterAccesses") == 3


SMALL: dict[str, Any] = {"system": "duplex", "caches": "none", "sets": {"memory.channels": 16}}
"""One stack, of which 512 MiB are simulated: what a checkpoint has to hold."""


def _checkpoint_at(device: Gem5, folder: Path, guest: tuple[object, ...], cpu: str, *options: str) -> Run:
    """Run the guest whole, then again up to the middle of its first command, where a checkpoint is asked for.

    :return: the whole run; the checkpoint is folder/cpt, and in it the command is done
    """
    options = ("--mem-size=512MiB", *options)
    whole = device.run(folder, "pim_gemv", *guest, cpu=cpu, out="whole", options=options, **SMALL)
    first = whole.sections()[0]
    start, ticks = (int(first.get(MEMORY + name)) for name in ("lastCommandStart", "lastCommandTicks"))
    assert ticks > 120_000
    device.run(
        folder, "pim_gemv", *guest, cpu=cpu, out="saved",
        options=(*options, f"--checkpoint={folder / 'cpt'}", f"--checkpoint-at-tick={start + 110_000}"), **SMALL,
    )  # fmt: skip
    text = (folder / "cpt" / "m5.cpt").read_text()
    memory = text[text.index("[board.memory.dram]") :]
    assert memory[memory.index("status_=") :].startswith("status_=1 0 0 ")  # 1: done
    return whole


def test_a_checkpoint_waits_for_the_command(device: Gem5, tmp_path: Path) -> None:
    guest = ("--n", 64, "--k", 100, "--tokens", 8, "--check")
    _checkpoint_at(device, tmp_path, guest, "atomic_noncaching")
    restored = device.run(
        tmp_path, "pim_gemv", *guest, cpu="timing", out="restored",
        options=("--mem-size=512MiB", f"--restore={tmp_path / 'cpt'}"), **SMALL,
    )  # fmt: skip
    assert "\nok\n" in restored.log
    assert restored.sections()[0].get(MEMORY + "commandsAccepted") == 0  # it was before the checkpoint


def test_an_xpus_stream_goes_on_after_a_checkpoint(device: Gem5, tmp_path: Path) -> None:
    guest = ("--n", 64, "--k", 100, "--tokens", 8, "--repeat", 2, "--rest-ns", 900, "--check")
    xpu = "--xpu-bytes=524288"
    first = _checkpoint_at(device, tmp_path, guest, "timing", xpu).sections()[0]
    assert first.get(XPU + "lastStreamTicks") > first.get(MEMORY + "lastCommandTicks")
    restored = device.run(
        tmp_path, "pim_gemv", *guest, cpu="minor", out="restored",
        options=("--mem-size=512MiB", xpu, f"--restore={tmp_path / 'cpt'}"), **SMALL,
    )  # fmt: skip
    assert "\nok\n" in restored.log
    rest, second = restored.sections()
    assert rest.get(MEMORY + "commandsAccepted") == 0
    assert rest.get(XPU + "streams") == second.get(XPU + "streams") == 1
    assert 0 < rest.get(XPU + "bytesRead") < second.get(XPU + "bytesRead") == 524288
    assert second.get(MEMORY + "commandsDone") == 1
