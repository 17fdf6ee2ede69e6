"""gem5's scripts and the host must simulate the same machine: one set of values, whoever reads the TOML files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from spec import system as systems
from spec.errors import SpecError

from gempim import resolve
from gempim import systems as host


@pytest.mark.parametrize("name", host.list_systems())
def test_shipped_systems_are_the_same_on_both_sides(name: str) -> None:
    ours = systems.resolve(name)
    theirs = resolve.resolved_values(host.load_system(name))
    # As text: a whole number that one side has as a float is a difference.
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


CHAIN = {
    "a.toml": """
[system]
name = "a"
title = "t"
kind = "cpu+sram_pim"
extends = "sail"
description = "d"
[sram_pim]
nbw = { value = 3, unit = "weights", scope = "s", source = "s", kind = "choice" }
[dram]
CL_nCK = { value = 30, unit = "clocks", scope = "s", source = "s", kind = "choice" }
tRP_nCK = { value = 22, unit = "clocks", scope = "s", source = "said again", kind = "choice" }
""",
    "b.toml": """
[system]
name = "b"
title = "t"
kind = "cpu"
extends = "a"
description = "a plain CPU again, with another DRAM"
[memory]
standard = { value = "ddr5-4800", source = "s", kind = "choice" }
[dram]
ranks = { value = 1, unit = "ranks", scope = "s", source = "s", kind = "choice" }
""",
}


@pytest.mark.parametrize("name", sorted(CHAIN))
def test_systems_that_extend_each_other_are_the_same(tmp_path: Path, name: str) -> None:
    for file, text in CHAIN.items():
        (tmp_path / file).write_text(text)
    ours = systems.resolve(str(tmp_path / name))
    theirs = resolve.resolved_values(host.load_system(str(tmp_path / name)))
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    assert ours["sections"]["dram"]["CL_nCK"] == 30
    assert ("sram_pim" in ours["sections"]) == (name == "a.toml")
    if name == "b.toml":
        assert ours["sections"]["dram"]["tRP_nCK"] == 22, "what an ancestor set stays set"


def test_both_sides_know_the_same_kinds() -> None:
    from gempim.engines import gem5_se

    assert dict(systems.SECTIONS) == dict(host.KINDS)
    # run.py builds one more, for which the host has no engine.
    assert (*gem5_se.KINDS, systems.PIM_MEMORY) == systems.BUILDABLE
    assert systems.SCHEMA == resolve.SCHEMA


def test_json_of_the_host_is_read_back(tmp_path: Path) -> None:
    values = resolve.resolved_values(host.load_system("sail"))
    path = tmp_path / "sail.json"
    path.write_text(json.dumps(values))
    assert systems.load(str(path)) == values
    systems.check_buildable(values)


def test_old_python_says_which_command_makes_the_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "tomllib", None)
    with pytest.raises(SpecError, match=r"gempim resolve --system sail -o sail\.json.*--experiment sail\.json"):
        systems.resolve("sail")


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"--system nope: neither a shipped system.*neoverse-n1, sail, v100"):
        systems.resolve("nope")
    with pytest.raises(SpecError, match="v100: kind 'gpu-roofline' cannot be built in gem5; kinds that can: cpu, "):
        systems.check_buildable(systems.resolve("v100"))
    loop = tmp_path / "loop.toml"
    loop.write_text(CHAIN["a.toml"].replace('"sail"', '"loop"'))
    with pytest.raises(SpecError, match="extends: goes in a circle"):
        systems.resolve(str(loop))
    bad = tmp_path / "bad.json"
    bad.write_text('{"schema": 99}')
    with pytest.raises(SpecError, match=r"bad\.json: schema 99, expected 1; make it with: gempim resolve"):
        systems.load(str(bad))
    bad.write_text('{"schema": 1, "system": "x", "kind": "cpu"}')
    with pytest.raises(SpecError, match="sections: missing"):
        systems.load(str(bad))
    with pytest.raises(SpecError, match=r"gone\.json: cannot be read"):
        systems.load(str(tmp_path / "gone.json"))
    with pytest.raises(SpecError, match="no values for llc, memory, dram"):
        systems.check_buildable({"system": "x", "kind": "cpu", "sections": {"cpu": {}}})


def test_data_files_are_found_in_a_clone_and_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for layout in ("gempim/data", "data"):
        root = tmp_path / layout.replace("/", "-")
        (root / layout / "systems").mkdir(parents=True)
        (root / "gem5_configs/spec").mkdir(parents=True)
        monkeypatch.setattr(systems, "__file__", str(root / "gem5_configs/spec/system.py"))
        assert systems.data_folder() == str(root / layout)
    monkeypatch.setattr(systems, "__file__", str(tmp_path / "elsewhere/gem5_configs/spec/system.py"))
    with pytest.raises(SpecError, match="gempim resolve --system NAME"):
        systems.data_folder()
