"""llama.cpp in gem5 against the embedded engine: `python -P -m gempim.bench.gem5_llama`.

One decode pass of models with true shapes and random weights (`gempim model synth`): the Neoverse-N1 with llama.cpp's
own kernels against SAIL with `lutmm`, the same cores and threads. gem5 simulates the first, middle and last layer and
the head in detail (`gempim run --engine gem5-se --sample layers`); the embedded engine is asked for the same pass.
Runs that are there are not made again, so that the command can be ended and started again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from gempim.analysis.run import load_run
from gempim.analysis.table import markdown
from gempim.engines.embedded import EmbeddedEngine
from gempim.engines.llama import LlamaRequest, run_llama
from gempim.engines.llama.request import load_model
from gempim.experiment import Experiment, Workload
from gempim.models import synth
from gempim.models.spec import ModelSpec
from gempim.quantity import DataError
from gempim.systems import load_system

SYSTEMS = ("neoverse-n1", "sail")
LAYERS = {"smollm2-135m": 30, "llama-2-7b": 2}
"""Shape -> layers in the file."""
QUANTS = ("q4_0", "q4_1", "q8_0", "q4_k")
VOCAB = 2048
"""Rows of the output product in the file; its time is multiplied up to the model's own."""
PROMPT = "Hi"
PS = 1e12


@dataclass(frozen=True)
class Pass:
    """One decode pass: its time, and the share of it that is matrix products [s, 0 to 1]."""

    seconds: float
    products: float


def in_gem5(gguf: Path, system: str, threads: int, runs: Path, gem5: Path | None) -> tuple[Pass, int]:
    """The pass in gem5, and the tokens in its KV cache. :raises DataError: see `run_llama`"""
    # The two tokens that make one decode pass; random weights may say an end-of-generation token.
    request = LlamaRequest(gguf, PROMPT, tokens=2, threads=threads, ignore_eos=True)
    outcome = run_llama(request, load_system(system), runs, gem5=gem5)
    assert outcome.run is not None
    roi = load_run(outcome.run).rois_of("decode")[0]
    products = sum(o.time_ps for o in roi.operators if o.name.endswith("products"))
    return Pass(roi.sim_ps / PS, products / roi.sim_ps), roi.context


def in_embedded(model: ModelSpec, system: str, threads: int, context: int) -> Pass:
    """The same pass in the embedded engine."""
    workload = Workload(prompt=0, context=context, tokens=1, threads=threads)
    experiment = Experiment("gem5_llama", "embedded", load_system(system), model, {}, workload)
    roi = next(EmbeddedEngine(experiment).run())
    products = sum(o.time_ps for o in roi.operators if o.device == "sram_pim")
    return Pass(roi.sim_ps / PS, products / roi.sim_ps)


def files(shapes: Sequence[str], quants: Sequence[str], folder: Path) -> Iterator[tuple[str, str, Path]]:
    """The GGUF of every shape and type, written unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for shape in shapes:
        for quant in quants:
            path = folder / f"{shape}-{quant}-{LAYERS[shape]}-{VOCAB}.gguf"
            if not path.is_file():
                synth.write(synth.plan(shape, quant, layers=LAYERS[shape], vocab=VOCAB), path)
            yield shape, quant, path


def table(
    shapes: Sequence[str], quants: Sequence[str], threads: Sequence[int], runs: Path, gem5: Path | None
) -> pd.DataFrame:
    """One row a model, type and thread count: tokens/s and speedup in both engines, and where SAIL's time goes."""
    points = [(*f, t) for t in threads for f in files(shapes, quants, runs / "models")]
    rows = []
    for shape, quant, gguf, t in tqdm(points, desc="gem5", file=sys.stderr, unit="row", leave=False):
        model = load_model(gguf).reported
        gem5_passes, embedded = {}, {}
        for system in SYSTEMS:
            gem5_passes[system], context = in_gem5(gguf, system, t, runs, gem5)
            embedded[system] = in_embedded(model, system, t, context)
        speedup, estimate = (p["neoverse-n1"].seconds / p["sail"].seconds for p in (gem5_passes, embedded))
        rows.append(
            {
                "model": shape,
                "type": quant,
                "threads": t,
                "N1 in gem5 [t/s]": f"{1 / gem5_passes['neoverse-n1'].seconds:.2f}",
                "SAIL in gem5 [t/s]": f"{1 / gem5_passes['sail'].seconds:.2f}",
                "speedup in gem5": f"{speedup:.2f}x",
                "N1 embedded [t/s]": f"{1 / embedded['neoverse-n1'].seconds:.2f}",
                "SAIL embedded [t/s]": f"{1 / embedded['sail'].seconds:.2f}",
                "speedup embedded": f"{estimate:.2f}x",
                "difference": f"{estimate / speedup - 1:+.0%}",
                "products on SAIL in gem5": f"{gem5_passes['sail'].products:.0%}",
                "embedded": f"{embedded['sail'].products:.0%}",
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -P -m gempim.bench.gem5_llama", description=__doc__)
    parser.add_argument("--gem5", type=Path, help="gem5.opt (default: the one on the PATH)")
    parser.add_argument("--shapes", default=",".join(LAYERS), help="model shapes, comma separated")
    parser.add_argument("--quants", default=",".join(QUANTS), help="ggml types, comma separated")
    parser.add_argument("--threads", default="1,4,16", help="thread counts, comma separated")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run directories and models")
    o = parser.parse_args()
    shapes = o.shapes.split(",")
    if unknown := sorted(set(shapes) - set(LAYERS)):
        parser.error(f"--shapes {unknown[0]}: expected some of {', '.join(LAYERS)}")
    try:
        threads = [int(t) for t in o.threads.split(",")]
        rows = table(shapes, o.quants.split(","), threads, o.runs, o.gem5)
    except DataError as error:
        parser.exit(2, f"gem5_llama: {error}\n")
    except ValueError:
        parser.error(f"--threads {o.threads}: expected numbers, comma separated")
    sys.stdout.write(markdown(rows))


if __name__ == "__main__":
    main()
