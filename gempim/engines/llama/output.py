"""What the llama guest prints: its stdout as data. One fact a line; workloads/llama describes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gempim.quantity import DataError

LINES = "model, prompt, roi, token, pass, product or text"
"""What a line may begin with."""

_MODEL = re.compile(
    r"(?P<file>\S.*) arch (?P<arch>\S+) layers (?P<layers>\d+) embedding (?P<embedding>\d+) vocab (?P<vocab>\d+)"
    r" bytes (?P<bytes>\d+) params (?P<params>\d+)"
)
_ROI = re.compile(r"(\d+) (\S.*)")
_TOKEN = re.compile(r"(\d+) (\d+)")
_PASS = re.compile(r"(\d+) tokens (\d+) ns (\d+)")
_PRODUCT = re.compile(
    r"(?P<name>\S+) (?P<type>\S+) commands (?P<commands>\d+) macs (?P<macs>\d+) weight_bytes (?P<weight_bytes>\d+)"
)


@dataclass(frozen=True)
class GuestModel:
    """The model that llama.cpp loaded: `bytes` of its tensors, `params` stored elements."""

    file: str
    arch: str
    layers: int
    embedding: int
    vocab: int
    bytes: int
    params: int


@dataclass(frozen=True)
class Pass:
    """One pass through the model: tokens put in, and its time by the guest's own clock [ns]."""

    index: int
    tokens: int
    ns: int


@dataclass(frozen=True)
class Product:
    """Products that went to the PIM, summed over layers and passes, by name and weight type."""

    name: str
    type: str
    commands: int
    macs: int
    weight_bytes: int


@dataclass(frozen=True)
class GuestOutput:
    """All that a guest printed. `regions` are labels by index; `text` is None when the guest did not reach its end."""

    file: Path
    model: GuestModel
    prompt: tuple[int, ...]
    regions: dict[int, str]
    tokens: tuple[int, ...]
    passes: tuple[Pass, ...]
    products: tuple[Product, ...]
    text: str | None


def read_output(file: Path, *, before: Path | None = None, complete: bool = True) -> GuestOutput:
    """The output in `file`.

    :param before: what the guest had printed before the checkpoint that this run began with
    :param complete: the guest must have reached its end
    :raises DataError: see :func:`parse_output`; or a file cannot be read
    """
    text = ""
    for part in (before, file):
        if part is not None:
            try:
                text += part.read_text(encoding="utf-8", errors="replace")
            except OSError as e:
                raise DataError(f"{part}: cannot be read: {e.strerror or e}") from None
    return parse_output(text, file, complete=complete)


def parse_output(text: str, file: Path, *, complete: bool = True) -> GuestOutput:
    """The guest's stdout.

    :param file: its name, for errors
    :param complete: the guest must have reached its end
    :raises DataError: naming file and line: a line of another form, a fact twice or out of order, or a missing one
    """
    return _Parser(file).parse(text, complete)


class _Parser:
    def __init__(self, file: Path) -> None:
        self.where = str(file)
        self.file = file
        self.model: GuestModel | None = None
        self.prompt: tuple[int, ...] | None = None
        self.regions: dict[int, str] = {}
        self.tokens: list[int] = []
        self.passes: list[Pass] = []
        self.products: list[Product] = []
        self.text: str | None = None

    def parse(self, text: str, complete: bool) -> GuestOutput:
        readers: dict[str, Callable[[str], None]] = {
            "model": self._model,
            "prompt": self._prompt,
            "roi": self._roi,
            "token": self._token,
            "pass": self._pass,
            "product": self._product,
            "text": self._text,
        }
        for number, line in enumerate(text.splitlines(), start=1):
            self.where = f"{self.file}: line {number}"
            if not line.strip():
                continue
            word, _, rest = line.partition(" ")
            if word not in readers:
                raise self.fail(f"expected {LINES} first, got {line[:60]!r}")
            if self.text is not None:
                raise self.fail(f"nothing is expected after the text, got {line[:60]!r}")
            readers[word](rest)
        self.where = str(self.file)
        if self.model is None or self.prompt is None:
            missing = "model" if self.model is None else "prompt"
            raise self.fail(f"the guest printed no line {missing!r}: it did not get as far as a loaded model")
        if complete and (self.text is None or not self.tokens):
            missing = "text" if self.tokens else "token"
            raise self.fail(f"the guest printed no line {missing!r}: it ended after {len(self.passes)} passes")
        return GuestOutput(
            self.file, self.model, self.prompt, self.regions, tuple(self.tokens), tuple(self.passes),
            tuple(self.products), self.text,
        )  # fmt: skip

    def fail(self, what: str) -> DataError:
        return DataError(f"{self.where}: {what}")

    def match(self, pattern: re.Pattern[str], rest: str, form: str) -> re.Match[str]:
        found = pattern.fullmatch(rest.rstrip())
        if found is None:
            raise self.fail(f"expected '{form}', got {rest[:80]!r}")
        return found

    def _model(self, rest: str) -> None:
        if self.model is not None:
            raise self.fail("a second line 'model'")
        m = self.match(_MODEL, rest, "model FILE arch A layers N embedding N vocab N bytes N params N")
        numbers = {k: int(v) for k, v in m.groupdict().items() if k not in ("file", "arch")}
        if not all(numbers.values()):
            raise self.fail(f"expected numbers above 0, got {rest!r}")
        self.model = GuestModel(file=m["file"], arch=m["arch"], **numbers)

    def _prompt(self, rest: str) -> None:
        if self.prompt is not None:
            raise self.fail("a second line 'prompt'")
        words = rest.split()
        if len(words) < 2 or not all(w.isdecimal() for w in words) or int(words[0]) != len(words) - 1:
            raise self.fail(f"expected 'prompt COUNT ID ID ...' with as many ids as it counts, got {rest[:80]!r}")
        self.prompt = tuple(int(w) for w in words[1:])

    def _roi(self, rest: str) -> None:
        m = self.match(_ROI, rest, "roi INDEX LABEL")
        index = int(m[1])
        if index != len(self.regions):
            raise self.fail(f"region {index}, expected {len(self.regions)}: regions count from 0")
        self.regions[index] = m[2].strip()

    def _token(self, rest: str) -> None:
        m = self.match(_TOKEN, rest, "token NUMBER ID")
        if int(m[1]) != len(self.tokens):
            raise self.fail(f"token {m[1]}, expected {len(self.tokens)}: tokens count from 0")
        self.tokens.append(int(m[2]))

    def _pass(self, rest: str) -> None:
        m = self.match(_PASS, rest, "pass NUMBER tokens N ns N")
        if int(m[1]) != len(self.passes):
            raise self.fail(f"pass {m[1]}, expected {len(self.passes)}: passes count from 0")
        count = int(m[2])
        wanted = len(self.prompt or ()) if not self.passes else 1
        if count != wanted:
            raise self.fail(f"pass {m[1]} has {count} tokens, expected {wanted}")
        self.passes.append(Pass(int(m[1]), count, int(m[3])))

    def _product(self, rest: str) -> None:
        m = self.match(_PRODUCT, rest, "product NAME TYPE commands N macs N weight_bytes N")
        counts = {k: int(m[k]) for k in ("commands", "macs", "weight_bytes")}
        if any(p.name == m["name"] and p.type == m["type"] for p in self.products):
            raise self.fail(f"product {m['name']} {m['type']} a second time")
        self.products.append(Product(m["name"], m["type"], **counts))

    def _text(self, rest: str) -> None:
        try:
            value = json.loads(rest)
        except json.JSONDecodeError as e:
            raise self.fail(f"text: expected a JSON string: {e}") from None
        if not isinstance(value, str):
            raise self.fail(f"text: expected a JSON string, got {rest[:60]!r}")
        # Bytes that are no UTF-8 (a token may be half a character) come as lone surrogates.
        self.text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
