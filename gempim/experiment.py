"""Experiments: one system, one model, one workload, one engine. Strict TOML, or the same keys from the command line.

::

    [experiment]
    name = "my first run"          # optional; free text
    system = "sail"                # a shipped system, or a path to a TOML file
    engine = "embedded"

    [model]
    name = "llama-2-7b"            # a shipped shape, with `quant`; or gguf = "FILE.gguf" instead of both
    quant = "q4_0"

    [workload]
    batch = 1                      # sequences
    prompt = 512                   # tokens prefilled per sequence; 0 skips the prefill
    context = 512                  # tokens already in the KV cache when decoding starts
    tokens = 16                    # tokens decoded per sequence; 0 skips the decode
    threads = 16

    [set]                          # any parameter of the system
    "sram_pim.nbw" = 4
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gempim.models import ModelSpec, load_model, model_from_gguf
from gempim.quantity import DataError, load_toml
from gempim.systems import System, load_system

ENGINES = ("embedded",)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ExperimentHead(_Strict):
    """`[experiment]`."""

    name: str = ""
    system: str
    engine: Literal["embedded"] = "embedded"


class ModelChoice(_Strict):
    """`[model]`: a shipped shape and a quantisation, or a GGUF file."""

    name: str | None = None
    quant: str | None = None
    gguf: str | None = None

    @model_validator(mode="after")
    def _one_of(self) -> ModelChoice:
        if (self.gguf is None) == (self.name is None):
            raise ValueError("give either name (with quant) or gguf")
        if self.gguf is not None and self.quant is not None:
            raise ValueError("quant goes with name; a GGUF file carries its own types")
        if self.name is not None and self.quant is None:
            raise ValueError("quant is missing (for example q4_0); it goes with name")
        return self


class Workload(_Strict):
    """`[workload]`: what is asked of the model."""

    batch: int = Field(default=1, ge=1, le=4096)
    prompt: int = Field(default=512, ge=0, le=1_000_000)
    context: int | None = Field(default=None, ge=0, le=1_000_000)
    tokens: int = Field(default=16, ge=0, le=100_000)
    threads: int = Field(default=16, ge=1, le=1024)
    kv_type: Literal["f16", "f32", "q8_0"] = "f16"
    routing: Literal["sampled", "balanced"] = "sampled"
    routing_exponent: float = Field(default=0.0, ge=0, le=10)
    routing_seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _something_to_do(self) -> Workload:
        if self.prompt == 0 and self.tokens == 0:
            raise ValueError("prompt and tokens are both 0: there is nothing to simulate")
        return self

    def decode_context(self) -> int:
        """Tokens in each sequence's KV cache when the first token is decoded (default: the prompt)."""
        return self.prompt if self.context is None else self.context


class ExperimentFile(_Strict):
    """A whole experiment file."""

    experiment: ExperimentHead
    model: ModelChoice
    workload: Workload = Workload()
    set: dict[str, int | float | bool | str] = {}


@dataclass(frozen=True)
class Experiment:
    """A resolved experiment: everything that decides the simulated result, and nothing else."""

    name: str
    engine: str
    system: System
    model: ModelSpec
    model_source: Mapping[str, str]
    workload: Workload

    def to_json(self) -> dict[str, Any]:
        """Plain data for the manifest and for the hash."""
        m = self.model
        return {
            "engine": self.engine,
            "system": self.system.to_json(),
            "model": {
                "name": m.name,
                "arch": m.arch,
                "quant": m.quant,
                "params": m.params,
                "bytes": m.bytes,
                "n_layers": m.n_layers,
                **self.model_source,
            },
            "workload": {**self.workload.model_dump(), "context": self.workload.decode_context()},
        }

    def slug(self) -> str:
        """Readable part of the run directory's name: system and workload."""
        w = self.workload
        # A GGUF may call itself anything, at any length; a file name has 255 bytes.
        model = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "-" for c in self.model.name.lower())[:64]
        pp = f"-pp{w.prompt}" if w.prompt else ""
        tg = f"-tg{w.tokens}@{w.decode_context()}" if w.tokens else ""
        return f"{self.system.name}-{model}-{self.model.quant}-b{w.batch}{pp}{tg}-t{w.threads}"


def _explain(err: ValidationError, where: str) -> DataError:
    first = err.errors()[0]
    key = ".".join(str(p) for p in first["loc"]) or "(file)"
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        section = _SECTIONS.get(str(first["loc"][0])) if len(first["loc"]) > 1 else ExperimentFile
        allowed = ", ".join(section.model_fields) if section else ""
        message = f"unknown key; allowed: {allowed}"
    elif first["type"] == "missing":
        message = "missing"
    else:
        message = f"{message}, got {first['input']!r}" if not isinstance(first["input"], dict) else message
    return DataError(f"{where}: {key}: {message}")


_SECTIONS: dict[str, type[_Strict]] = {"experiment": ExperimentHead, "model": ModelChoice, "workload": Workload}


@cache
def _shape(name: str, quant: str) -> ModelSpec:
    """A shipped shape, built once a process."""
    return load_model(name, quant)


def resolve(doc: Mapping[str, Any], *, origin: str, base_dir: Path | None = None) -> Experiment:
    """Check an experiment document and load what it names.

    :param origin: the file's name (or `command line`), for errors
    :param base_dir: where relative paths in the document start; default: the working directory
    :raises DataError: anything unknown, missing or impossible, naming origin, key and what is allowed
    """
    try:
        spec = ExperimentFile.model_validate(doc)
    except ValidationError as err:
        raise _explain(err, origin) from None
    base = base_dir or Path.cwd()
    system_name = spec.experiment.system
    if system_name.endswith(".toml"):
        system_name = str(base / system_name)
    system = load_system(system_name)
    if "xpu" in system.sections:
        raise DataError(
            f"{origin}: system {system.name} serves streams of requests: gempim serve EXPERIMENT.toml, or"
            " gempim compare with --lin and --lout"
        )
    for key, raw in spec.set.items():
        system = system.with_override(key.removeprefix("system."), raw, origin=origin)
    if spec.model.gguf is not None:
        path = base / Path(spec.model.gguf).expanduser()
        model = model_from_gguf(path)
        source = {"gguf_sha256": file_sha256(path)}
    else:
        assert spec.model.name is not None
        assert spec.model.quant is not None
        model = _shape(spec.model.name, spec.model.quant)
        source = {"shape": spec.model.name}
    w = spec.workload
    model = model.with_kv_type(w.kv_type)
    last = max(w.prompt, w.decode_context() + w.tokens)
    if last > model.max_context:
        raise DataError(
            f"{origin}: workload: needs a context of {last} tokens; {model.name} is limited to {model.max_context}"
        )
    if "cpu" in system.sections:
        cores = int(system.sections["cpu"]["cores"].value)
        if w.threads > cores:
            raise DataError(f"{origin}: workload.threads = {w.threads}: more than the {cores} cores of {system.name}")
    if "gpu" in system.sections:
        have = int(system.sections["gpu"]["memory_bytes"].value)
        need = model.bytes + w.batch * model.kv_bytes(last)
        if need > have:
            raise DataError(
                f"{origin}: {model.name} {model.quant} with the KV cache of {w.batch} x {last} tokens has {need} bytes;"
                f" {system.name} holds {have} (gpu.memory_bytes)"
            )
    return Experiment(spec.experiment.name, spec.experiment.engine, system, model, source, w)


def load_experiment(path: Path) -> Experiment:
    """An experiment from its TOML file. :raises DataError: see :func:`resolve`"""
    return resolve(load_toml(path), origin=str(path), base_dir=path.parent)


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def experiment_hash(experiment: Experiment, extra: Mapping[str, str]) -> str:
    """Twelve hex digits that name the experiment: its resolved content and the hashes of what computes it."""
    doc = experiment.to_json()
    system = experiment.system
    # Values only: where a value was set (a file, the command line) does not make it another experiment.
    # The tables it is evaluated with are part of it: the result in the run directory is theirs.
    doc["system"] = {
        **{key: getattr(system, key) for key in ("name", "kind", "energy_table", "price")},
        **{s: system.values(s) for s in system.sections},
    }
    text = json.dumps({"experiment": doc, "extra": dict(extra)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
