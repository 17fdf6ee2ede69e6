"""The command `gempim model`: model files. The path of a file goes to stdout, notes and progress go to stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

BAR_BYTES = 10**9
"""Files above this get a progress bar; smaller ones take a second or two."""

model_app = typer.Typer(no_args_is_help=True, help="Model files.")


@model_app.callback()
def _model() -> None:
    """Model files."""


@model_app.command("synth")
def model_synth(
    shape: Annotated[str, typer.Option("--shape", help="A dense Llama of the shape table (`gempim models`).")],
    quant: Annotated[str, typer.Option("--quant", "-q", help="ggml type of all matrices, for example q4_0.")],
    out: Annotated[Path, typer.Option("--out", help="The GGUF file to write.")],
    layers: Annotated[int | None, typer.Option("--layers", help="Only the first layers. Default: all.")] = None,
    vocab: Annotated[
        int | None, typer.Option("--vocab", help="Tokens of the vocabulary, 260 or more. Default: the model's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the random weights.")] = 0,
    head_quant: Annotated[
        str | None,
        typer.Option("--head-quant", help="ggml type of the matrix that makes the logits. Default: --quant."),
    ] = None,
) -> None:
    """Write a GGUF with a model's true layer shapes and random weights, and print its path.

    Example: `gempim model synth --shape llama-2-7b --quant q4_0 --layers 2 --vocab 2048 --out two-layers.gguf`
    """
    from gempim.models import synth

    model = synth.plan(shape, quant, layers=layers, vocab=vocab, seed=seed, head_quant=head_quant)
    for note in model.notes:
        print(f"note: {note}", file=sys.stderr)
    with tqdm(
        total=model.bytes, desc=out.name, unit="B", unit_scale=True, file=sys.stderr, disable=model.bytes <= BAR_BYTES
    ) as bar:
        path = synth.write(model, out, progress=lambda done, _: bar.update(done - bar.n))
    print(path)
