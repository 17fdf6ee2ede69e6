"""Placement: what fits. The batches that the Duplex paper's systems can hold follow from it."""

from __future__ import annotations

import pytest
from serve_systems import experiment, server

from gempim.models import load_model
from gempim.quantity import DataError
from gempim.serve.placement import ModelSizes, Placement

GIB80 = 80 << 30


def _sizes(name: str) -> ModelSizes:
    return ModelSizes.of(load_model(name, "f16"))


@pytest.mark.parametrize(
    ("lengths", "batch"), [((2048, 2048), 128), ((2048, 4096), 101), ((4096, 4096), 75), ((8192, 4096), 50)]
)
def test_hetero_holds_the_batches_of_the_paper(lengths: tuple[int, int], batch: int) -> None:
    """Usable batches of 128: 101, 75 and 50 where memory is the limit; from 80 GiB a device less 64 MiB."""
    capacity = server(experiment(policy={"mode": "hetero", "moe": "always"})).capacity_tokens
    assert min(128, capacity // sum(lengths)) == batch


def test_a_second_copy_of_the_weights_costs_the_split_its_batch() -> None:
    """The paper's Duplex-Split is limited to 74 of 128; with embeddings and the exact weights it is 72 here."""
    whole, split = (server(experiment(policy=p)).capacity_tokens for p in ({}, {"mode": "split"}))
    assert split // 8192 == 72
    assert whole // 8192 >= 128


@pytest.mark.parametrize(
    ("model", "devices"),
    [("mixtral-8x7b", 4), ("glam-143b", 8), ("grok-1-314b", 16), ("opt-66b", 4), ("llama-3-70b", 4)],
)
@pytest.mark.parametrize("tensor", [False, True])
def test_every_byte_of_the_weights_lies_somewhere(model: str, devices: int, tensor: bool) -> None:
    """All devices together hold the experts once, the rest once a node; the KV cache of a token once a node."""
    sizes = _sizes(model)
    p = Placement.of(sizes, devices, 8, expert_tensor=tensor)
    others, experts = p.weight_bytes(sizes)
    assert experts * devices == pytest.approx(sizes.expert_bytes, rel=1e-6)
    assert others * devices == pytest.approx((sizes.bytes - sizes.expert_bytes) * p.nodes, rel=1e-6)
    assert p.kv_bytes_per_token(sizes) * p.per_node == sizes.kv_bytes
    capacity = p.capacity_tokens(sizes, GIB80, 0)
    assert others + experts + capacity * p.kv_bytes_per_token(sizes) <= GIB80
    assert others + experts + (capacity + 1) * p.kv_bytes_per_token(sizes) > GIB80


def test_groups_and_slices() -> None:
    mixtral, grok = _sizes("mixtral-8x7b"), _sizes("grok-1-314b")

    def shape(sizes: ModelSizes, devices: int, *, tensor: bool) -> tuple[int, int, int, int]:
        p = Placement.of(sizes, devices, 8, expert_tensor=tensor)
        return p.nodes, p.per_node, p.expert_groups, p.expert_slices

    assert shape(mixtral, 4, tensor=False) == (1, 4, 4, 1)
    assert shape(mixtral, 4, tensor=True) == (1, 4, 1, 4)
    assert shape(grok, 16, tensor=False) == (2, 8, 8, 2)
    assert shape(grok, 16, tensor=True) == (2, 8, 2, 8)


def test_heads_are_copied_where_devices_outnumber_them() -> None:
    mixtral = _sizes("mixtral-8x7b")  # 8 KV heads
    assert Placement.of(mixtral, 16, 16, expert_tensor=True).kv_bytes_per_token(mixtral) == 2 * 32 * 128 * 2


def test_what_does_not_fit_or_divide() -> None:
    with pytest.raises(DataError, match="use more devices"):
        server(experiment(devices=1))
    with pytest.raises(DataError, match="experts must divide"):
        server(experiment(devices=6))
    with pytest.raises(DataError, match="do not divide over 2 nodes"):
        server(experiment("opt-66b", 9))


def test_weights_must_be_fp16() -> None:
    with pytest.raises(DataError, match="serving computes in FP16"):
        ModelSizes.of(load_model("mixtral-8x7b", "q4_0"))
