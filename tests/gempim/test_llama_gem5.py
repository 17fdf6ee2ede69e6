"""llama.cpp in gem5, end to end: a small model with random weights on SAIL, sampled and in full."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from llama_oracle import greedy

from gempim.analysis.run import load_run
from gempim.engines.gem5_se import pim_counters
from gempim.engines.llama import LlamaRequest, run_llama
from gempim.models import synth
from gempim.output import results
from gempim.systems import load_system

pytestmark = [pytest.mark.gem5, pytest.mark.slow]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "two.gguf"
    # All of the vocabulary that there is to be: a file that stands for itself, but for its layers.
    synth.write(synth.plan("smollm2-135m", "q4_0", layers=2, vocab=300), path)
    return path


@pytest.mark.parametrize("system", ["neoverse-n1", "sail"])
def test_the_tokens_in_gem5_are_llama_cpps(gguf: Path, tmp_path: Path, system: str) -> None:
    """llama-cpp-python on this machine, and llama.cpp in gem5 on its own kernels or with the PIM.

    The likeliest token leads the next by 10 % of the logits' standard deviation and more; right ways to compute them
    differ by 1 %.
    """
    expected = greedy(gguf, "Hello", 6)
    lead = np.sort(expected.logits, axis=1) / expected.logits.std(axis=1, keepdims=True)
    assert (lead[:, -1] - lead[:, -2]).min() > 0.09
    assert len(set(expected.tokens)) > 1
    request = LlamaRequest(gguf, "Hello", tokens=6, cpu="atomic_noncaching", ignore_eos=True)
    assert run_llama(request, load_system(system), tmp_path / "runs").tokens == expected.tokens


def test_a_sampled_and_a_full_generation_on_sail(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sail = load_system("sail")
    request = LlamaRequest(gguf, "Hello", tokens=2, sample="none", ignore_eos=True)
    full = run_llama(request, sail, tmp_path / "runs")
    sampled = run_llama(
        LlamaRequest(gguf, "Hello", tokens=2, threads=2, sample_passes="prefill,last", ignore_eos=True),
        sail,
        tmp_path / "runs",
    )
    assert full.tokens == sampled.tokens, "the same tokens on either CPU model and with any number of threads"
    assert len(full.tokens) == 2
    assert full.run is not None
    assert sampled.run is not None
    whole, parts = load_run(full.run), load_run(sampled.run)
    for run in (whole, parts):
        assert [r.label for r in run.rois] == ["prefill", "decode"]
        assert all(o.pim_commands for r in run.rois for o in r.operators if o.device == "sram_pim")
        result = results([run.path], prices={}, energy=None, utilisation=1.0)[0]
        assert all(not p.energy.is_lower_bound and p.j_per_token > 0 for p in result.phases)
    # Commands: what the guest counted over the whole run is what gem5 counted over the passes.
    assert sum(p["commands"] for p in whole.manifest["llama"]["products"]) == _issued(full.run)
    # A layer's commands depend neither on threads nor on sampling; the model has 30 layers for the file's 2.
    in_pass = {o.name: o.pim_commands for o in parts.rois[1].operators if o.pim_commands}
    assert in_pass["layers, products"] % 30 == 0
    in_file = in_pass["layers, products"] * 2 / 30 + in_pass["head, products"] * 300 / 49152
    assert round(in_file) == sum(o.pim_commands for o in whole.rois[1].operators)


def _issued(run: Path) -> int:
    """lutmm instructions in all regions, from gem5's own statistics."""
    from gempim.analysis.stats import parse_stats

    total = 0
    for section in parse_stats(run / "gem5" / "passes" / "stats.txt.gz"):
        counters = pim_counters(section)
        assert counters is not None
        total += int(counters["lutmmIssued"])
    return total
