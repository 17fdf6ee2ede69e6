"""The plug-in is for one gem5 binary only, and says so; what is missing or wrong is one clear line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gem5_device import Gem5

from gempim import _engine as engine
from gempim import plugin
from gempim.quantity import DataError

sys.path.insert(0, str(plugin.LOADER))
import gempim_plugin

IDENTITY = {"gempim": "1", "gem5_version": "24.0.0.1", "gem5_sha256": "ab" * 32, "compiler": "g++"}


def _library(path: Path, text: bytes) -> Path:
    path.write_bytes(b"\x7fELF" + bytes(100) + text + bytes(50))
    return path


def test_identity_is_read_without_loading(tmp_path: Path) -> None:
    good = gempim_plugin.MARKER + json.dumps(IDENTITY).encode() + b"\n"
    assert gempim_plugin.read_identity(_library(tmp_path / "good.so", good)) == IDENTITY


@pytest.mark.parametrize(
    "text",
    [
        b"",
        gempim_plugin.MARKER,
        gempim_plugin.MARKER + b"{}\n",
        gempim_plugin.MARKER + b"{broken\n",
        gempim_plugin.MARKER + b"\xff\xfe\n",
        gempim_plugin.MARKER + b'["gempim"]\n',
    ],
)
def test_no_identity_is_an_error(tmp_path: Path, text: bytes) -> None:
    library = _library(tmp_path / "bad.so", text)
    with pytest.raises(gempim_plugin.PluginError, match=r"bad\.so: no gempim plug-in.*gempim plugin build"):
        gempim_plugin.read_identity(library)


def test_no_library_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(gempim_plugin.PluginError, match=r"No such file.*gempim plugin build"):
        gempim_plugin.read_identity(tmp_path / "none.so")


@pytest.mark.parametrize(
    ("version", "digest", "message"),
    [
        ("24.0.0.1", "cd" * 32, "built for another build of gem5 24.0.0.1"),
        ("25.0.0.0", "cd" * 32, "built for gem5 24.0.0.1, not gem5 25.0.0.0"),
    ],
)
def test_another_gem5_is_refused(version: str, digest: str, message: str) -> None:
    gempim_plugin.check_identity(IDENTITY, "p.so", IDENTITY["gem5_version"], IDENTITY["gem5_sha256"])
    with pytest.raises(gempim_plugin.PluginError, match=message):
        gempim_plugin.check_identity(IDENTITY, "p.so", version, digest)


def _fake_gem5(folder: Path, about: dict[str, object] | None) -> Path:
    """A program that answers the builder's first question as a gem5 would, in a folder that looks like its sources."""
    for place in ("src/sim", "include/gem5", "ext/pybind11/include", "build/ARM"):
        (folder / place).mkdir(parents=True)
    (folder / "src/sim/sim_object.hh").touch()
    binary = folder / "build/ARM/gem5.opt"
    body = "sys.exit('boom')" if about is None else f"open(sys.argv[-1], 'w').write({json.dumps(json.dumps(about))})"
    binary.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    binary.chmod(0o755)
    return binary


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (
            {"version": "25.1.0.0", "arm": True, "python_include": []},
            r"gem5 25\.1\.0\.0: the plug-in's sources are for",
        ),
        ({"version": "24.0.0.1", "arm": False, "python_include": []}, "no ARM instruction set"),
        (None, "asking gem5 for its version.*ended with 1"),
    ],
)
def test_a_gem5_that_cannot_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: dict[str, object] | None, message: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    binary = _fake_gem5(tmp_path / "gem5", about)
    with pytest.raises(DataError, match=message):
        plugin.build(binary)
    assert not [p for p in (tmp_path / "cache/gempim/plugin").iterdir() if p.is_dir()]  # nothing half-built stays


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--gem5 .*none: no such program"):
        plugin.build(tmp_path / "none")
    alone = tmp_path / "gem5.opt"
    alone.write_text("#!/bin/sh\n")
    alone.chmod(0o755)
    with pytest.raises(DataError, match=r"no gem5 source tree above it: name one with --gem5-source"):
        plugin.build(alone)
    with pytest.raises(DataError, match=r"--gem5-source .*no gem5 source tree"):
        plugin.build(alone, tmp_path)
    binary = _fake_gem5(tmp_path / "gem5", None)
    shutil.rmtree(tmp_path / "gem5/ext")
    with pytest.raises(DataError, match=r"ext/pybind11/include: missing"):
        plugin.build(binary)


def test_no_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with pytest.raises(DataError, match="no-compiler: the compiler that gem5 was built with is needed"):
        plugin.build(_fake_gem5(tmp_path / "gem5", None))


@pytest.mark.gem5
@pytest.mark.slow
def test_it_builds_within_90_seconds(device: Gem5, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing: 90 s of two idle cores, counted as processor time so that a busy machine does not matter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = os.times()
    folder = plugin.build(device.binary)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2 * 90
    started = time.perf_counter()
    assert plugin.build(device.binary) == folder
    assert time.perf_counter() - started < 5  # cached
    link = tmp_path / "gempim/plugin" / f"for-{gempim_plugin.file_sha256(device.binary)[:16]}"
    assert link.resolve() == folder.resolve()


@pytest.mark.gem5
def test_the_parameters_are_the_models(device: Gem5) -> None:
    infos = json.loads((device.plugin / "gempim_gem5/sram_pim_params.json").read_text())
    assert [i["name"] for i in infos] == [i["name"] for i in engine.sram_pim_param_info()]
    assert {i["name"]: i["default"] for i in infos} == engine.sram_pim_default_params()


def _load(device: Gem5, folder: Path, scratch: Path) -> subprocess.CompletedProcess[str]:
    script = scratch / "load.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(plugin.LOADER)!r})\nimport gempim_plugin\n"
        f"try:\n    gempim_plugin.load({str(folder)!r})\nexcept gempim_plugin.PluginError as e:\n"
        "    print(e, file=sys.stderr)\n    sys.exit(2)\n"
    )
    command = [str(device.binary), f"--outdir={scratch / 'out'}", str(script)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.gem5
def test_gem5_refuses_what_was_built_for_another(device: Gem5, tmp_path: Path) -> None:
    copy = tmp_path / "plugin"
    shutil.copytree(device.plugin, copy)
    assert _load(device, copy, tmp_path).returncode == 0
    library = copy / gempim_plugin.LIBRARY
    digest = gempim_plugin.read_identity(library)["gem5_sha256"].encode()
    library.write_bytes(library.read_bytes().replace(digest, b"0" * 64))
    refused = _load(device, copy, tmp_path)
    assert refused.returncode != 0
    assert "built for another build of gem5" in refused.stderr
    library.unlink()
    refused = _load(device, copy, tmp_path)
    assert refused.returncode != 0
    assert "no gempim plug-in for this gem5" in refused.stderr


@pytest.mark.gem5
def test_a_library_that_lacks_a_symbol_shows_the_linkers_words(device: Gem5, tmp_path: Path) -> None:
    copy = tmp_path / "plugin"
    shutil.copytree(device.plugin, copy)
    identity = json.dumps(gempim_plugin.read_identity(copy / gempim_plugin.LIBRARY), sort_keys=True)
    source = tmp_path / "broken.c"
    text = json.dumps("GEMPIM-PLUGIN-IDENTITY " + identity + "\n")
    source.write_text(
        f"const char id[] = {text};\nextern int no_such_symbol;\nint *PyInit__gempim_gem5 = &no_such_symbol;"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", copy / gempim_plugin.LIBRARY, source], check=True)
    refused = _load(device, copy, tmp_path)
    assert refused.returncode != 0
    assert "undefined symbol: no_such_symbol" in refused.stderr
    assert "build it again with: gempim plugin build" in refused.stderr
