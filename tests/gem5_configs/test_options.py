"""The command line of run.py: what cannot work is refused in one line, before gem5 builds anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from spec import checkpoint
from spec import options as command_line
from spec import system as systems
from spec.errors import SpecError

from .conftest import CONFIGS, make_elf


def test_defaults(elf: Path) -> None:
    options = command_line.parse(["--system", "sail", "--binary", str(elf)])
    assert (options.cpu, options.cores, options.caches, options.mem_bytes) == ("o3", 1, "n1", 4 << 30)
    assert options.args == []


def test_everything_after_args_is_the_guests(elf: Path) -> None:
    options = command_line.parse(["--system=sail", f"--binary={elf}", "--cores=4", "--args", "--cpu", "-t", "q4_0"])
    assert options.args == ["--cpu", "-t", "q4_0"]
    assert options.cpu == "o3"
    assert command_line.guest_command(options) == "guest.elf --cpu -t q4_0"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give either --system NAME or --experiment"),
        (["--system=a", "--experiment=b"], "give either --system NAME or --experiment"),
        (["--system=sail", "--cpu=o4"], "argument --cpu: invalid choice: 'o4'"),
        (["--system=sail", "--cores=0"], "argument --cores: expected a whole number of at least 1, got '0'"),
        (["--system=sail", "--cores=two"], "argument --cores: expected a whole number of at least 1, got 'two'"),
        (["--system=sail", "--mem-size=4GB"], "--mem-size 4GB: expected a multiple of 64MiB"),
        (["--system=sail", "--mem-size=100MiB"], "--mem-size 100MiB: expected a multiple of 64MiB"),
        (["--system=sail", "--mem-size=0GiB"], "--mem-size 0GiB: expected a multiple of 64MiB"),
        (["--system=sail", "--core=3"], "unrecognized arguments: --core=3"),
        (["--system=sail", "--env=HOME"], "--env HOME: expected NAME=VALUE"),
        (["--system=sail", "--plugin=x", "--no-plugin"], "--plugin and --no-plugin contradict"),
        (["--system=sail", "--checkpoint-at-roi=1"], "--checkpoint-at-roi: needs --checkpoint DIR"),
        (["--system=sail", "--checkpoint=d", "--checkpoint-at-roi=1,"], "several such as 0,2,5, got '1,'"),
        (["--system=sail", "--checkpoint=d", "--checkpoint-at-roi=-1"], "several such as 0,2,5, got '-1'"),
        (["--system=sail", "--checkpoint=d", "--checkpoint-at-roi=0,-1"], "ascending region indexes, got -1 after 0"),
        (["--system=sail", "--checkpoint=d", "--checkpoint-at-roi=1,3,2"], "ascending region indexes, got 2 after 3"),
        (["--system=sail", "--checkpoint=d", "--checkpoint-at-roi=1,1"], "region indexes, got 1 twice in '1,1'"),
        (["--system=sail", "--detailed-from-roi=1"], "--detailed-from-roi: needs --fast-forward"),
        (
            ["--system=sail", "--fast-forward", "--detailed-from-roi=2", "--stop-after-roi=1"],
            "--stop-after-roi 1: before --detailed-from-roi 2, nothing would be measured",
        ),
        (["--system=sail", "--checkpoint-continue"], "--checkpoint-continue: needs --checkpoint DIR"),
        (
            ["--system=sail", "--checkpoint=d", "--checkpoint-at-roi=1", "--checkpoint-at-tick=5"],
            "--checkpoint-at-roi and --checkpoint-at-tick: give one of them",
        ),
        (["--system=sail", "--fast-forward", "--cpu=atomic_noncaching"], "is the fast CPU already"),
        (["--system=sail", "--fast-forward", "--restore=d"], "--fast-forward does not go with checkpoints"),
        (["--system=sail", "--restore=nowhere"], r"--restore nowhere: no checkpoint there (no file m5.cpt)"),
        (["--system=sail", "--max-ticks=-1"], "argument --max-ticks: expected a whole number of at least 1"),
    ],
)
def test_refusals(elf: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as status:
        command_line.parse([*given, f"--binary={elf}"])
    assert status.value.code == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1, "one line"


def test_checkpoints_of_several_regions(elf: Path) -> None:
    base = ["--system=sail", f"--binary={elf}", "--checkpoint=d"]
    several = command_line.parse([*base, "--checkpoint-at-roi=0,2,11"]).checkpoint_at_roi
    assert several == [0, 2, 11]
    assert [checkpoint.place("d", several, n) for n in several] == ["d/roi-0", "d/roi-2", "d/roi-11"]
    one = command_line.parse([*base, "--checkpoint-at-roi=2"]).checkpoint_at_roi
    assert checkpoint.place("d", one, 2) == checkpoint.place("d", None, None) == "d"


def test_guest_must_be_a_static_aarch64_program(tmp_path: Path) -> None:
    check = command_line.check_guest
    check(str(make_elf(tmp_path / "good")))
    with pytest.raises(SpecError, match=r"ELF machine 62, expected 183 .*aarch64-linux-gnu-gcc -static"):
        check(str(make_elf(tmp_path / "x86", machine=62)))
    with pytest.raises(SpecError, match="expected 183"):
        check(str(make_elf(tmp_path / "arm32", bits=1)))
    with pytest.raises(SpecError, match="dynamically linked; link it with -static"):
        check(str(make_elf(tmp_path / "dynamic", segment=3)))
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        check(str(tmp_path / "gone"))
    (tmp_path / "text").write_text("#!/bin/sh\n")
    with pytest.raises(SpecError, match="not an ELF program"):
        check(str(tmp_path / "text"))


def test_cores_are_held_against_the_system(elf: Path) -> None:
    options = command_line.parse(["--system=sail", f"--binary={elf}", "--cores=65"])
    with pytest.raises(SpecError, match=r"--cores 65: system sail has 64 \(cpu\.cores\)"):
        command_line.check_against(options, systems.resolve("sail")["sections"], "sail")


def test_checkpoint_folder_must_be_free(elf: Path, tmp_path: Path) -> None:
    (tmp_path / "cpt").mkdir()
    (tmp_path / "cpt/m5.cpt").write_text("")
    options = command_line.parser().parse_args(["--system=sail", f"--binary={elf}", f"--checkpoint={tmp_path}/cpt"])
    with pytest.raises(SpecError, match="there already, and not empty"):
        command_line.check(options)


def test_help_has_an_example_and_the_exit_statuses() -> None:
    text = command_line.parser().format_help()
    assert "gem5.opt --outdir=m5out gem5_configs/run.py --system sail" in text
    assert "exit status" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--system=v100"], "system v100: kind 'gpu-roofline' cannot be built in gem5"),
        (["--system=neoverse-n1"], "this script is run by gem5: gem5.opt run.py ..."),
    ],
)
def test_run_py_outside_gem5(elf: Path, given: list[str], message: str) -> None:
    command = [sys.executable, str(CONFIGS / "run.py"), *given, f"--binary={elf}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"run.py: {message}")
    assert done.stderr.count("\n") == 1
