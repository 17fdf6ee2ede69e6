"""Where weights and KV cache lie: tensor, expert and data parallel placement, and how many tokens fit.

Duplex paper, section III (from DeepSpeed-MoE): weights outside the experts are sliced over the devices of a node
(tensor parallel) and copied to every node (data parallel); experts are spread over all devices (expert parallel), and
sliced only when there are more devices than experts. With expert tensor parallelism (``ET``) every expert is sliced
over all devices of a node, and nodes share the experts between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gempim.models import ModelSpec
from gempim.quantity import DataError

FP16 = 2


def _f(unit: str, description: str) -> dict[str, object]:
    return {"unit": unit, "description": description}


@dataclass(frozen=True)
class PlacementParams:
    """How experts are placed."""

    expert_tensor: bool = field(metadata=_f("flag", "slice every expert over the devices of a node (ET)"))


@dataclass(frozen=True)
class ModelSizes:
    """What placement and stages need of a model in FP16: elements of each part, of one layer unless it says all."""

    name: str
    n_layers: int
    moe_layers: int
    d_model: int
    q_dim: int
    kv_dim: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    experts: int
    experts_used: int
    ffn_matrices: int
    gated: bool
    rope: bool
    bytes: int
    expert_bytes: int

    @classmethod
    def of(cls, model: ModelSpec) -> ModelSizes:
        """From a model's shapes. Raises DataError for weights that are not FP16."""
        wrong = [t for t in model.bytes_by_type() if t not in ("f16", "bf16", "f32")]
        if wrong:
            raise DataError(f"{model.name}: weights of type {wrong[0]}: serving computes in FP16 (quant = 'f16')")
        moe = [layer for layer in model.layers if layer.is_moe]
        experts = sum(t.bytes for layer in moe for role, t in layer.items() if role.endswith("_exps"))
        return cls(
            name=model.name, n_layers=model.n_layers, moe_layers=len(moe), d_model=model.d_model, q_dim=model.q_dim,
            kv_dim=model.kv_dim, n_heads=model.n_heads, n_kv_heads=model.n_kv_heads, head_dim=model.head_dim,
            d_ff=model.d_ff, vocab=model.vocab, experts=model.n_experts, experts_used=model.n_experts_used,
            ffn_matrices=3 if model.gated else 2, gated=model.gated, rope=model.rope, bytes=model.bytes,
            expert_bytes=experts,
        )  # fmt: skip

    @property
    def kv_bytes(self) -> int:
        """Bytes of K and V of one token, all layers."""
        return 2 * self.n_layers * self.kv_dim * FP16

    @property
    def one_expert_bytes(self) -> int:
        """Bytes of one expert of one layer."""
        return self.ffn_matrices * self.d_model * self.d_ff * FP16


@dataclass(frozen=True)
class Placement:
    """`nodes` of `per_node` devices that hold one model.

    `expert_groups` sets of devices share the experts between them; each set slices its experts over `expert_slices`.
    In a hetero system half of a node's devices are xPUs with all other weights, the other half have experts and KV
    cache.
    """

    nodes: int
    per_node: int
    expert_groups: int
    expert_slices: int
    hetero: bool = False

    @classmethod
    def of(
        cls, model: ModelSizes, devices: int, per_node_most: int, *, expert_tensor: bool, hetero: bool = False
    ) -> Placement:
        """The placement of `devices` devices, as few nodes as possible.

        :raises DataError: devices that do not divide over nodes, or experts over devices
        """
        nodes = math.ceil(devices / per_node_most)
        if devices % nodes:
            raise DataError(f"{devices} devices do not divide over {nodes} nodes of at most {per_node_most}")
        per_node = devices // nodes
        holders = devices // 2 if hetero else devices
        if not model.experts:
            return cls(nodes, per_node, 1, per_node, hetero)
        groups = nodes if expert_tensor else min(model.experts, holders)
        if model.experts % groups or holders % groups:
            raise DataError(
                f"{model.name}: {model.experts} experts on {holders} devices: experts must divide over"
                f" {groups} groups of devices"
            )
        return cls(nodes, per_node, groups, holders // groups, hetero)

    @property
    def devices(self) -> int:
        """All devices."""
        return self.nodes * self.per_node

    @property
    def xpus(self) -> int:
        """Devices of a node whose xPU works."""
        return self.per_node // 2 if self.hetero else self.per_node

    @property
    def pims(self) -> int:
        """Devices of a node with experts and KV cache (and PIM, where the system has it)."""
        return self.per_node // 2 if self.hetero else self.per_node

    def weight_bytes(self, model: ModelSizes) -> tuple[int, int]:
        """Weights on one device: outside the experts, and experts. In a hetero system no device has both."""
        others = model.bytes - model.expert_bytes
        return math.ceil(others / self.xpus), math.ceil(model.expert_bytes / (self.pims * self.nodes))

    def kv_bytes_per_token(self, model: ModelSizes) -> int:
        """KV cache of one token on one device that has it: a head is copied where devices outnumber heads."""
        return 2 * model.n_layers * math.ceil(model.n_kv_heads / self.pims) * model.head_dim * FP16

    def capacity_tokens(self, model: ModelSizes, memory_bytes: int, reserved_bytes: int) -> int:
        """Tokens of KV cache that one NODE holds.

        :raises DataError: the weights alone do not fit
        """
        others, experts = self.weight_bytes(model)
        parts = (others, experts) if self.hetero else (others + experts,)
        if max(parts) >= memory_bytes - reserved_bytes:
            raise DataError(
                f"{model.name} on {self.devices} devices: {max(parts)} bytes of weights a device, which has"
                f" {memory_bytes} of which {reserved_bytes} are reserved: use more devices"
            )
        return (memory_bytes - reserved_bytes - parts[-1]) // self.kv_bytes_per_token(model)
