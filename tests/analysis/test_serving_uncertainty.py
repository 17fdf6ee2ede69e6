"""Intervals of serving runs: means and ratios against numpy, coverage by Monte Carlo, and no difference goes unseen."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.plots import serving as plots
from gempim.analysis.report.serving import write_serve_report
from gempim.analysis.run import RunError
from gempim.analysis.serving import ServeResult, evaluate_serve, load_serve_run
from gempim.analysis.serving.explain import explain
from gempim.analysis.serving.keys import check_told
from gempim.analysis.serving.repeats import METRICS, Runs, mean_ratio_half, ratio_half
from gempim.analysis.serving.table import RATIOS, frame, mean_ratio, render, row, texts
from gempim.quantity import DataError
from gempim.serve.simulate import simulate_serve
from gempim.serve.spec import resolve_serve

SEED = "experiment.requests.seed"
SEEDS = (3, 5, 8)
BASE = "gpu-h100 x4"
T95 = 4.303
"""Student's t, two-sided 95 %, of three runs."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> list[ServeResult]:
    """Two systems at two rates, with three seeds of the requests each."""
    root = tmp_path_factory.mktemp("served")
    out = []
    for seed in SEEDS:
        doc = {
            "serve": {"systems": ["gpu-h100", "duplex-pe-et"]},
            "model": {"name": "mixtral-8x7b"},
            "requests": {
                "arrivals": "poisson", "qps": [20, 60], "count": 8, "input": 100, "output": 12, "seed": seed,
            },
            "scheduler": {"max_batch": 8},
        }  # fmt: skip
        for experiment in resolve_serve(doc, origin="test"):
            run = load_serve_run(simulate_serve(experiment, root))
            energy = load_energy_table(str(run.experiment["energy_table"]))
            out.append(evaluate_serve(run, energy, load_prices("accelerators")))
    return out


def _changed(result: ServeResult, change: Callable[[dict[str, Any]], object], name: str = "other") -> ServeResult:
    """The result of a run whose manifest says something else, in a folder of another name."""
    manifest = copy.deepcopy(result.run.manifest)
    change(manifest)
    return replace(result, run=replace(result.run, path=result.run.path.with_name(name), manifest=manifest))


def _values(served: list[ServeResult], label: str, qps: float, name: str) -> np.ndarray[Any, Any]:
    own = [r for r in served if r.run.label() == label and r.run.experiment["requests"]["qps"] == qps]
    assert [r.run.experiment["requests"]["seed"] for r in own] == list(SEEDS)
    return np.array([row(r)[name] for r in own], dtype=float)


def _half(off: np.ndarray[Any, Any]) -> float:
    return float(T95 * off.std(ddof=1) / math.sqrt(len(off)))


def test_repeats_are_means_with_students_interval(served: list[ServeResult]) -> None:
    rows = frame(served, repeats=[SEED])
    assert len(rows) == 4
    assert rows["repeats"].tolist() == [3] * 4
    for own in rows.to_dict("records"):
        label = f"{own['system']} x{own['devices']}"
        for name in METRICS:
            values = _values(served, label, own["qps"], name)
            assert len(set(values)) > 1, "seeds that change nothing would test nothing"
            if name == "usd_per_million_tokens":
                rate = _values(served, label, own["qps"], "tokens_per_s")
                assert own[name] == pytest.approx(2.0 * 4 * _area(label) / (rate.mean() * 3600) * 1e6)
                values = rate
            else:
                assert own[name] == pytest.approx(values.mean())
            half = _half(values / values.mean())
            assert own[f"{name}_low"] == pytest.approx(own[name] * math.exp(-half), rel=1e-6)
            assert own[f"{name}_high"] == pytest.approx(own[name] * math.exp(half), rel=1e-6)
        kept_up = [
            r.sustained for r in served if r.run.label() == label and r.run.experiment["requests"]["qps"] == own["qps"]
        ]
        assert own["sustained"] == all(kept_up)
    with pytest.raises(DataError, match="different tables or prices"):
        frame([served[0], *(replace(r, utilisation=0.5) for r in served[1:])], repeats=[SEED])


def _area(label: str) -> float:
    prices = load_prices("accelerators")
    return 1.0 if label == BASE else 1 + prices.area_overhead.as_float() * prices.silicon_price_share.as_float()


def test_one_run_has_no_interval(served: list[ServeResult]) -> None:
    rows = frame(served[:4], BASE)
    for name in (*METRICS, *RATIOS):
        assert rows[name].notna().all()
        assert rows[[f"{name}_low", f"{name}_high"]].isna().all().all()
    assert rows["repeats"].tolist() == [1] * 4
    assert "±" not in render(rows, "md")
    assert "repeats" not in texts(rows)
    assert "not known from one run" in explain(served[0])


def test_ratios_and_their_means_are_taken_seed_by_seed(served: list[ServeResult]) -> None:
    """The same requests on both sides: what makes one seed slow makes both slow, and is no error of the ratio."""
    rows = frame(served, BASE, repeats=[SEED])
    assert rows.loc[rows["system"] == "gpu-h100", "speedup"].tolist() == [1.0, 1.0]
    assert rows.loc[rows["system"] == "gpu-h100", "speedup_low"].isna().all()
    for name, metric in RATIOS.items():
        off, logs = [], []
        for qps in (20, 60):
            of, over = (_values(served, label, qps, metric) for label in ("duplex-pe-et x4", BASE))
            off.append(of / of.mean() - over / over.mean())
            logs.append(math.log(of.mean() / over.mean()))
            (own,) = rows[(rows["system"] == "duplex-pe-et") & (rows["qps"] == qps)].to_dict("records")
            assert own[name] == pytest.approx(math.exp(logs[-1]))
            assert own[f"{name}_low"] == pytest.approx(own[name] * math.exp(-_half(off[-1])), rel=1e-6)
            assert own[f"{name}_high"] == pytest.approx(own[name] * math.exp(_half(off[-1])), rel=1e-6)
        of_system = [i for i, system in enumerate(rows["system"]) if system == "duplex-pe-et"]
        mean, found = mean_ratio(rows, of_system, name)
        assert mean == pytest.approx(math.exp(np.mean(logs)))
        assert found is not None
        assert found.high / mean == pytest.approx(math.exp(_half(np.mean(off, axis=0))), rel=1e-6)


def _case(values: np.ndarray[Any, Any], prefix: str = "") -> Runs:
    return {f"{prefix}{i}": {"tokens_per_s": float(v)} for i, v in enumerate(values)}


@pytest.mark.parametrize("shared", [True, False], ids=["same-seeds", "other-seeds"])
def test_intervals_cover(shared: bool) -> None:
    """Known truth, cases that share their requests: 95 % of the intervals hold it (a bound where seeds are others)."""
    generator = np.random.default_rng(1)
    seeds, cases, trials = 4, 3, 4000
    truth = np.array([1.5, 2.0, 0.8])
    hit, hit_mean, independent = 0, 0, 0
    for _ in range(trials):
        # A system whose rate goes less with the requests than the baseline's: the ratio has an error of its own.
        load = generator.normal(0, 0.05, seeds)
        other = load if shared else generator.normal(0, 0.05, seeds)
        over = 100 * (1 + other + generator.normal(0, 0.01, (cases, seeds)))
        of = 100 * truth[:, None] * (1 + 0.3 * load + generator.normal(0, 0.01, (cases, seeds)))
        pairs = [(_case(a), _case(b, "" if shared else "x")) for a, b in zip(of, over, strict=True)]
        half = ratio_half(*pairs[0], "tokens_per_s")
        mean = mean_ratio_half(pairs, "tokens_per_s")
        assert half is not None
        assert mean is not None
        ratios = np.log(of.mean(axis=1) / over.mean(axis=1) / truth)
        hit += abs(ratios[0]) < half
        hit_mean += abs(ratios.mean()) < mean
        each = [ratio_half(a, b, "tokens_per_s") or 0.0 for a, b in pairs]
        independent += abs(ratios.mean()) < math.hypot(*each) / cases
    if shared:
        assert 0.935 < hit / trials < 0.965
        assert 0.935 < hit_mean / trials < 0.965
    else:
        assert hit / trials > 0.945
        assert hit_mean / trials > 0.945
    # What the mean's interval would be if its cases were taken for independent: they are not.
    assert independent / trials < hit_mean / trials - 0.03


def _leaves(tree: dict[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    """Every value of a section with its dotted key, as this test sees it: a number, or what has a unit or a source."""
    for name, value in tree.items():
        if isinstance(value, dict) and "value" in value:
            yield f"{at}.{name}", value["value"]
        elif isinstance(value, dict):
            yield from _leaves(value, f"{at}.{name}")
        elif isinstance(value, int | float):
            yield f"{at}.{name}", value


def test_every_value_that_no_column_tells_is_an_error(served: list[ServeResult]) -> None:
    """Two rates of one system that also differ in any one value of the system or of what was served: not comparable."""
    one, two = (r for r in served[:4] if r.run.system == "duplex-pe-et")
    columns = {"experiment.requests.input", "experiment.requests.output", "experiment.requests.qps",
               "experiment.scheduler.max_batch"}  # fmt: skip
    e = two.run.experiment
    keys = [
        (key, value)
        for section in ("requests", "scheduler", "routing", "system")
        for key, value in _leaves(e[section], f"experiment.{section}")
        if key not in columns
    ]
    assert len(keys) > 40
    assert {"experiment.requests.count", SEED, "experiment.routing.exponent", "experiment.system.policy.moe"} < {
        key for key, _ in keys
    }
    for key, value in keys:
        *path, last = key.split(".")

        def change(manifest: dict[str, Any], path: list[str] = path, last: str = last, value: Any = value) -> None:
            at = manifest
            for name in path:
                at = at[name]
            new = f"{value}x" if isinstance(value, str) else value + 1
            at[last] = {**at[last], "value": new} if isinstance(at[last], dict) else new

        with pytest.raises(DataError, match=rf"has {key} = .*\(--key {key}\) or.*\(--repeats {key}\)"):
            frame([one, _changed(two, change)])
        rows = frame([one, _changed(two, change)], extra_keys=[key])
        assert len(rows) == 2
        assert rows[key].iloc[0] == value
        assert rows[key].iloc[1] != value
    assert len(frame([one, _changed(two, lambda m: m["experiment"]["system"].update(title="Another title"))])) == 2
    for section, name in (("scheduler", "start"), ("model", "quant")):
        with pytest.raises(DataError, match=f"experiment.{section}.{name} = "):
            frame([one, _changed(two, lambda m, s=section, n=name: m["experiment"][s].update({n: "x"}))])


def test_what_goes_together_may_differ(served: list[ServeResult]) -> None:
    """Counts go with the batch (`gempim compare`: twice as many); other models and closed loops are apart."""
    first = ("a", served[0].run.manifest)

    def other(**changes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        found = _changed(served[0], lambda m: [m["experiment"][name].update(value) for name, value in changes.items()])
        return "b", found.run.manifest

    check_told([first, other(scheduler={"max_batch": 16}, requests={"count": 32})])
    check_told([first, other(requests={"qps": None, "arrivals": "closed", "count": 9}, scheduler={"start": "steady"})])
    check_told([first, other(model={"name": "glam-143b", "bytes": 1}, requests={"count": 9})])
    with pytest.raises(DataError, match=r"experiment.requests.count = 8, b has 9"):
        check_told([first, other(requests={"count": 9})])


def test_one_run_twice_is_an_error(served: list[ServeResult]) -> None:
    """Also with repeats: a copied run is no second sample. Two versions of the simulator are a key."""
    for repeats in ([], [SEED]):
        with pytest.raises(DataError, match="one run twice"):
            frame([served[0], _changed(served[0], lambda _: None)], repeats=repeats)
    newer = _changed(served[0], lambda m: m["hashes"].update(serving="newer"))
    with pytest.raises(DataError, match=r"differ in hashes.serving.*--key hashes.serving"):
        frame([served[0], newer])
    assert len(frame([served[0], newer], extra_keys=["hashes.serving"])) == 2
    with pytest.raises(RunError, match=r"no key 'experiment.requests.sede'.*seed"):
        frame(served, repeats=["experiment.requests.sede"])


def test_keys_of_the_requests_are_matched_and_those_of_one_system_are_not(served: list[ServeResult]) -> None:
    rows = frame(served, BASE, extra_keys=[SEED])
    for own in rows.to_dict("records"):
        at = SEEDS.index(own[SEED])
        of, over = (_values(served, s, own["qps"], "tokens_per_s")[at] for s in (f"{own['system']} x4", BASE))
        assert own["speedup"] == pytest.approx(of / over)
    # A seed that the baseline was not run with is compared with nothing.
    rows = frame([r for r in served if r.run.system != "gpu-h100" or r.run.experiment["requests"]["seed"] == 3], BASE,
                 extra_keys=[SEED])  # fmt: skip
    assert rows["speedup"].notna().tolist() == [seed == 3 for seed in rows[SEED]]
    # The GPUs have no policy: one row of theirs is the baseline of both.
    gpu, duplex = served[0], served[2]
    assert (gpu.run.system, duplex.run.system) == ("gpu-h100", "duplex-pe-et")
    policy = "experiment.system.policy.moe"
    always = _changed(duplex, lambda m: m["experiment"]["system"]["policy"]["moe"].update(value="always"))
    rows = frame([gpu, duplex, always], BASE, extra_keys=[policy])
    assert rows[policy].tolist() == [None, duplex.run.experiment["system"]["policy"]["moe"]["value"], "always"]
    assert rows["speedup"].notna().all()
    assert list(texts(rows)["moe"])[::2] == ["–", "always"]


def test_a_lower_bound_has_no_interval(served: list[ServeResult], tmp_path: Path) -> None:
    bound = [replace(r, energy=replace(r.energy, unknown=("x",))) if r.run.system != "gpu-h100" else r for r in served]
    assert bound[2].energy.is_lower_bound
    rows = frame(bound, BASE, repeats=[SEED])
    of = rows["system"] == "duplex-pe-et"
    assert rows.loc[of, ["j_per_token_low", "j_per_token_ratio", "j_per_token_ratio_high"]].isna().all().all()
    assert rows.loc[~of, "j_per_token_low"].notna().all()
    assert texts(rows)["J/token"][of].str.startswith(">= ").all()
    page = write_serve_report(bound, tmp_path, baseline=BASE, repeats=[SEED], png=False).read_text()
    (lead,) = re.findall(r'<p class="lead">(.*?)</p>', page)
    assert "median time between tokens" in lead
    assert "energy" not in lead


def test_people_get_digits_and_programs_all_of_them(served: list[ServeResult]) -> None:
    """± has the half-width's first two digits, rounded up, and the figure no digit more; files have every digit."""
    rows = frame(served, BASE, repeats=[SEED])
    for own, text in zip(rows.to_dict("records"), texts(rows)["t/s"], strict=True):
        value, _, half = text.partition(" ± ")
        exact = (own["tokens_per_s_high"] - own["tokens_per_s_low"]) / 2
        place = 10.0 ** max(math.floor(math.log10(exact)) - 1, math.floor(math.log10(own["tokens_per_s"])) - 3)
        assert abs(float(value) - own["tokens_per_s"]) <= place / 2 * 1.001
        assert exact <= float(half) < exact + place
        assert float(half) == pytest.approx(round(float(half) / place) * place)
    exact_rates = rows["tokens_per_s"].tolist()
    assert [own["tokens_per_s"] for own in json.loads(render(rows, "json"))] == exact_rates
    assert [json.loads(line)["tokens_per_s"] for line in render(rows, "jsonl").splitlines()] == exact_rates
    found = list(csv.DictReader(io.StringIO(render(rows, "csv"))))
    assert [float(own["tokens_per_s"]) for own in found] == exact_rates
    assert [float(own["ttft_p99_ms_low"]) for own in found] == rows["ttft_p99_ms_low"].tolist()
    assert json.loads(render(rows, "json"))[0]["speedup_low"] is None


def test_report(served: list[ServeResult], tmp_path: Path) -> None:
    page = write_serve_report(served, tmp_path / "a", baseline=BASE, repeats=[SEED], png=False).read_text()
    rows = frame(served, BASE, repeats=[SEED])
    of = [i for i, system in enumerate(rows["system"]) if system == "duplex-pe-et"]
    assert "geometric mean" in page
    assert ", 95 % interval " in page
    assert 'id="uncertainty-table"' in page
    assert 'id="summary"' in page
    assert "seed 3" in page
    assert "No run was repeated" not in page
    document = json.loads((tmp_path / "a" / "report.json").read_text())
    assert [own["speedup"] for own in document["table"]] == rows["speedup"].tolist()
    assert document["table"][of[0]]["speedup_low"] == rows["speedup_low"].iloc[of[0]]
    once = write_serve_report(served[:4], tmp_path / "b", baseline=BASE, png=False).read_text()
    assert "No run was repeated" in once
    assert 'id="uncertainty-table"' not in once


def test_figures_show_repeats(served: list[ServeResult]) -> None:
    """Lines go through the means, a point a run; bars of a closed loop are means with a line of the interval."""
    plot = plots.latency_by_qps(served, (), [SEED])
    assert plot is not None
    lines = [line.get_xydata() for line in plot.figure.axes[0].get_lines()]
    for label, (mean, points) in zip(plots.labels_of(served), zip(lines[::2], lines[1::2], strict=True), strict=True):
        each = [_values(served, label, qps, "ttft_p50_ms") / 1e3 for qps in (20, 60)]
        assert np.allclose(mean, [(20, each[0].mean()), (60, each[1].mean())])
        assert sorted(points[:, 1]) == pytest.approx(sorted(np.concatenate(each)))
    closed = [
        _changed(r, lambda m: m["experiment"]["requests"].update(qps=None), str(i)) for i, r in enumerate(served[::2])
    ]
    bars = plots.throughput_bars(closed, (), [SEED])
    assert bars is not None
    heights = [p.get_height() for p in bars.figure.axes[0].patches]
    assert heights == pytest.approx([_values(served, s, 20, "tokens_per_s").mean() for s in plots.labels_of(served)])
    assert len(bars.figure.axes[0].collections) == 2
    split = plots.throughput_bars(closed, [SEED])
    assert split is not None
    assert len(split.figure.axes[0].patches) == 6
    names = [plots.case_name(r, served, [SEED]) for r in served]
    assert len(set(names)) == len(served)
