"""The host side of a gem5 run, with a stand-in for gem5: run directories, refusals, and what a failure says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spec import options as command_line
from typer.testing import CliRunner

from gempim.cli import app
from gempim.engines import gem5_se
from gempim.engines.gem5_se import Gem5Options, run_gem5_se
from gempim.plugin import SOURCES, SOURCES_HASH, sources_sha256
from gempim.quantity import DataError
from gempim.rundir import is_complete
from gempim.systems import load_system

SAIL, N1 = load_system("sail"), load_system("neoverse-n1")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "plugin"
    path.mkdir()
    (path / "library.so").write_bytes(b"plug-in")
    return path


def test_a_run_directory_like_any_other(elf: Path, fake_gem5: Path, plugin: Path, tmp_path: Path) -> None:
    options = Gem5Options(binary=elf, args=("-t", "q4_0"), cpu="timing", cores=4)
    path = run_gem5_se(SAIL, options, tmp_path / "runs", gem5=fake_gem5, plugin=plugin)
    assert path.name.startswith("gem5-sail-guest.elf-timing-c4-")
    assert is_complete(path)
    assert sorted(p.name for p in path.iterdir()) == [
        "argv.json", "config.ini", "gem5.log", "guest.out", "manifest.json", "result.json", "roi.jsonl", "stats.txt",
        "system.json",
    ]  # fmt: skip
    result = json.loads((path / "result.json").read_text())
    assert result["sim_seconds"] == pytest.approx(2001e-12)
    assert [(r["label"], r["pim"]["commands"], r["pim"]["lookups"]) for r in result["rois"]] == [
        ("pass 0", 0, 12),
        ("pass 1", 3, 12),
    ]
    assert set(result["rois"][0]["pim"]) == {"commands", "lookups"}, "counters of the device, not of its power model"
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["hashes"]) == {"gem5", "gem5_configs", "guest", "plugin"}
    assert manifest["resolved"]["sections"]["sram_pim"]["nbw"] == 4
    # What gem5 was told is what run.py understands.
    argv = json.loads((path / "argv.json").read_text())
    script = next(i for i, a in enumerate(argv) if a.endswith("run.py"))
    parsed = command_line.parser().parse_args(argv[script + 1 :])
    assert (parsed.cpu, parsed.cores, parsed.args, parsed.plugin) == ("timing", 4, ["-t", "q4_0"], str(plugin))
    assert Path(parsed.experiment).name == "system.json"


def test_gem5_ends_with_whoever_started_it(elf: Path, fake_gem5: Path, tmp_path: Path) -> None:
    """gempim is killed in the middle of a run: nothing goes on burning a processor."""
    code = (
        "import sys; from pathlib import Path; from gempim.engines.gem5_se import Gem5Options, run_gem5_se\n"
        "from gempim.systems import load_system; elf, gem5, runs = map(Path, sys.argv[1:])\n"
        "run_gem5_se(load_system('neoverse-n1'), Gem5Options(binary=elf), runs, gem5=gem5)"
    )
    runs = tmp_path / "runs"
    gempim = subprocess.Popen(
        [sys.executable, "-P", "-c", code, elf, fake_gem5, runs], env=os.environ | {"FAKE_GEM5": "forever"}
    )
    pid = _wait_for(lambda: next((int(p.read_text()) for p in runs.glob(".partial-*/pid") if p.read_text()), None))
    assert Path(f"/proc/{pid}").exists()
    gempim.kill()
    gempim.wait()

    def gone() -> bool | None:
        status = Path(f"/proc/{pid}/status")
        return True if not status.exists() or "\nState:\tZ" in status.read_text() else None

    assert _wait_for(gone)


def _wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (found := what()) is not None:
            return found
        time.sleep(0.02)
    return None


def test_a_complete_run_is_not_run_again_and_what_decides_it_names_it(
    elf: Path, fake_gem5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GEM5", "cpu")
    weights = tmp_path / "model.gguf"
    weights.write_text("a")
    options = Gem5Options(binary=elf, args=(str(weights),))
    first = run_gem5_se(N1, options, tmp_path / "runs", gem5=fake_gem5)
    monkeypatch.setenv("FAKE_GEM5", "exit=9")
    assert run_gem5_se(N1, options, tmp_path / "runs", gem5=fake_gem5) == first
    monkeypatch.setenv("FAKE_GEM5", "cpu")
    weights.write_text("b")
    assert run_gem5_se(N1, options, tmp_path / "runs", gem5=fake_gem5) != first
    slower = N1.with_override("cpu.clock_hz", "2e9", origin="--set")
    assert run_gem5_se(slower, options, tmp_path / "runs", gem5=fake_gem5) != first


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("exit=3", r"gem5 ended with status 3; the log is .*\.failed-gem5-neoverse-n1-.*\.log, its last lines:"),
        ("signal=6", "gem5 was ended by signal 6; the log is"),
        ("cpu,norois", r"gem5 left no roi\.jsonl"),
        ("cpu,mismatch", r"roi\.jsonl has 2 regions but stats\.txt has 3 sections"),
    ],
)
def test_failures_show_the_end_of_the_log_and_leave_no_run(
    elf: Path, fake_gem5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, message: str
) -> None:
    monkeypatch.setenv("FAKE_GEM5", how)
    with pytest.raises(DataError, match=message) as error:
        run_gem5_se(N1, Gem5Options(binary=elf), tmp_path / "runs", gem5=fake_gem5)
    assert not [p for p in (tmp_path / "runs").iterdir() if not p.name.startswith(".failed-")]
    if how == "exit=3":
        assert "run.py: guest: it went wrong" in str(error.value)
    if how.startswith("signal"):
        assert "panic: the guest read address 0" in str(error.value)
        assert "(+0x1234)" not in str(error.value), "no back trace"


def test_a_pim_that_did_nothing_is_an_error(
    elf: Path, fake_gem5: Path, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"system": SAIL, "options": Gem5Options(binary=elf), "root": tmp_path / "runs"}
    monkeypatch.setenv("FAKE_GEM5", "idle")
    with pytest.raises(DataError, match=r"issued no lutmm command in any region.*add --allow-idle-pim"):
        run_gem5_se(**run, gem5=fake_gem5, plugin=plugin)
    assert list((tmp_path / "runs").iterdir()) == []
    path = run_gem5_se(**run, gem5=fake_gem5, plugin=plugin, allow_idle_pim=True)
    with pytest.raises(DataError, match="issued no lutmm command"):
        run_gem5_se(**run, gem5=fake_gem5, plugin=plugin)
    assert is_complete(path)
    monkeypatch.setenv("FAKE_GEM5", "cpu")
    (plugin / "library.so").write_bytes(b"another one")
    with pytest.raises(DataError, match=r"gem5's statistics have no sram_pim\.commands"):
        run_gem5_se(**run, gem5=fake_gem5, plugin=plugin)


def test_refusals_before_gem5_starts(
    elf: Path, fake_gem5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMPIM_PLUGIN", raising=False)

    def run(system=N1, gem5: Path | None = fake_gem5, **options: object) -> None:
        run_gem5_se(system, Gem5Options(**{"binary": elf, **options}), tmp_path / "runs", gem5=gem5)

    with pytest.raises(DataError, match="v100 is of kind gpu-roofline, which gem5 cannot build"):
        run(load_system("v100"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="sail needs the gem5 plug-in: not there; build it with: gempim plugin build"):
        run(SAIL)
    monkeypatch.setenv("GEMPIM_PLUGIN", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"GEMPIM_PLUGIN .*gone: not there; build it with"):
        run(SAIL)
    with pytest.raises(DataError, match=r"--gem5 .*nothing: no such program"):
        run(gem5=tmp_path / "nothing")
    with pytest.raises(DataError, match=r"--binary .*gone: no such file"):
        run(binary=tmp_path / "gone")
    with pytest.raises(DataError, match="--cores 65: expected 1 to 64, the cores of neoverse-n1"):
        run(cores=65)
    with pytest.raises(DataError, match="--cpu fast: expected one of atomic_noncaching"):
        run(cpu="fast")
    with pytest.raises(DataError, match="--caches big: expected one of n1, none"):
        run(caches="big")
    with pytest.raises(DataError, match=r"--restore .*: no checkpoint there"):
        run(restore=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"no gem5\.opt on the PATH; name it with --gem5"):
        run(gem5=None)
    assert not (tmp_path / "runs").exists()


def test_both_sides_look_for_the_plugin_in_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gempim_plugin

    monkeypatch.delenv("GEMPIM_PLUGIN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Path(gempim_plugin.default_folder("0123456789abcdef0123"))
    folder.mkdir(parents=True)
    (folder / SOURCES_HASH).write_text(sources_sha256() + "\n")
    assert gem5_se.find_plugin(None, SAIL, "0123456789abcdef0123") == folder


def test_a_plugin_of_other_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was built before gempim was changed must not answer for it; one that is named is the user's own choice."""
    monkeypatch.delenv("GEMPIM_PLUGIN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "gempim" / "plugin" / "for-0123456789abcdef"
    folder.mkdir(parents=True)
    for text in (None, "0" * 64 + "\n"):
        if text is not None:
            (folder / SOURCES_HASH).write_text(text)
        with pytest.raises(DataError, match="from other sources than this gempim's; build it with: gempim plugin"):
            gem5_se.find_plugin(None, SAIL, "0123456789abcdef0123")
        assert gem5_se.find_plugin(folder, SAIL, "0123456789abcdef0123") == folder
    sources = tmp_path / "src_ext"
    shutil.copytree(SOURCES, sources)
    monkeypatch.setattr("gempim.plugin.SOURCES", sources)
    (folder / SOURCES_HASH).write_text(sources_sha256())
    assert gem5_se.find_plugin(None, SAIL, "0123456789abcdef0123") == folder
    (sources / "models" / "sram_pim" / "plan.cc").write_bytes(b"")
    with pytest.raises(DataError, match="other sources"):
        gem5_se.find_plugin(None, SAIL, "0123456789abcdef0123")


def test_both_sides_have_the_same_choices() -> None:
    assert gem5_se.CPUS == command_line.CPUS
    assert gem5_se.CACHES == command_line.CACHES


def test_command_line(elf: Path, fake_gem5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GEM5", "cpu")
    base = ["run", "--engine", "gem5-se", "--system", "neoverse-n1", "--runs", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, [*base, "--binary", str(elf), "--gem5", str(fake_gem5), "-o", "jsonl"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [(r["region"], r["label"], r["instructions"]) for r in rows] == [(0, "pass 0", 70), (1, "pass 1", 70)]
    for more, message in (
        ([], "--binary GUEST is missing"),
        (["--binary", str(elf), "--quant", "q4_0"], "runs a program, not a model: --quant does not go with it"),
        (["--binary", str(elf), "--args", "'x"], "--args 'x: No closing quotation"),
    ):
        bad = CliRunner().invoke(app, [*base, *more])
        assert isinstance(bad.exception, DataError)
        assert message in str(bad.exception)
    other = CliRunner().invoke(app, ["run", "--model", "llama-2-7b", "--quant", "q4_0", "--cores", "3"])
    assert str(other.exception) == "--cores goes with --engine gem5-se"


def test_resolve_command(tmp_path: Path) -> None:
    out = tmp_path / "sail.json"
    done = CliRunner().invoke(app, ["resolve", "--set", "system.sram_pim.nbw=3", "-o", str(out)])
    assert done.exit_code == 0, done.output
    doc = json.loads(out.read_text())
    assert (doc["schema"], doc["system"], doc["sections"]["sram_pim"]["nbw"]) == (1, "sail", 3)
    shown = CliRunner().invoke(app, ["resolve", "--system", "v100"])
    assert json.loads(shown.stdout)["kind"] == "gpu-roofline"
    file = tmp_path / "e.toml"
    file.write_text('[experiment]\nsystem = "neoverse-n1"\n[model]\nname = "llama-2-7b"\nquant = "q4_0"\n'
                    '[set]\n"llc.slices" = 16\n')  # fmt: skip
    shown = CliRunner().invoke(app, ["resolve", str(file)])
    assert json.loads(shown.stdout)["sections"]["llc"]["slices"] == 16
    both = CliRunner().invoke(app, ["resolve", str(file), "--system", "sail"])
    assert "--system and an experiment file exclude each other" in str(both.exception)
    nowhere = CliRunner().invoke(app, ["resolve", "-o", str(tmp_path / "no/such/folder.json")])
    assert "cannot be written: No such file" in str(nowhere.exception)
