"""The real model: our forward pass against llama.cpp, and the shipped statistics against a new measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_oracle import llama_cpp

from gempim.patterns import load_patterns
from gempim.patterns.forward import LlamaForward
from gempim.patterns.record import ACTIVATION_BITS, BATCH, count_hits, prefill_vectors
from gempim.patterns.stats import bundled_text
from gempim.patterns.tokenizer import Tokenizer

pytestmark = pytest.mark.model

# Logits of the same model and prompt differ within llama.cpp itself (prompt at once or token by token, float16 or
# float32 KV cache, flash attention or not) by 3.1 to 4.0 % of their standard deviation, as a rounding that falls the
# other way moves a whole 8-bit step. A correct forward pass can therefore not be asked for less; ours measured 3.5 to
# 4.1 %.
LOGIT_RMS_BOUND = 0.06
# A top token leads the next by this share of the logits' standard deviation before the noise above cannot swap them.
CLEAR_LEAD = 0.2


@pytest.fixture(scope="module")
def gguf_path() -> Path:
    from gempim.models.fetch import FetchError, smollm2_gguf

    try:
        return smollm2_gguf()
    except FetchError as err:
        pytest.skip(f"NOT CHECKED, the SmolLM2 GGUF cannot be had: {err}")


@pytest.fixture(scope="module")
def model(gguf_path: Path) -> LlamaForward:
    return LlamaForward.from_gguf(gguf_path, quantize_activations=True)


@pytest.fixture(scope="module")
def tokenizer(gguf_path: Path) -> Tokenizer:
    return Tokenizer.from_gguf(gguf_path)


@pytest.fixture(scope="module")
def oracle(gguf_path: Path) -> Any:
    return llama_cpp().Llama(str(gguf_path), n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)


def test_tokens_equal_llama_cpp(oracle: Any, tokenizer: Tokenizer) -> None:
    passage = bundled_text().read_text(encoding="utf-8")
    for text in (
        passage,
        "I'll pay 1234 dollars -- don't  you?\n\n  It's über ½ naïve…\t x² 日本語 'tis\r\n\u00a0 a",
        " leading and trailing  ",
        "a\n\n\nb 12 34",
    ):
        assert tokenizer.encode(text) == oracle.tokenize(text.encode(), add_bos=False, special=False)


@pytest.mark.parametrize("prompt", ["The capital of France is", "passage"])
def test_logits_and_greedy_tokens_equal_llama_cpp(
    oracle: Any, tokenizer: Tokenizer, model: LlamaForward, prompt: str
) -> None:
    text = bundled_text().read_text(encoding="utf-8")[:600] if prompt == "passage" else prompt
    ids = tokenizer.encode(text)
    oracle.reset()
    oracle.eval(ids)
    cache = model.new_cache(len(ids) + 24)
    ours = model.run(ids, cache, all_logits=True)
    theirs = oracle.scores[: len(ids)].copy()
    assert np.sqrt(((ours - theirs) ** 2).mean()) < LOGIT_RMS_BOUND * theirs.std()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.998

    # Greedy: both continue with llama.cpp's choice, so that one near-tie does not end the comparison.
    compared = 0
    ours, theirs = ours[-1], theirs[-1]
    for step in range(24):
        token = int(theirs.argmax())
        second, first = np.sort(theirs)[-2:]
        if first - second > CLEAR_LEAD * theirs.std():
            assert int(ours.argmax()) == token, f"greedy token {step}"
            compared += 1
        ours = model.run([token], cache)[-1]
        oracle.eval([token])
        theirs = oracle.scores[len(ids) + step].copy()
    assert compared >= 8


def test_shipped_statistics_can_be_measured_again(model: LlamaForward, tokenizer: Tokenizer) -> None:
    """Prefill, NBW 4, two inputs, through the recorder's own steps.

    Another BLAS, or another number of its threads, rounds otherwise; a rounding that falls the other way moves a whole
    8-bit step and then every later layer. Between such runs the rates differed by up to 0.0043.
    """
    stats = load_patterns("smollm2-135m")
    vectors = prefill_vectors(model, tokenizer.encode(bundled_text().read_text(encoding="utf-8")))
    for kind, activation_type in (("block32", "q8_1"), ("block256", "q8_K")):
        for role in ("attn_output", "output"):
            measured = count_hits(vectors[role], kind, 4)
            for size, hits in measured.items():
                shipped = [
                    [
                        stats.hit_rate(role, 4, b, "group", m, size, phase="prefill", activation_type=activation_type)
                        for m in BATCH
                    ]
                    for b in ACTIVATION_BITS
                ]
                assert hits.mean == pytest.approx(np.array(shipped), abs=8e-3)
