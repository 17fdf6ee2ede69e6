"""Options that several commands of `gempim` share, and what reads them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gempim.quantity import DataError

if TYPE_CHECKING:
    from gempim.systems import System

err = Console(stderr=True)


class Format(StrEnum):
    """Table formats, as in llama-bench."""

    md = "md"
    csv = "csv"
    json = "json"
    jsonl = "jsonl"


Model = Annotated[str | None, typer.Option("--model", "-m", help="A shipped model shape (`gempim models`).")]
Quant = Annotated[str | None, typer.Option("--quant", "-q", help="ggml type of the weights, for example q4_0.")]
Gguf = Annotated[
    Path | None, typer.Option("--gguf", help="A GGUF file of the Llama family instead of --model and --quant.")
]
Batch = Annotated[int, typer.Option("--batch", "-b", help="Sequences decoded together.")]
Prompt = Annotated[int | None, typer.Option("--prompt", "-p", help="Tokens to prefill; 0 skips. Default: the context.")]
Context = Annotated[
    int | None, typer.Option("--context", "-d", help="Tokens in the KV cache when decoding starts. Default: 512.")
]
Tokens = Annotated[int, typer.Option("--tokens", "-n", help="Tokens to decode; 0 skips.")]
Threads = Annotated[int, typer.Option("--threads", "-t", help="Threads on the host CPU.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="A system parameter: system.sram_pim.nbw=4. Repeatable.")]
Engine = Annotated[str, typer.Option("--engine", help="Engine: embedded.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the run directories.")]
Out = Annotated[Format, typer.Option("-o", "--output", help="Format on stdout.")]
Prices = Annotated[
    list[str] | None, typer.Option("--price", help="Override a price: aws-p3-2xlarge.usd_per_hour=2.0. Repeatable.")
]
Energy = Annotated[str | None, typer.Option("--energy", help="Energy table: a shipped name or a TOML file.")]
Utilisation = Annotated[
    float, typer.Option("--utilisation", help="Share of the paid time that serves tokens.", min=0.01, max=1.0)
]
LlamaBench = Annotated[
    list[Path] | None,
    typer.Option("--llama-bench", help="Measured rates for the report: llama-bench's -o json or jsonl. Repeatable."),
]
ReportDir = Annotated[Path | None, typer.Option("--report", help="Also write the HTML report into this folder.")]


def pairs(items: list[str] | None, option: str) -> dict[str, str]:
    """KEY=VALUE items as a dictionary. :raises DataError: one that is not, with the option's name"""
    out = {}
    for item in items or []:
        key, eq, value = item.partition("=")
        if not eq or not key or not value:
            raise DataError(f"{option} {item}: expected KEY=VALUE")
        out[key] = value
    return out


def prices_of(items: list[str] | None) -> dict[str, float]:
    """What `--price` overrides. :raises DataError: no such price, or no number"""
    from gempim.analysis.cost import parse_overrides

    return parse_overrides(items or [])


def document(
    system: str, model: str | None, quant: str | None, gguf: Path | None, batch: int, prompt: int | None,
    context: int | None, tokens: int, threads: int, sets: list[str] | None, engine: str,
) -> dict[str, Any]:  # fmt: skip
    """The experiment that options describe, as an experiment file would."""
    context = 512 if context is None else context
    choice: dict[str, Any] = {}
    if model is not None:
        choice["name"] = model
    if quant is not None:
        choice["quant"] = quant
    if gguf is not None:
        choice["gguf"] = str(gguf)
    return {
        "experiment": {"system": system, "engine": engine},
        "model": choice,
        "workload": {
            "batch": batch,
            "prompt": context if prompt is None else prompt,
            "context": context,
            "tokens": tokens,
            "threads": threads,
        },
        "set": dict(pairs(sets, "--set")),
    }


def given_options(ctx: typer.Context, names: tuple[str, ...]) -> list[str]:
    """Those of the parameters that were given, as options."""
    # By its name: newer typer brings its own copy of click, whose enum is another one.
    sources = {name: ctx.get_parameter_source(name) for name in names}
    found = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    special = {"file": "EXPERIMENT.toml", "sets": "--set", "files": "--file"}
    return [special.get(n) or "--" + n.replace("_", "-") for n in found]


def system_of(name: str, sets: list[str] | None) -> System:
    """A system with its overrides from the command line."""
    from gempim.systems import load_system

    system = load_system(name)
    for key, value in pairs(sets, "--set").items():
        system = system.with_override(key.removeprefix("system."), value, origin="--set")
    return system
