"""What a user asks of the llama guest, checked before gem5 starts."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gempim.engines.gem5_se import CACHES, CPUS, KINDS
from gempim.engines.llama.estimate import Shape
from gempim.engines.llama.plan import SAMPLES, choose_passes
from gempim.models import GgufError, ModelSpec, model_from_gguf
from gempim.models.gguf_header import read_header
from gempim.models.spec import TensorMap
from gempim.quantity import DataError
from gempim.systems import System

FUNCTIONAL = ("atomic_noncaching", "atomic")
"""CPU models whose time says nothing: they run the guest for its tokens only."""

FLASH = ("auto", "on", "off")

MODEL_LINK = "model.gguf"
"""What the guest calls the GGUF: where the file lies must not decide the run, nor move the guest's stack."""

SYNTH_SHAPE = "gempim.synth.shape"
SYNTH_LAYERS = "gempim.synth.layers_of_model"
SYNTH_VOCAB = "gempim.synth.vocab_of_model"

_STEP = 256 << 20
_BASE_BYTES = 512 << 20


@dataclass(frozen=True)
class LlamaRequest:
    """One generation by llama.cpp in gem5.

    `tokens` are generated after `prompt`; `context` 0 means what they need. `sample`, `sample_passes` and `warmup`: see
    `plan`. `mem_size` empty: what the model needs.
    """

    gguf: Path
    prompt: str
    tokens: int
    threads: int = 1
    cpu: str = "o3"
    sample: str = "layers"
    sample_passes: str = "last"
    warmup: int = 1
    context: int = 0
    flash_attn: str = "auto"
    ignore_eos: bool = False
    caches: str = "n1"
    mem_size: str = ""

    @property
    def functional(self) -> bool:
        """Whether the run is for its tokens only."""
        return self.cpu in FUNCTIONAL

    @property
    def passes(self) -> tuple[int, ...]:
        """The passes that are measured."""
        return tuple(range(self.tokens)) if self.sample == "none" else choose_passes(self.sample_passes, self.tokens)

    def guest_args(self, system: System) -> tuple[str, ...]:
        """The guest's command line."""
        by_layer = not self.functional and self.sample != "none"
        out = ["--model", MODEL_LINK, "--prompt", self.prompt, "--tokens", str(self.tokens)]
        out += ["--threads", str(self.threads), "--context", str(self.context)] if self.context else [
            "--threads", str(self.threads)
        ]  # fmt: skip
        out += ["--device", "lutmm" if system.kind == "cpu+sram_pim" else "cpu"]
        out += ["--roi", "layer" if by_layer else "pass", "--flash-attn", self.flash_attn]
        return (*out, *(["--ignore-eos"] if self.ignore_eos else []), "--m5")

    def to_json(self) -> dict[str, Any]:
        """What decides the run besides system and files."""
        return {
            "prompt": self.prompt,
            "tokens": self.tokens,
            "threads": self.threads,
            "cpu": self.cpu,
            "caches": self.caches,
            "context": self.context,
            "flash_attn": self.flash_attn,
            "ignore_eos": self.ignore_eos,
            "mem_size": self.mem_size,
            "sample": self.sample,
            "passes": list(self.passes),
            "warmup_regions": self.warmup,
        }


@dataclass(frozen=True)
class Model:
    """The model of a request: the file's, and the one that is reported.

    They differ for a synthetic file with a part of the layers or of the vocabulary; `notes` say so, the last one that
    its weights are random.
    """

    file: ModelSpec
    reported: ModelSpec
    shape: Shape
    notes: tuple[str, ...]

    def as_it_is(self) -> Model:
        """The file's model, also where it is a part of another one: what whole passes are measured of."""
        return replace(self, reported=self.file, shape=Shape(self.shape.file, self.shape.file), notes=self.notes[-1:])


def load_model(path: Path) -> Model:
    """The model in a GGUF file. :raises DataError: not a model that gempim knows, or synthetic keys that do not fit"""
    if not path.is_file():
        raise DataError(f"--gguf {path}: no such file")
    file = model_from_gguf(path)
    keys = read_header(path).metadata
    if SYNTH_LAYERS not in keys:
        kinds = _kinds(file.layers)
        return Model(file, file, Shape(kinds, kinds), ())
    layers, vocab, name = (keys.get(k) for k in (SYNTH_LAYERS, SYNTH_VOCAB, SYNTH_SHAPE))
    if not isinstance(layers, int) or not isinstance(vocab, int) or layers < file.n_layers or vocab < file.vocab:
        raise GgufError(
            f"{path}: {SYNTH_LAYERS} is {layers!r} and {SYNTH_VOCAB} {vocab!r}, expected at least the"
            f" {file.n_layers} layers and {file.vocab} tokens of the file"
        )
    reported = _whole(file, layers, vocab, str(name or file.name))
    scale = vocab / file.vocab
    notes = []
    if layers > file.n_layers:
        notes.append(
            f"model: the file has {file.n_layers} of the {layers} layers of {reported.name}; the others are taken to"
            " be like the measured ones"
        )
    if vocab > file.vocab:
        notes.append(
            f"model: the file has {file.vocab} of the {vocab} tokens of {reported.name}'s vocabulary; time and counts"
            f" of the head are multiplied by {scale:.4g}, its fixed part too"
        )
    notes.append("model: random weights; the text means nothing, and hit rates of a pattern reuse table are not a"
                 " real model's")  # fmt: skip
    return Model(file, reported, Shape(_kinds(reported.layers), _kinds(file.layers), scale), tuple(notes))


def _kinds(layers: tuple[TensorMap, ...]) -> tuple[Hashable, ...]:
    """A layer's kind is its tensors: their roles, shapes and types."""
    seen: dict[TensorMap, int] = {}
    return tuple(seen.setdefault(layer, len(seen)) for layer in layers)


def _whole(file: ModelSpec, layers: int, vocab: int, name: str) -> ModelSpec:
    """The model that a synthetic file stands for: more layers like its last one, and all rows of the vocabulary."""
    tensors = {
        role: replace(tensor, n=vocab) if role in ("token_embd", "output") else tensor
        for role, tensor in file.globals.items()
    }
    more = layers - file.n_layers
    return replace(
        file, name=name, n_layers=layers, vocab=vocab,
        layers=(*file.layers, *[file.layers[-1]] * more), globals=TensorMap.of(tensors),
    )  # fmt: skip


def memory_size(model: ModelSpec) -> str:
    """Simulated memory that holds the model twice (as it is read and as it is kept) and what else the guest needs."""
    need = 2 * model.bytes + _BASE_BYTES
    size = 1 << 30
    while size < need:
        size *= 2
    return f"{size >> 30}GiB"


def check(request: LlamaRequest, system: System, model: Model) -> None:
    """:raises DataError: what the guest or gem5 would refuse, as far as it can be told without running them"""
    if system.kind not in KINDS:
        raise DataError(
            f"--engine gem5-se: system {system.name} is of kind {system.kind}, which gem5 cannot build; kinds that it"
            f" can: {', '.join(KINDS)}"
        )
    for option, value, allowed in (
        ("--cpu", request.cpu, CPUS),
        ("--caches", request.caches, CACHES),
        ("--sample", request.sample, SAMPLES),
        ("--flash-attn", request.flash_attn, FLASH),
    ):
        if value not in allowed:
            raise DataError(f"{option} {value}: expected one of {', '.join(allowed)}")
    if not request.prompt.strip():
        raise DataError("--prompt is empty: expected the text that the model goes on with")
    if request.tokens < 1:
        raise DataError(f"--tokens {request.tokens}: expected at least 1")
    if request.warmup < 0:
        raise DataError(f"--warmup-regions {request.warmup}: expected at least 0")
    cores = int(system.values("cpu")["cores"])
    if not 1 <= request.threads <= cores:
        raise DataError(f"--threads {request.threads}: expected 1 to {cores}, the cores of {system.name}")
    if request.context < 0 or request.context > model.file.max_context:
        raise DataError(
            f"--context {request.context}: {model.file.name} was trained for {model.file.max_context} tokens"
        )
    # A prompt has a token at least; how many more, the guest's tokeniser says.
    limit = request.context or model.file.max_context
    if request.tokens > limit:
        raise DataError(f"--tokens {request.tokens}: prompt and tokens need more than the {limit} tokens of context")
    if not request.functional:
        request.passes  # noqa: B018 - says what is wrong with --sample-passes
