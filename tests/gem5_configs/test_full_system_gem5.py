"""Linux on the simulated machine: does it boot, run what it is handed, share the PIM between programs, and end clearly?

The boot checkpoint for four cores is kept in the cache, as for any user. Where GEMPIM_TEST_LONG is 1, two tests boot
anew and one runs everything on the out-of-order CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gempim.analysis.stats import parse_stats
from gempim.engines.gem5_fs import FullSystemOptions, run_gem5_fs
from gempim.engines.gem5_se import pim_counters
from gempim.models import synth
from gempim.plugin import build as build_plugin
from gempim.quantity import DataError
from gempim.rundir import is_complete
from gempim.systems import load_system
from gempim.workloads.build import build_micro
from gempim.workloads.guest import PROGRAM, build_guest
from gempim.workloads.linux.build import build_linux

from .conftest import HERE, run_script

pytestmark = [pytest.mark.gem5, pytest.mark.slow, pytest.mark.xdist_group("linux")]

takes_minutes = pytest.mark.skipif(
    os.environ.get("GEMPIM_TEST_LONG") != "1",
    reason="NOT RUN: boots from reset and long out-of-order runs, minutes each; GEMPIM_TEST_LONG=1 runs them",
)

Done = subprocess.CompletedProcess[str]
Linux = Callable[..., Done]

CORES = 4
GEMV = ("--type", "q4_0", "--n", "256", "--k", "256", "--check", "--m5")
RESET, HUNG = 122, 123


@pytest.fixture(scope="session")
def micro() -> Path:
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("NOT RUN: no aarch64-linux-gnu-g++ (Debian package g++-aarch64-linux-gnu)")
    return build_micro()


@pytest.fixture(scope="session")
def plugin(gem5: Path) -> Path:
    try:
        return build_plugin(gem5)
    except DataError as e:
        pytest.skip(f"NOT RUN: {e}")


@pytest.fixture(scope="session")
def linux_folder() -> Path:
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("NOT RUN: no aarch64-linux-gnu-gcc (Debian package gcc-aarch64-linux-gnu)")
    try:
        return build_linux()
    except DataError as e:
        if "cannot be had" not in str(e):
            raise
        pytest.skip(f"NOT RUN: {e}")


@pytest.fixture
def linux(gem5: Path, plugin: Path, linux_folder: Path, tmp_path: Path) -> Linux:
    """Runs run.py --fs on four cores: linux("echo hi", "--file=x", out="m5out")."""

    def run(
        script: str, *options: str, out: str = "m5out", system: str = "sail", cpu: str = "atomic_noncaching"
    ) -> Done:
        (tmp_path / f"{out}.sh").write_text(script)
        return run_script(
            gem5, tmp_path / out, "--fs", f"--linux={linux_folder}", f"--system={system}", f"--cpu={cpu}",
            f"--cores={CORES}", f"--script={tmp_path / f'{out}.sh'}", *options,
            *(() if "--no-plugin" in options else (f"--plugin={plugin}",)), timeout=1800,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def fs_guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fs_guest.c` for AArch64."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("NOT RUN: no aarch64-linux-gnu-gcc (apt-get install gcc-aarch64-linux-gnu)")
    out = tmp_path_factory.mktemp("guest") / "fs_guest"
    source = HERE.parents[1] / "src_ext"
    subprocess.run([compiler, "-O2", "-static", f"-I{source}", HERE / "fs_guest.c", "-o", out], check=True)
    return out


def _counters(out: Path) -> list[dict[str, Any]]:
    found = [pim_counters(section) for section in parse_stats(out / "stats.txt")]
    return [counters for counters in found if counters is not None]


@takes_minutes
def test_boots_on_one_core_and_runs_a_script(gem5: Path, linux_folder: Path, tmp_path: Path) -> None:
    """A boot from reset: the checkpoint is left for others, and the script sees one core of a Neoverse-N1."""
    script = tmp_path / "s.sh"
    script.write_text("nproc; grep -m1 'CPU part' /proc/cpuinfo; uname -m; cat extra; exit 0\n")
    (tmp_path / "extra").write_text("handed over\n")
    boots = tmp_path / "boots"
    options = [
        "--fs", f"--linux={linux_folder}", "--system=neoverse-n1", "--cpu=atomic_noncaching", "--mem-size=256MiB",
        f"--script={script}", f"--file={tmp_path / 'extra'}", f"--boot-dir={boots}",
    ]  # fmt: skip
    done = run_script(gem5, tmp_path / "first", *options, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-4:] == ["1", "CPU part\t: 0xd0c", "aarch64", "handed over"]
    assert (tmp_path / "first" / "guest.out").read_text().splitlines() == lines[-4:]
    assert "Linux booted in" in (tmp_path / "first" / "boot.log").read_text()
    assert [row["label"] for row in map(json.loads, (tmp_path / "first" / "roi.jsonl").read_text().splitlines())] == [
        "whole run"
    ]
    kept = [p for p in boots.iterdir() if p.is_dir()]
    assert len(kept) == 1
    before = (kept[0] / "m5.cpt").stat().st_mtime_ns
    again = run_script(gem5, tmp_path / "second", *options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-4:] == lines[-4:]
    assert "booting" not in again.stderr
    assert (kept[0] / "m5.cpt").stat().st_mtime_ns == before
    other = run_script(gem5, tmp_path / "third", *options[:-1], f"--boot-dir={tmp_path}", f"--restore={kept[0]}")
    assert other.returncode == 2, "the checkpoint of a boot is no checkpoint of a run"


def test_one_checkpoint_serves_every_configuration_and_gemv_is_that_of_syscall_emulation(
    gem5: Path, linux: Linux, plugin: Path, micro: Path, tmp_path: Path
) -> None:
    """The same product under Linux on SAIL (functional, timing, out of order) and on N1: right results everywhere, and
    the PIM's own counters are to the count those of syscall emulation, but for times."""
    lutmm = f"./gemv {' '.join(GEMV)} --threads 2 --path lutmm"
    emulated = run_script(
        gem5, tmp_path / "se", "--system=sail", "--cpu=atomic_noncaching", "--cores=2", f"--plugin={plugin}",
        f"--binary={micro / 'gemv'}", "--args", *GEMV, "--threads", "2", "--path", "lutmm",
    )  # fmt: skip
    assert emulated.returncode == 0, emulated.stderr
    expected = _counters(tmp_path / "se")[0]
    # Waiting for memory takes other times with other cores and caches.
    skipped = ("Ticks", "_ps", "lutmmWaits", "lutmmSleeps", "lutmmFaults")
    for cpu in ("atomic_noncaching", "timing", "o3"):
        fast = () if cpu == "atomic_noncaching" else ("--fast-forward",)
        done = linux(lutmm, f"--file={micro / 'gemv'}", *fast, out=cpu, cpu=cpu)
        assert done.returncode == 0, done.stdout + done.stderr
        assert " ok\n" in done.stdout
        rows = [json.loads(line) for line in (tmp_path / cpu / "roi.jsonl").read_text().splitlines()]
        assert [row["label"] for row in rows] == ["gemv.q4_0.lutmm.m1.n256.k256.t2"]
        counters = _counters(tmp_path / cpu)[0]
        same = {k: v for k, v in counters.items() if not k.endswith(skipped)}
        assert same == {k: v for k, v in expected.items() if not k.endswith(skipped)}
        assert counters["lutmmIssued"] > 0
    base = linux(
        f"./gemv {' '.join(GEMV)} --threads 2 --path neon", f"--file={micro / 'gemv'}", "--fast-forward",
        out="n1", system="neoverse-n1", cpu="o3",
    )  # fmt: skip
    assert base.returncode == 0, base.stdout + base.stderr
    assert " ok\n" in base.stdout


CHECKS = ["first_touch", "copy_on_write", "migration", "interrupts", "crowd", "tickets", "unmapped", "killed"]


@pytest.mark.parametrize(
    ("cpu", "checks"),
    [
        ("atomic_noncaching", CHECKS),
        ("timing", CHECKS),
        ("o3", ["first_touch", "migration"]),
        pytest.param("o3", CHECKS, marks=takes_minutes),
    ],
    ids=["functional", "timing", "o3", "o3-all"],
)
def test_an_operating_system_may_do_what_it_does(
    linux: Linux, fs_guest: Path, tmp_path: Path, cpu: str, checks: list[str]
) -> None:
    """First touch, copy on write, migration, interrupts and signals, more programs than cores, tickets of other
    programs, memory that goes away, a program that is killed: fs_guest.c says what each must come to."""
    done = linux(f"./fs_guest {' '.join(checks)}", f"--file={fs_guest}", cpu=cpu)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith(" ok")] == [f"{check} ok" for check in checks]
    counters = _counters(tmp_path / "m5out")[0]
    assert counters["lutmmFaults"] > 10
    if checks == CHECKS:
        assert counters["lutmmFaults"] > 100
        assert counters["memoryErrors"] == 2
        assert counters["droppedWrites"] > 0


def test_two_processes_at_once(linux: Linux, micro: Path, tmp_path: Path) -> None:
    """Two programs with different weights, both right, and the script knows which of its commands failed."""
    done = linux(
        "./gemv --type q4_0 --n 256 --k 1024 --path lutmm --check > a & A=$!\n"
        "./gemv --type q8_0 --n 320 --k 512 --path lutmm --check > b & B=$!\n"
        "wait $A && wait $B && cat a b\n",
        f"--file={micro / 'gemv'}",
        cpu="timing",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(line.endswith(" ok") for line in done.stdout.splitlines()) == 2, done.stdout
    assert _counters(tmp_path / "m5out")[0]["commandsDone"] >= 2


def test_ends_are_clear(linux: Linux, micro: Path, tmp_path: Path) -> None:
    """A script that fails, a program that crashes, a kernel panic, a hang: each its own status and words."""
    failed = linux("echo before; exit 3", out="failed")
    assert failed.returncode == 3
    assert "the script ended with exit status 3" in failed.stderr
    assert "before\n" in failed.stdout
    assert not (tmp_path / "failed" / "roi.jsonl").exists()
    crashed = linux("exec ./illegal --unmapped", f"--file={micro / 'illegal'}", "--no-plugin", out="crashed")
    assert crashed.returncode not in (0, 1, 2)
    panicked = linux("echo c > /proc/sysrq-trigger", out="panicked")
    assert panicked.returncode == RESET
    assert "a kernel panic" in panicked.stderr
    assert "Kernel panic - not syncing: sysrq triggered crash" in panicked.stderr
    assert "sysrq triggered crash" in (tmp_path / "panicked" / "console.log").read_text()
    hung = linux("sleep 100000", "--hang-after=0.5", out="hung")
    assert hung.returncode == HUNG
    assert "all cores have idled for 0.5 simulated seconds" in hung.stderr
    off = linux("poweroff -f; sleep 10", out="off")
    assert off.returncode == 0, off.stderr
    busy = linux("while :; do :; done", "--max-ticks=20000000000", out="busy")
    assert busy.returncode == 124
    assert "reached --max-ticks 20000000000" in busy.stderr


@takes_minutes
def test_a_kernel_without_its_initramfs_says_so(gem5: Path, linux_folder: Path, tmp_path: Path) -> None:
    """/init is missing: Linux panics, and the boot's error shows the console."""
    broken = tmp_path / "linux"
    shutil.copytree(linux_folder, broken)
    about = json.loads((broken / "linux.json").read_text())
    about["command_line"] = about["command_line"].replace("rdinit=/init", "rdinit=/nothing")
    (broken / "linux.json").write_text(json.dumps(about))
    (tmp_path / "s.sh").write_text("true\n")
    done = run_script(
        gem5, tmp_path / "m5out", "--fs", f"--linux={broken}", "--system=neoverse-n1", "--cpu=atomic_noncaching",
        "--mem-size=256MiB", f"--script={tmp_path / 's.sh'}", f"--boot-dir={tmp_path / 'boots'}", timeout=1800,
    )  # fmt: skip
    assert done.returncode == 2
    assert "the boot of Linux failed with status 122" in done.stderr
    assert "Kernel panic - not syncing" in done.stderr
    assert not [p for p in (tmp_path / "boots").iterdir() if p.is_dir()]


def test_gempim_run_makes_a_run_directory(
    gem5: Path, plugin: Path, linux_folder: Path, micro: Path, tmp_path: Path
) -> None:
    """The engine gem5-fs around run.py: a complete run directory, not run again; a guest that fails leaves none."""
    options = FullSystemOptions(
        linux=linux_folder, binary=micro / "gemv", args=(*GEMV, "--path", "lutmm"), cpu="atomic_noncaching", cores=CORES
    )
    path = run_gem5_fs(load_system("sail"), options, tmp_path, gem5=gem5, plugin=plugin)
    assert is_complete(path)
    assert path.name.startswith("gem5-fs-sail-gemv-atomic_noncaching-c4-")
    result = json.loads((path / "result.json").read_text())
    assert result["rois"][0]["pim"]["commands"] > 0
    assert (path / "console.log").is_file()
    stamp = (path / "manifest.json").stat().st_mtime_ns
    assert run_gem5_fs(load_system("sail"), options, tmp_path, gem5=gem5, plugin=plugin) == path
    assert (path / "manifest.json").stat().st_mtime_ns == stamp
    bad = FullSystemOptions(
        linux=linux_folder, binary=micro / "gemv", args=("--type", "nonsense"), cpu="atomic_noncaching", cores=CORES
    )
    with pytest.raises(DataError, match="exit status 2"):
        run_gem5_fs(load_system("sail"), bad, tmp_path, gem5=gem5, plugin=plugin)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == [path]


def test_llama_generates_the_native_tokens(linux: Linux, tmp_path: Path) -> None:
    """llama.cpp under Linux on the PIM, against the same program here with the PIM in software: the token ids.

    A small model with random weights; its likeliest tokens lead by far (tests/gempim/test_llama_gem5.py).
    """
    model = tmp_path / "model.gguf"
    synth.write(synth.plan("smollm2-135m", "q4_0", layers=2, vocab=300), model)
    arguments = ["--prompt", "Hello", "--tokens", "4", "--device", "lutmm", "--ignore-eos"]
    native = subprocess.run(
        [build_guest(native=True) / PROGRAM, "--model", model, *arguments, "--threads", "1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = [line for line in native.stdout.splitlines() if line.startswith("token ")]
    assert len(expected) == 4
    command = f"./llama --model model.gguf {' '.join(arguments)} --threads 2 --m5"
    done = linux(command, f"--file={build_guest() / PROGRAM}", f"--file={model}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("token ")] == expected
    assert sum(counters["commands"] for counters in _counters(tmp_path / "m5out")) > 0
