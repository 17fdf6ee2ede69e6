"""A vocabulary of any size for a model of random weights: a SentencePiece table ("llama") that tokenises every text.

The order is that of Llama 2's: <unk>, <s>, </s>, the 256 bytes, then pieces. A longer table begins with the shorter.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass

from gguf.constants import TokenType

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

UNK, BOS, EOS = 0, 1, 2

MIN_VOCAB = 3 + 256 + 1
"""<unk>, <s>, </s>, the bytes, and the space: what tokenises any text."""

_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
"""The commonest first, so that a small table has the likelier words."""


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF stores of a vocabulary: text, score and type of every token."""

    tokens: list[str]
    scores: list[float]
    types: list[int]


def vocabulary(size: int) -> Vocabulary:
    """The vocabulary of `size` tokens, at least MIN_VOCAB.

    Scores fall from piece to piece, as in Llama's: SentencePiece joins the pair with the highest score first.
    """
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    pieces = list(itertools.islice(_pieces(), size - len(tokens)))
    return Vocabulary(
        tokens=tokens + pieces,
        scores=[0.0] * len(tokens) + [-float(rank) for rank in range(len(pieces))],
        types=[int(kind) for kind in types] + [int(TokenType.NORMAL)] * len(pieces),
    )


def _pieces() -> Iterator[str]:
    """Space, printable ASCII, and then all words of letters by length, at the start of a word and inside it.

    Each piece is one character more than an earlier one, so joining pairs reaches all of them.
    """
    yield SPACE
    yield from string.ascii_lowercase + string.ascii_uppercase + string.digits + string.punctuation
    for length in itertools.count(1):
        for letters in itertools.product(_LETTERS, repeat=length):
            yield SPACE + "".join(letters)
        for letters in itertools.product(_LETTERS, repeat=length + 1):
            yield "".join(letters)
