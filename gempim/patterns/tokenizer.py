"""Byte-level BPE from a GGUF's own vocabulary (tokenizer.ggml.model "gpt2", pre-tokenizer "smollm").

The splitting rule is llama.cpp's for "smollm" (ggml-org/llama.cpp, llama-vocab.cpp): every numeric character alone,
then GPT-2's pattern: contractions, optional space + letters / numbers / other signs, runs of white space (which leave
their last character to the next word). Special tokens such as <|im_start|> in the text are treated as plain text.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gempim.patterns.gguf_file import open_gguf

_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
# Over the class string of `_classes`: L letter, N number, S white space other than U+0020, P anything else.
_WORD = re.compile(r" ?L+| ?N| ?P+|[ S]+(?![LNP])|[ S]+")


class TokenizerError(ValueError):
    """A vocabulary this tokenizer cannot use, or a text it cannot express; the text says which."""


def _classes(text: str) -> str:
    def classify(char: str) -> str:
        if char == " ":
            return " "
        if char.isspace():
            return "S"
        return {"L": "L", "N": "N"}.get(unicodedata.category(char)[0], "P")

    return "".join(classify(char) for char in text)


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte: itself where it prints, else the next free code point from 256 up."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def split_words(text: str) -> list[str]:
    """Split text as the "smollm" pre-tokenizer does; the pieces concatenate to the text."""
    words: list[str] = []
    shadow = _classes(text)
    # Numbers are cut out first, so a space never joins one and no pattern looks across one.
    for part in re.finditer(r"N|[^N]+", shadow):
        start, end = part.span()
        classes = shadow[start:end]
        at = 0
        while at < len(classes):
            match = _CONTRACTION.match(text, start + at, end) or _WORD.match(classes, at)
            assert match is not None  # the four classes cover every character
            length = match.end() - match.start()
            words.append(text[start + at : start + at + length])
            at += length
    return words


class Tokenizer:
    """Text -> token ids with the vocabulary and merges of one GGUF."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        for key, wanted in (("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")):
            if fields.get(key) != wanted:
                raise TokenizerError(f"{key}: expected {wanted!r}, got {fields.get(key)!r}")
        for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
            if not isinstance(fields.get(key), list):
                raise TokenizerError(f"{key}: expected a list of strings, got {fields.get(key)!r}")
        self._ids = {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])}
        self._rank = {tuple(pair.split(" ")): rank for rank, pair in enumerate(fields["tokenizer.ggml.merges"])}
        self._alphabet = _byte_alphabet()
        self._known_words: dict[str, list[int]] = {}

    @classmethod
    def from_gguf(cls, path: Path) -> Tokenizer:
        """Read the vocabulary of a GGUF; TokenizerError when it is of another kind, GgufFileError when damaged."""
        fields = open_gguf(path).fields
        try:
            return cls({name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")})
        except TokenizerError as err:
            raise TokenizerError(f"{path}: {err}") from err

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` without begin or end marks."""
        ids: list[int] = []
        for word in split_words(text):
            if word not in self._known_words:
                self._known_words[word] = self._encode_word(word)
            ids += self._known_words[word]
        return ids

    def _encode_word(self, word: str) -> list[int]:
        parts = [self._alphabet[byte] for byte in word.encode()]
        while len(parts) > 1:
            ranks = [self._rank.get(pair, len(self._rank)) for pair in itertools.pairwise(parts)]
            best = min(ranks)
            if best == len(self._rank):
                break
            # The leftmost pair of the lowest rank merges first, one at a time, as in llama.cpp's work queue.
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if unknown := [part for part in parts if part not in self._ids]:
            raise TokenizerError(f"the vocabulary has no token for {unknown[0]!r} in {word!r}")
        return [self._ids[part] for part in parts]
