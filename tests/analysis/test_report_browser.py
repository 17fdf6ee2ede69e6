"""The report in a real browser: no console error, no sideways scrolling on a phone, sorting and filtering that work,
readable in light and dark. Needs Chromium on the PATH; without it the suite says loudly what was not checked."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from gempim.analysis.cost import load_prices
from gempim.analysis.energy import load_energy_table
from gempim.analysis.llama_bench import load_llama_bench
from gempim.analysis.report import write_report
from gempim.analysis.result import evaluate
from gempim.analysis.run import load_run
from gempim.analysis.validation import check, load_claims

from .conftest import make_run
from .test_llama_bench import bench_row

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = 390, 1280

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (Debian: apt-get install chromium)")

# The page in a frame of the width to be tested: a window of Chromium is never narrower than 500 pixels.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">
<iframe id="page" src="report.html" style="border:0;width:{width}px;height:{height}px"></iframe><pre id="found"></pre>
<script>
document.getElementById("page").addEventListener("load", function () {{
  var page = this.contentWindow, doc = this.contentDocument, found = {{}};
  found.width = page.innerWidth;
  found.scroll = doc.documentElement.scrollWidth;
  found.dark = page.matchMedia("(prefers-color-scheme: dark)").matches;
  found.wide = Array.from(doc.querySelectorAll("body *")).filter(function (e) {{
    return !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > page.innerWidth + 1;
  }}).map(function (e) {{ return e.tagName + "#" + e.id; }});
  found.figures = Array.from(doc.querySelectorAll("figure svg")).map(function (e) {{
    return e.getBoundingClientRect().width * e.getBoundingClientRect().height; }});
  var rgb = function (text) {{ return text.match(/[\\d.]+/g).slice(0, 3).map(Number); }};
  found.colours = ["body", ".muted", "td.worse", "figcaption", "nav a"].map(function (selector) {{
    var e = doc.querySelector(selector), back = e, style;
    do {{ style = page.getComputedStyle(back); back = back.parentElement; }}
    while (back && style.backgroundColor === "rgba(0, 0, 0, 0)");
    return [selector, rgb(page.getComputedStyle(e).color), rgb(style.backgroundColor)];
  }});
  var table = doc.getElementById("headline");
  var column = function (name) {{
    var heads = Array.from(table.querySelectorAll("thead tr:last-child th"));
    return heads.findIndex(function (th) {{ return th.textContent.trim() === name; }});
  }};
  var cells = function (name) {{
    var at = column(name);
    return Array.from(table.tBodies[0].rows).filter(function (row) {{ return !row.hidden; }})
      .map(function (row) {{ return row.cells[at].textContent; }});
  }};
  var input = doc.querySelector('input[aria-controls="headline"]');
  var type = function (text) {{ input.value = text; input.dispatchEvent(new page.Event("input")); }};
  found.every = cells("system");
  type("SAIL batch-8 -pp");
  type("sail -pp512");
  found.filtered = cells("system").map(function (system, i) {{ return [system, cells("test")[i]]; }});
  found.count = doc.querySelector(".filter output").textContent;
  type("no such row");
  found.none = cells("system").length;
  type("");
  found.again = cells("system").length;
  var button = table.querySelectorAll("thead tr:last-child th")[column("t/s")].querySelector("button");
  button.click();
  found.up = cells("t/s");
  button.click();
  found.down = cells("t/s");
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script></body>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it: many rows, long names, warnings, validation, measured machines."""
    root = tmp_path_factory.mktemp("browser")
    energy, prices = load_energy_table("default"), load_prices()
    runs = [
        make_run(root / f"{system}-{batch}", system=system, pim=pim, batch=batch, speed=speed, seed=batch)
        for batch in (1, 8, 32)
        for system, pim, speed in (("neoverse-n1", False, 1.0), ("sail", True, 6.0 if batch > 1 else 0.7))
    ]
    bench = root / "bench.json"
    bench.write_text(json.dumps([bench_row(), bench_row(n_prompt=0, n_gen=128)]))
    write_report(
        [evaluate(load_run(run), energy, prices) for run in runs],
        root / "out",
        baseline="neoverse-n1",
        validation=check(load_claims(), {"sail-speedup": 9.0}),
        measured=load_llama_bench([bench]),
        png=False,
    )
    return root / "out"


def _chromium(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    profile = page.parent / "profile"
    done = subprocess.run(
        [CHROMIUM, "--headless", *sandbox, "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
         "--allow-file-access-from-files", "--virtual-time-budget=10000", "--enable-logging=stderr",
         *options, page.as_uri()],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    return done


def _probe(folder: Path, width: int, dark: bool) -> dict[str, Any]:
    page = folder / f"probe-{width}.html"
    page.write_text(PROBE.format(width=width, height=4000), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dom = _chromium(page, "--dump-dom", f"--window-size={max(width, 500)},4000", scheme).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found, "the page's script did not end"
    out: dict[str, Any] = json.loads(unescape(found[1]))
    return out


def _contrast(a: list[float], b: list[float]) -> float:
    """WCAG 2.1's contrast ratio of two colours."""

    def light(rgb: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("width", "dark"), [(PHONE, False), (DESKTOP, True)])
def test_the_page_in_a_browser(folder: Path, width: int, dark: bool) -> None:
    found = _probe(folder, width, dark)
    assert (found["width"], found["dark"]) == (width, dark)
    assert found["scroll"] == width, f"the page is {found['scroll']} pixels wide; too wide: {found['wide']}"
    assert found["wide"] == []
    assert len(found["figures"]) >= 9
    assert min(found["figures"]) > 10_000
    for selector, text, ground in found["colours"]:
        assert _contrast(text, ground) >= 4.5, (selector, text, ground)
    # 6 runs of two phases; filtering by words, without case, and with a word that must not occur.
    assert len(found["every"]) == 12
    assert [system for system, _ in found["filtered"]] == ["sail"] * 3
    assert not any("pp" in test for _, test in found["filtered"])
    assert found["count"] == "3 of 12 rows"
    assert (found["none"], found["again"]) == (0, 12)
    rates = [float(text.split(" ")[0]) for text in found["up"]]
    assert rates == sorted(rates)
    assert found["down"] == found["up"][::-1]


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_painted(folder: Path, dark: bool) -> None:
    """A screenshot is no empty sheet, and its ground is that of the scheme."""
    picture = folder / f"page-{dark}.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _chromium(folder / "report.html", f"--screenshot={picture}", f"--window-size={DESKTOP},3000", scheme)
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (3000, DESKTOP)
    ground = np.median(pixels.reshape(-1, 3), axis=0).mean()
    assert ground < 0.2 if dark else ground > 0.9
    assert len(np.unique((pixels[::4, ::4] * 255).astype(int).reshape(-1, 3), axis=0)) > 50


def test_the_printed_energy_table_fits_portrait_a4(folder: Path) -> None:
    """The rules of print on a page as wide as Chromium lays A4 out: within margins of 0.4 in, 128 pixels an inch."""
    width = round((210 / 25.4 - 0.8) * 96 * 4 / 3)
    paper = folder / "paper"
    paper.mkdir()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("@media print") == 1
    (paper / "report.html").write_text(page.replace("@media print", "@media all"), encoding="utf-8")
    probe = paper / "probe.html"
    probe.write_text(
        f"""<iframe id="page" src="report.html" style="border:0;width:{width}px;height:4000px"></iframe>
<pre id="found"></pre><script>document.getElementById("page").addEventListener("load", function () {{
  var table = this.contentDocument.getElementById("energy-table"), box = table.getBoundingClientRect();
  document.getElementById("found").textContent = JSON.stringify(
    [table.rows[2].cells.length, box.left, box.right, this.contentWindow.innerWidth]); }});</script>""",
        encoding="utf-8",
    )
    dom = _chromium(probe, "--dump-dom", "--window-size=1000,4100").stdout
    found = re.search(r'<pre id="found">(\[.*?)</pre>', dom)
    assert found, "the page's script did not end"
    columns, left, right, inner = json.loads(found[1])
    assert inner == width
    assert columns >= 28, "the widest table: a CPU with SRAM-PIM"
    assert left >= 0
    assert right <= inner
