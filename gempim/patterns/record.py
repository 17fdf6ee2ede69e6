"""Measure pattern reuse on the real activations of a real model and write the statistics down.

What is run: the model's forward pass on real text, with activations quantised as llama.cpp's CPU backend does.

* prefill: one sequence of the text's first PREFILL_TOKENS tokens. Recorded vectors: the last WINDOW tokens of each of
  WINDOWS equal parts, so a batch is consecutive tokens of one text, at several depths. (llama.cpp computes the "output"
  matmul only for a prefill's last token; here it is recorded for the same tokens as the others.)
* decode: SEQUENCES prompts of PROMPT_TOKENS tokens each, cut from evenly spaced places of the text, each continued
  greedily for DECODE_STEPS tokens. Recorded vectors: those steps, so a batch is different sequences at the same step.

What is counted: see `gempim.patterns.prt`. A recorded mean and standard deviation are over all layers and all batches
of consecutive recorded vectors; the standard deviation is the population's.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gempim import __version__
from gempim.patterns.forward import LlamaForward
from gempim.patterns.gguf_file import open_gguf
from gempim.patterns.prt import GroupLookups
from gempim.patterns.quantize import BLOCK_LENGTH, quantize
from gempim.patterns.stats import (
    INPUT_OF_ROLE,
    RATE_UNIT,
    SCHEMA,
    bundled_text,
)
from gempim.patterns.tokenizer import Tokenizer

NBW = tuple(range(1, 9))
ACTIVATION_BITS = tuple(range(4, 9))
BATCH = (1, 4, 8, 16, 32)
ENTRIES = 32
SENSITIVITY_ENTRIES = (4, 8)
"""Further table sizes at SENSITIVITY_NBW; 16 entries and more hold all 2^4 patterns, so 32 stands for them."""
SENSITIVITY_NBW = 4

PREFILL_TOKENS, WINDOWS, WINDOW = 512, 4, 32
SEQUENCES, PROMPT_TOKENS, DECODE_STEPS = 32, 32, 4

# One observed role per distinct matmul input; the others of the same input see the same activations.
OBSERVED_ROLES = ("attn_q", "attn_output", "ffn_gate", "ffn_down", "output")

Vectors = dict[str, NDArray[np.float32]]
"""Matmul input -> activations [layers * vectors, k], the vectors of one layer together."""


class RecordError(ValueError):
    """The recording cannot be made from what was given; the text says why."""


@dataclass(frozen=True)
class HitStatistics:
    """Hit rates of one (phase, kind, input, entries, nbw): [bits, batch] means and standard deviations, 0..1."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


class _Collector:
    """Gathers observed rows by input and layer."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, list[NDArray[np.float32]]]] = {}

    def observer(self, rows: NDArray[np.int64] | slice) -> Callable[[str, int, NDArray[np.float32]], None]:
        def observe(role: str, layer: int, x: NDArray[np.float32]) -> None:
            if role in OBSERVED_ROLES:
                self._rows.setdefault(INPUT_OF_ROLE[role], {}).setdefault(layer, []).append(x[rows].copy())

        return observe

    def vectors(self) -> Vectors:
        return {
            name: np.concatenate([row for layer in sorted(layers) for row in layers[layer]])
            for name, layers in self._rows.items()
        }


def prefill_vectors(model: LlamaForward, ids: Sequence[int]) -> Vectors:
    """Activations of the recorded prefill tokens; RecordError when the text is too short."""
    if len(ids) < PREFILL_TOKENS:
        raise RecordError(f"text: expected at least {PREFILL_TOKENS} tokens, got {len(ids)}")
    part = PREFILL_TOKENS // WINDOWS
    rows = np.concatenate([np.arange(end - WINDOW, end) for end in range(part, PREFILL_TOKENS + 1, part)])
    collector = _Collector()
    cache = model.new_cache(PREFILL_TOKENS)
    model.run(list(ids[:PREFILL_TOKENS]), cache, observe=collector.observer(rows), all_logits=True)
    return collector.vectors()


def decode_vectors(model: LlamaForward, ids: Sequence[int]) -> Vectors:
    """Activations of the recorded decode steps, step by step, each over all sequences."""
    last_start = len(ids) - PROMPT_TOKENS
    if last_start < SEQUENCES - 1:
        raise RecordError(f"text: {SEQUENCES} prompts of {PROMPT_TOKENS} tokens do not fit {len(ids)} tokens")
    starts = [index * last_start // (SEQUENCES - 1) for index in range(SEQUENCES)]
    caches, next_ids = [], []
    for start in tqdm(starts, desc="decode prompts", file=sys.stderr, leave=False):
        cache = model.new_cache(PROMPT_TOKENS + DECODE_STEPS)
        logits = model.run(list(ids[start : start + PROMPT_TOKENS]), cache)
        caches.append(cache)
        next_ids.append(int(logits[-1].argmax()))
    collector = _Collector()
    observe = collector.observer(slice(None))
    for _ in tqdm(range(DECODE_STEPS), desc="decode steps", file=sys.stderr, leave=False):
        for index, cache in enumerate(caches):
            next_ids[index] = int(model.run([next_ids[index]], cache, observe=observe)[-1].argmax())
    return collector.vectors()


def table_sizes(nbw: int) -> tuple[int, ...]:
    """PRT sizes recorded at this NBW."""
    return (*SENSITIVITY_ENTRIES, ENTRIES) if nbw == SENSITIVITY_NBW else (ENTRIES,)


def count_hits(x: NDArray[np.float32], kind: str, nbw: int) -> dict[int, HitStatistics]:
    """Statistics by table size for the activations [vectors, k] of one matmul input."""
    sizes = table_sizes(nbw)
    mean = np.zeros((len(sizes), len(ACTIVATION_BITS), len(BATCH)))
    std = np.zeros_like(mean)
    for row, bits in enumerate(ACTIVATION_BITS):
        integers, _ = quantize(x, kind, bits)
        lookups = GroupLookups(integers, nbw, bits, BLOCK_LENGTH[kind])
        for column, batch in enumerate(BATCH):
            rates = lookups.hit_rates(batch, sizes)
            mean[:, row, column] = rates.mean(axis=1)
            std[:, row, column] = rates.std(axis=1)
    return {size: HitStatistics(mean[index], std[index]) for index, size in enumerate(sizes)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if any(ord(char) < 32 for char in escaped):
        raise RecordError(f"expected text without control characters for the record, got {text!r}")
    return f'"{escaped}"'


def _counts(values: NDArray[np.float64]) -> str:
    """Rates as nested TOML lists of integers in RATE_UNIT."""
    return "[" + ",".join("[" + ",".join(str(round(v * 10000)) for v in row) + "]" for row in values) + "]"


def _choice(value: int, unit: str, scope: str, why: str) -> str:
    return f'{{ value = {value}, unit = "{unit}", scope = "{scope}", kind = "choice", source = {_quoted(why)} }}'


def _header(name: str, gguf_path: Path, text_path: Path, n_text_tokens: int, command: str) -> Iterator[str]:
    fields = open_gguf(gguf_path).fields
    general_name = fields["general.name"].contents() if "general.name" in fields else gguf_path.stem
    yield "# Hit rates of SAIL's pattern reuse table on real activations. Written by the command below; not by hand."
    yield f"schema = {SCHEMA}"
    yield f"name = {_quoted(name)}"
    yield "\n[model]"
    yield f"name = {_quoted(general_name)}"
    yield f"file = {_quoted(gguf_path.name)}"
    yield f"sha256 = {_quoted(_sha256(gguf_path))}"
    yield "\n[text]"
    about = text_path.with_suffix(".toml")
    if about.exists():
        for key, value in tomllib.loads(about.read_text(encoding="utf-8")).items():
            yield f"{key} = {_quoted(value) if isinstance(value, str) else int(value)}"
    yield f"file = {_quoted(text_path.name)}"
    yield f"sha256 = {_quoted(_sha256(text_path))}"
    yield f"tokens = {n_text_tokens}"
    yield "\n[recording]"
    yield f"command = {_quoted(command)}"
    yield f"date = {dt.datetime.now(dt.UTC).date().isoformat()}"
    yield f"gempim_version = {_quoted(__version__)}"
    per_layer = "vectors per layer and matmul input"
    yield "prefill_context = " + _choice(PREFILL_TOKENS, "tokens", "sequence", "llama-bench's default pp512")
    yield "prefill_vectors = " + _choice(
        WINDOWS * WINDOW, "vectors", per_layer, f"last {WINDOW} tokens of each of {WINDOWS} equal parts of the prefill"
    )
    yield "decode_sequences = " + _choice(SEQUENCES, "sequences", "batch", "the largest recorded batch")
    yield "decode_prompt = " + _choice(PROMPT_TOKENS, "tokens", "sequence", "one sentence or two of context")
    yield "decode_vectors = " + _choice(
        SEQUENCES * DECODE_STEPS, "vectors", per_layer, f"{DECODE_STEPS} greedy steps of every sequence"
    )
    yield "\n[axes]"
    yield f"activation_bits = {list(ACTIVATION_BITS)}"
    yield f"batch = {list(BATCH)}"
    yield "\n[hit_rate]"
    yield f"unit = {_quoted(RATE_UNIT)}"
    yield 'scope = "all weight groups of a matmul input; rows: activation_bits, columns: batch"'
    yield 'kind = "measured"'
    yield 'source = "the command above; counting rules in gempim/patterns/prt.py; LRU; std over layers and batches"'


def record(gguf_path: Path, text_path: Path, out: Path, command: str) -> None:
    """Run the model on the text and write the statistics file ``out`` (TOML, under 100 kB).

    Raises GgufFileError, ForwardError, TokenizerError or RecordError naming what does not fit.
    """
    if not out.parent.is_dir():
        raise RecordError(f"--out: folder {out.parent} does not exist")
    text = text_path.read_text(encoding="utf-8")
    ids = Tokenizer.from_gguf(gguf_path).encode(text)
    model = LlamaForward.from_gguf(gguf_path, quantize_activations=True)
    phases = {"prefill": prefill_vectors(model, ids), "decode": decode_vectors(model, ids)}
    lines = list(_header(out.stem, gguf_path, text_path, len(ids), command))
    jobs = [(phase, kind, name) for phase in phases for kind in BLOCK_LENGTH for name in phases[phase]]
    for phase, kind, name in tqdm(jobs, desc="counting", file=sys.stderr):
        by_size: dict[int, list[str]] = {}
        for nbw in NBW:
            for size, hits in count_hits(phases[phase][name], kind, nbw).items():
                line = f"nbw_{nbw} = {{ mean = {_counts(hits.mean)}, std = {_counts(hits.std)} }}"
                by_size.setdefault(size, []).append(line)
        for size in sorted(by_size):
            lines += ["", f"[hit_rate.{phase}.{kind}.{name}.entries_{size}]", *by_size[size]]
    aside = out.with_name(out.name + ".part")
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    aside.replace(out)


def main_record(arguments: Any) -> None:
    """The command line's ``record``: fill in the default model and text, and name files without their folders."""
    gguf_path: Path | None = arguments.gguf
    text_path: Path | None = arguments.text
    command = "python -m gempim.patterns record"
    if gguf_path is None:
        from gempim.models.fetch import smollm2_gguf

        gguf_path = smollm2_gguf()
    else:
        command += f" --gguf {gguf_path.name}"
    if text_path is None:
        text_path = bundled_text()
    else:
        command += f" --text {text_path.name}"
    record(gguf_path, text_path, arguments.out, f"{command} --out {arguments.out.name}")
