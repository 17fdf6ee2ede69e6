"""The README's tables are what its commands print: a figure that drifted from the code is an error here."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from gempim.analysis.plots import throughput_by
from gempim.analysis.uncertainty import plus_minus
from gempim.demo import experiments
from gempim.models.fetch import FetchError
from gempim.output import MATCH, results
from gempim.simulate import simulate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _table(mark: str) -> list[list[str]]:
    found = re.search(rf"<!-- {mark} -->\n(.*?)\n<!-- /{mark} -->", README, re.S)
    assert found, mark
    return [[c.strip() for c in line.strip("|").split("|")] for line in found[1].splitlines()]


@pytest.mark.model
def test_demo_table_and_figure(tmp_path: Path) -> None:
    """Every row of the README's demo table, and the words of its figure, simulated again."""
    head, _, *rows = _table("demo")
    shown = {(r[0].lower()[:7], r[1], r[2], r[4], r[5]): r[head.index("t/s")].split(" ")[0] for r in rows}
    try:
        points = list(experiments())
    except FetchError as err:
        pytest.skip(f"NOT CHECKED, the SmolLM2 GGUF cannot be had: {err}")
    paths = [simulate(e, tmp_path) for e in points]
    measured = {}
    found = results(paths, prices={}, energy=None, utilisation=1.0)
    for r in found:
        if r.run.system == "v100":
            continue
        model, workload = r.run.experiment["model"], r.run.experiment["workload"]
        for phase in r.phases:
            key = (model["name"].lower()[:7], model["quant"], r.run.system, str(workload["batch"]), phase.test)
            measured[key] = plus_minus(phase.tokens_per_s, phase.tokens_per_s_std).split(" ")[0]
    assert shown == measured
    # The figure of `gempim demo`, with the words that it has for those who do not see it.
    plot = throughput_by(found, "quant", match=MATCH, baseline="neoverse-n1")
    assert plot is not None
    drawn = ET.parse(ROOT / "analysis" / "figures" / f"{plot.name}.svg").getroot()
    assert drawn.findtext("{http://www.w3.org/2000/svg}desc") == plot.alt


def test_validation_table_is_the_validation_page() -> None:
    page = (ROOT / "analysis/validation/VALIDATION.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert [[c.strip() for c in line.strip("|").split("|")] for line in lines] == _table("validation")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https://)([^)#]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
