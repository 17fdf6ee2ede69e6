"""Serving experiments: what a file may say, and what a reader is told when it says something else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from gempim.quantity import DataError
from gempim.serve.spec import load_serve, resolve_serve, split_name

ROOT = Path(__file__).parents[2]

GOOD: dict[str, Any] = {
    "serve": {"system": "gpu-h100", "devices": 4},
    "model": {"name": "mixtral-8x7b"},
    "requests": {"arrivals": "poisson", "qps": [4, 8.5], "count": 10, "input": 100, "output": 10},
    "scheduler": {"max_batch": 8},
}


def _with(section: str, **keys: Any) -> dict[str, Any]:
    doc = copy.deepcopy(GOOD)
    doc.setdefault(section, {}).update(keys)
    return doc


def test_a_run_for_every_system_and_rate() -> None:
    doc = copy.deepcopy(GOOD)
    doc["serve"] = {"systems": ["gpu-h100", "gpu-a100@8"], "devices": 4}
    found = [(e.system.name, e.devices, e.qps) for e in resolve_serve(doc, origin="x")]
    assert found == [("gpu-h100", 4, 4.0), ("gpu-h100", 4, 8.5), ("gpu-a100", 8, 4.0), ("gpu-a100", 8, 8.5)]


def test_defaults_are_a_closed_loop() -> None:
    only = resolve_serve({"serve": {"system": "gpu-h100"}, "model": {"name": "opt-66b"}}, origin="x")
    assert [(e.qps, e.requests.arrivals, e.devices) for e in only] == [(None, "closed", 4)]


def test_an_override_goes_to_the_systems_that_have_it() -> None:
    doc = _with("set", **{"xpu.bandwidth_efficiency": 0.5})
    assert {e.system.values("xpu")["bandwidth_efficiency"] for e in resolve_serve(doc, origin="x")} == {0.5}


@pytest.mark.parametrize(
    ("doc", "message"),
    [
        (_with("serve", sytem="x"), r"file: serve.sytem: unknown key; did you mean 'system'\?"),
        (_with("requests", cuont=3), r"requests.cuont: unknown key; did you mean 'count'\?"),
        ({**GOOD, "router": {}}, r"router: unknown key; did you mean 'routing'\?"),
        ({"serve": {"system": "gpu-h100"}}, r"file: model: missing"),
        (_with("serve", systems=["gpu-h100"]), "either system or systems"),
        ({**GOOD, "serve": {"devices": 4}}, "either system or systems"),
        ({**GOOD, "serve": {"systems": []}}, "systems is empty"),
        (_with("serve", devices=0), r"serve.devices: .* got 0"),
        (_with("serve", devices=True), r"serve.devices: .* got True"),
        (_with("serve", devices="4"), r"serve.devices: .* got '4'"),
        (_with("model", name="mixtral"), r"model.name: no shipped model 'mixtral'; did you mean 'mixtral-8x7b'\?"),
        (_with("requests", qps=[]), "qps is missing"),
        (_with("requests", qps=[-1.0]), "qps: expected rates"),
        (_with("requests", qps=[float("nan")]), "qps"),
        (_with("requests", qps=[float("inf")]), "qps"),
        (_with("requests", qps=["4"]), "qps"),
        (_with("requests", qps=[True]), "qps"),
        (_with("requests", arrivals="closed"), "qps goes with arrivals = 'poisson'"),
        (_with("requests", arrivals="bursty"), "arrivals"),
        (_with("requests", input=0), "requests.input"),
        (_with("requests", input=10.5), "requests.input"),
        (_with("requests", deviation=1.5), "requests.deviation"),
        (_with("requests", deviation=float("nan")), "requests.deviation"),
        (_with("requests", seed=-1), "requests.seed"),
        (_with("scheduler", start="steady"), "scheduler.start = 'steady' goes with arrivals = 'closed'"),
        (_with("scheduler", max_batch=10**9), "scheduler.max_batch"),
        (_with("routing", exponent=11.0), "routing.exponent"),
        (_with("serve", system="gpu-h100@0"), "expected NAME@DEVICES"),
        (_with("serve", system="gpu-h100@x"), "expected NAME@DEVICES"),
        (_with("serve", system="gpu-h1000"), r"did you mean 'gpu-h100'\?"),
        (_with("serve", system="sail"), "sail has no xPU"),
        (_with("set", **{"policy.moe": "always"}), "set.policy.moe: no system here has that section"),
        (_with("set", **{"xpu.sm": 3}), r"unknown parameter; did you mean 'sms'\?"),
        (_with("set", **{"xpu.sms": 0}), "out of range"),
    ],
)
def test_hostile_files(doc: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        resolve_serve(doc, origin="file")


def test_names_with_devices() -> None:
    assert split_name("gpu-h100@8") == ("gpu-h100", 8)
    assert split_name("gpu-h100") == ("gpu-h100", None)
    assert split_name("a@b/mine.toml") == ("a@b/mine.toml", None)


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[serve]\nsystem = "gpu-h100\n')
    with pytest.raises(DataError, match=r"bad.toml: not valid TOML.*line 2"):
        load_serve(file)


@pytest.mark.parametrize("file", sorted((ROOT / "workloads" / "serve").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_experiments_resolve(file: Path) -> None:
    assert load_serve(file)


def test_where_a_value_was_set_does_not_name_another_run() -> None:
    same = {"xpu.sms": 132}
    one, two = resolve_serve(GOOD, origin="a")[0], resolve_serve({**GOOD, "set": same}, origin="b")[0]
    other = resolve_serve({**GOOD, "set": {"xpu.sms": 100}}, origin="b")[0]
    assert one.hash({}) == two.hash({}) != other.hash({})
    assert one.hash({"code": "1"}) != one.hash({})
