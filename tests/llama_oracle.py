"""llama-cpp-python as the oracle for tokens and logits.

Its Python files come from the pinned sources, its libraries from the native build of the llama guest, which are
llama.cpp's own and know nothing of our backend. (Installed from the package index it would compile the same sources
once more.)
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gempim.calibrate.toolchain import ToolError, sdist_sources
from gempim.quantity import DataError
from gempim.workloads.guest import build_guest


@cache
def native_guest() -> Path:
    """The folder of the native llama guest. Skips the test, loudly, where its sources cannot be downloaded."""
    try:
        return build_guest(native=True)
    except DataError as error:
        if "downloading" not in str(error):
            raise
        pytest.skip(f"NOT CHECKED against llama.cpp: {error}")


@cache
def llama_cpp() -> ModuleType:
    """The module llama_cpp."""
    pytest.importorskip("diskcache", reason="NOT CHECKED against llama.cpp: install gempim[test]")
    os.environ["LLAMA_CPP_LIB_PATH"] = str(native_guest())
    try:
        sys.path.append(str(sdist_sources()))
    except ToolError as error:
        pytest.skip(f"NOT CHECKED against llama.cpp: {error}")
    return importlib.import_module("llama_cpp")


@dataclass(frozen=True)
class Greedy:
    """A prompt's tokens, those that llama.cpp goes on with, and the logits [tokens, vocabulary] they come from."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logits: np.ndarray[Any, np.dtype[np.float32]]


def greedy(gguf: Path, prompt: str, tokens: int) -> Greedy:
    """`tokens` greedy tokens after `prompt`, on one thread, without flash attention."""
    llm = llama_cpp().Llama(str(gguf), n_ctx=256, n_threads=1, n_threads_batch=1, flash_attn=False, verbose=False)
    ids: Sequence[int] = llm.tokenize(prompt.encode(), add_bos=True, special=True)
    out: list[int] = []
    logits = []
    step = list(ids)
    for _ in range(tokens):
        llm.eval(step)
        # Without logits_all only those after the last token are kept, in the first row.
        logits.append(np.array(np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), (llm.n_vocab(),))))
        step = [int(np.argmax(logits[-1]))]
        out += step
    llm.close()
    return Greedy(tuple(ids), tuple(out), np.array(logits))


def pieces(gguf: Path, tokens: Sequence[int]) -> bytes:
    """The text of `tokens`, special ones included, byte for byte."""
    library = llama_cpp()
    llm = library.Llama(str(gguf), n_ctx=32, n_threads=1, n_threads_batch=1, verbose=False)
    buffer = ctypes.create_string_buffer(64)
    out = b""
    for token in tokens:
        size = library.llama_token_to_piece(llm._model.vocab, token, buffer, len(buffer), 0, True)
        assert size >= 0
        out += buffer.raw[:size]
    llm.close()
    return out
