"""What the PIM computes: bit for bit against the order of sums written down again, within the stated bound of FP64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gempim import _engine

Halves = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float64]
ROUNDING = {"fp16": 2.0**-11, "bf16": 2.0**-8}
SMALLEST = {"fp16": 2.0**-25, "bf16": 2.0**-134}
U = 2.0**-24


def to_float(bits: Halves, form: str) -> npt.NDArray[np.float32]:
    if form == "fp16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def from_float(values: npt.ArrayLike, form: str) -> Halves:
    single = np.asarray(values, dtype=np.float32)
    if form == "fp16":
        with np.errstate(over="ignore"):
            return single.astype(np.float16).view(np.uint16)
    bits = single.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def random_halves(rng: np.random.Generator, shape: tuple[int, ...], form: str) -> Halves:
    spread = 2.0 ** rng.uniform(-8, 4, shape)
    return from_float(rng.standard_normal(shape) * spread, form)


def tree(values: npt.NDArray[np.float32]) -> np.float32:
    """Adder tree over the last axis: neighbours, an odd one moves up."""
    while len(values) > 1:
        odd = values[-1:] if len(values) % 2 else values[:0]
        values = np.concatenate([values[0 : len(values) - 1 : 2] + values[1::2], odd])
    return np.float32(values[0])


def dot(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], column: int) -> np.float32:
    total: np.float32 | None = None
    for i in range(0, len(a), column):
        part = tree(a[i : i + column] * b[i : i + column])
        total = part if total is None else np.float32(total + part)
    assert total is not None
    return total


def gemm(w: Halves, x: Halves, form: str, column: int) -> Halves:
    (n, k), tokens = w.shape, len(x)
    raw = _engine.logic_pim_gemm_values(w.tobytes(), x.tobytes(), n, k, tokens, form, column)
    return np.frombuffer(raw, dtype=np.uint16).reshape(tokens, n)


def gamma(k: int, column: int) -> float:
    additions = math.ceil(math.log2(min(column, k))) if k > 1 else 0
    m = additions + math.ceil(k / column) - 1
    return m * U / (1 - m * U)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), form=st.sampled_from(["fp16", "bf16"]), n=st.integers(1, 9),
    tokens=st.integers(1, 5), k=st.integers(1, 700), column=st.sampled_from([1, 7, 128, 512]),
)  # fmt: skip
def test_gemm_bits_and_bound(seed: int, form: str, n: int, tokens: int, k: int, column: int) -> None:
    """The same bits as sums in that order, and within gamma * sum |w x| and one rounding of the exact product."""
    rng = np.random.default_rng(seed)
    w, x = random_halves(rng, (n, k), form), random_halves(rng, (tokens, k), form)
    got = gemm(w, x, form, column)
    wf, xf = to_float(w, form), to_float(x, form)
    expected = from_float([[dot(xf[t], wf[i], column) for i in range(n)] for t in range(tokens)], form)
    assert np.array_equal(got, expected)
    exact = xf.astype(np.float64) @ wf.astype(np.float64).T
    size = np.abs(xf).astype(np.float64) @ np.abs(wf).astype(np.float64).T
    bound = gamma(k, column) * size
    bound += ROUNDING[form] * (np.abs(exact) + bound) + SMALLEST[form]
    assert (np.abs(to_float(got, form) - exact) <= bound).all()


def test_order_of_the_sums() -> None:
    """A column's products are added in pairs, columns one after the other: another order loses or keeps other bits."""
    tiny = 2.0**-11  # half an ulp of 8192 in FP32: lost when added to 8192, kept when taken from it
    w = from_float([[8192.0, 0.0, tiny, -8192.0]], "fp16")
    x = from_float([[1.0, 1.0, 1.0, 1.0]], "fp16")
    for column, expected in ((4, tiny), (128, tiny), (2, tiny), (1, 0.0), (3, 0.0)):
        assert to_float(gemm(w, x, "fp16", column), "fp16")[0, 0] == expected, column


def attention(q: Halves, k: Halves, v: Halves, scale: float, form: str, modules: int = 32) -> Halves:
    (group, dim), length = q.shape, len(k)
    raw = _engine.logic_pim_attention_values(
        q.tobytes(), k.tobytes(), v.tobytes(), group, dim, length, scale, form, 128, modules
    )
    return np.frombuffer(raw, dtype=np.uint16).reshape(group, dim)


def exact_attention(q: Floats, k: Floats, v: Floats, scale: float) -> tuple[Floats, Floats]:
    scores = scale * (q @ k.T)
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = e / e.sum(axis=1, keepdims=True)
    return shares, shares @ v


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), form=st.sampled_from(["fp16", "bf16"]), group=st.integers(1, 4),
    dim=st.sampled_from([8, 64, 128]), length=st.integers(1, 900),
)  # fmt: skip
def test_attention_bound(seed: int, form: str, group: int, dim: int, length: int) -> None:
    """Within what FP32 scores, a three-step softmax and 16-bit shares can lose against FP64 of the same operands."""
    rng = np.random.default_rng(seed)
    q, k, v = (from_float(rng.standard_normal(s), form) for s in ((group, dim), (length, dim), (length, dim)))
    scale = float(np.float32(1 / math.sqrt(dim)))
    got = to_float(attention(q, k, v, scale, form), form).astype(np.float64)
    qf, kf, vf = (to_float(a, form).astype(np.float64) for a in (q, k, v))
    shares, exact = exact_attention(qf, kf, vf, scale)
    # Scores: the GEMM bound and the scaling; exponential: twice that (the maximum is one of them) and 2 ulp;
    # their sum one after the other; division; then the share's own rounding.
    score = scale * (gamma(dim, 128) + U) * (np.abs(qf) @ np.abs(kf).T) + U * np.abs(scale * (qf @ kf.T))
    relative = np.expm1(2 * score.max(axis=1) + (length + 8) * U) + ROUNDING[form]
    chain = math.ceil(length / 32) + 32
    lost = relative[:, None] * (shares @ np.abs(vf)) + SMALLEST[form] * np.abs(vf).sum(axis=0)
    lost += chain * U / (1 - chain * U) * 1.01 * (shares @ np.abs(vf))
    lost += ROUNDING[form] * (np.abs(exact) + lost) + SMALLEST[form]
    assert (np.abs(got - exact) <= lost).all()


def test_attention_order_of_modules() -> None:
    """Token l is added by module l mod modules, then the modules one after the other."""
    q = from_float(np.zeros((1, 1)), "fp16")  # equal scores: four shares of a quarter
    k = from_float(np.ones((4, 1)), "fp16")
    v = from_float([[32768.0], [2.0**-10], [-32768.0], [0.0]], "fp16")
    tiny = 2.0**-12  # a quarter of the second value, lost when it is added to 8192 in FP32
    for modules, expected in ((1, 0.0), (2, tiny), (3, 0.0), (4, 0.0)):
        assert to_float(attention(q, k, v, 1.0, "fp16", modules), "fp16")[0, 0] == expected, modules


@pytest.mark.parametrize("form", ["fp16", "bf16"])
def test_gated_activation(form: str) -> None:
    """up * silu(gate), within FP32 and one rounding; large negative gates give zero, not NaN."""
    rng = np.random.default_rng(4)
    gate = from_float(np.concatenate([rng.standard_normal(500) * 4, [-200, 200, 0]]), form)
    up = from_float(np.concatenate([rng.standard_normal(500), [1, 1, 1]]), form)
    raw = _engine.logic_pim_gated_values(gate.tobytes(), up.tobytes(), form)
    got = to_float(np.frombuffer(raw, dtype=np.uint16), form).astype(np.float64)
    g, u = to_float(gate, form).astype(np.float64), to_float(up, form).astype(np.float64)
    with np.errstate(over="ignore"):
        exact = u * g / (1 + np.exp(-g))
    assert (np.abs(got - exact) <= (ROUNDING[form] + 16 * U) * np.abs(exact) + SMALLEST[form]).all()


def test_special_values() -> None:
    """Infinities and NaN come out as such; sums beyond FP16 become infinite, as stores of FP16 do."""
    one, big, inf, nan = (int(np.float16(x).view(np.uint16)) for x in (1, 60_000, np.inf, np.nan))
    w = np.array([[big, big], [inf, one], [nan, one]], dtype=np.uint16)
    x = np.array([[one, one]], dtype=np.uint16)
    got = to_float(gemm(w, x, "fp16", 128)[0], "fp16")
    assert got[0] == got[1] == np.inf
    assert math.isnan(got[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _engine.logic_pim_gemm_values(b"", b"", 1, 1, 1, "fp16", 128), "weights: 0 bytes, expected 2"),
        (lambda: _engine.logic_pim_gemm_values(b"", b"", 0, 0, 0, "fp8", 128), "allowed are fp16, bf16"),
        (lambda: _engine.logic_pim_gemm_values(b"", b"", 0, 0, 0, "fp16", 0), "column_weights"),
        (lambda: _engine.logic_pim_gated_values(b"ab", b"", "fp16"), "up: 0 bytes, expected 2"),
        (lambda: _engine.logic_pim_attention_values(b"", b"", b"", 0, 0, 0, 1.0, "fp16", 1, 1), "length"),
    ],
)
def test_bad_calls(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
