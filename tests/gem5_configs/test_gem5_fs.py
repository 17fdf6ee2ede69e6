"""The engine gem5-fs without gem5: what it hands to run.py, and what it refuses before anything is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from spec import options as command_line

from gempim.engines.gem5_fs import FullSystemOptions, HostFile, host_file, input_hashes, run_gem5_fs
from gempim.quantity import DataError
from gempim.systems import load_system

from .conftest import make_elf


@pytest.fixture
def linux_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "linux"
    folder.mkdir()
    (folder / "linux.json").write_text("{}")
    return folder


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "s.sh"
    path.write_text("true\n")
    return path


def test_run_py_reads_every_option_that_the_engine_writes(linux_folder: Path, script: Path, tmp_path: Path) -> None:
    """The engine's command line, parsed by run.py's own parser."""
    options = FullSystemOptions(
        linux=linux_folder, script=script, files=(HostFile(script, "a"),), cpu="timing", cores=3, caches="none",
        mem_size="2GiB", fast_forward=True, max_ticks=7, stop_after_roi=2, hang_after=1.5,
    )  # fmt: skip
    read = command_line.parse(["--system=sail", *options.command()])
    assert (read.fs, read.cpu, read.cores, read.caches, read.mem_bytes) == (True, "timing", 3, "none", 2 << 30)
    assert (read.script, read.file, read.linux) == (str(script), [f"{script}=a"], str(linux_folder))
    assert (read.fast_forward, read.max_ticks, read.stop_after_roi, read.hang_after) == (True, 7, 2, 1.5)
    program = make_elf(tmp_path / "g.elf")
    read = command_line.parse(
        ["--system=sail", *FullSystemOptions(linux=linux_folder, binary=program, args=("-x", "1")).command()]
    )
    assert (read.binary, read.args) == (str(program), ["-x", "1"])


def test_every_file_is_in_the_hashes(linux_folder: Path, script: Path, tmp_path: Path) -> None:
    """A changed kernel, script or file is another run."""
    extra = tmp_path / "extra"
    extra.write_text("1")
    options = FullSystemOptions(linux=linux_folder, script=script, files=(HostFile(extra, "e"),))
    before = input_hashes(options, None)
    for path in (linux_folder / "linux.json", script, extra):
        kept = path.read_text()
        path.write_text(kept + " ")
        assert input_hashes(options, None) != before, path
        path.write_text(kept)
    assert input_hashes(options, None) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"script": None}, "either --script FILE or --binary GUEST"),
        ({"script": Path("nothing.sh")}, "--script nothing.sh: no such file"),
        ({"args": ("1",)}, "--args goes with --binary"),
        ({"cpu": "o4"}, "--cpu o4: expected one of"),
        ({"caches": "l4"}, "--caches l4: expected one of"),
        ({"cores": 1000}, "--cores 1000: expected 1 to"),
        ({"restore": Path("nothing")}, "--restore nothing: no checkpoint there"),
    ],
)
def test_refused_before_gem5_starts(
    linux_folder: Path, script: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    options = FullSystemOptions(**{"linux": linux_folder, "script": script, **changes})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        run_gem5_fs(load_system("sail"), options, tmp_path / "runs", gem5=tmp_path / "no-gem5")
    assert not (tmp_path / "runs").exists()


def test_a_system_that_gem5_cannot_build(linux_folder: Path, script: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which gem5 cannot build"):
        run_gem5_fs(load_system("v100"), FullSystemOptions(linux=linux_folder, script=script), tmp_path / "runs")


def test_files_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m=1.gguf"
    path.write_text("1")
    assert host_file(str(path)) == HostFile(path, "m=1.gguf")
    other = tmp_path / "f"
    other.write_text("1")
    assert host_file(f"{other}=model") == HostFile(other, "model")
    with pytest.raises(DataError, match="--file nothing=x: no such file"):
        host_file("nothing=x")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "--engine", "gem5-fs"], "either --script FILE or --binary GUEST"),
        (["run", "--engine", "gem5-fs", "--script", "x", "--model", "llama-2-7b"], "--model does not go with it"),
        (["run", "--engine", "gem5-se", "--script", "x"], "--script goes with --engine gem5-fs"),
        (["run", "--file", "x"], "--file goes with --engine gem5-fs"),
        (["linux", "build", "--kernel", "nothing"], "--kernel nothing: no such file"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(argv: list[str], message: str, linux_folder: Path) -> None:
    command = [sys.executable, "-P", "-m", "gempim.cli", *argv]
    if "gem5-fs" in argv:
        command += ["--linux", str(linux_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
