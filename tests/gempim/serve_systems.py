"""Serving experiments for tests: the H100 with a policy and the PIM of `closed_form_pim` beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from closed_form_pim import DESCRIPTIONS, ClosedFormPim

from gempim.quantity import Quantity
from gempim.serve.build import Server, build
from gempim.serve.pim import PimUnit
from gempim.serve.spec import ServeExperiment, resolve_serve

POLICY: dict[str, Any] = {
    "mode": "duplex",
    "moe": "stage",
    "attention": "always",
    "op_b_limit": 32.0,
    "one_space_one_unit": True,
    "kv_migration": True,
}
COPROCESS = {"moe": "coprocess-paper", "attention": "coprocess"}
IDEAL = {"compute_efficiency": 1.0, "bandwidth_efficiency": 1.0, "attention_efficiency": 1.0}


def _choice(value: Any) -> Quantity:
    return Quantity(value, "", "", "test", "choice")


def experiment(
    model: str = "mixtral-8x7b",
    devices: int = 4,
    *,
    policy: dict[str, Any] | None = None,
    expert_tensor: bool = False,
    xpu: dict[str, Any] | None = None,
    requests: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
) -> ServeExperiment:
    """A GPU system, or with `policy` (changes to POLICY) one with PIM."""
    doc = {
        "serve": {"system": "gpu-h100", "devices": devices},
        "model": {"name": model},
        "requests": {"count": 8, "input": 60, "output": 12, **(requests or {})},
        "scheduler": {"max_batch": 4, **(scheduler or {})},
    }
    found = resolve_serve(doc, origin="test")[0]
    sections = dict(found.system.sections)
    sections["placement"] = {"expert_tensor": _choice(expert_tensor)}
    sections["xpu"] = {**sections["xpu"], **{k: _choice(v) for k, v in (xpu or {}).items()}}
    if policy is not None:
        sections["policy"] = {k: _choice(v) for k, v in {**POLICY, **policy}.items()}
    return replace(found, system=replace(found.system, sections=sections))


def server(found: ServeExperiment, device: ClosedFormPim | None = None, *, reuse: bool = True) -> Server:
    """What serves it, with `device` (default: the paper's facts, without contention) as the PIM."""

    def make_pim(system: object) -> PimUnit:
        return PimUnit(
            device or ClosedFormPim(),
            "logic_pim",
            bytes_per_s=3.352e12,
            descriptions=DESCRIPTIONS,
            peaks={"ops_per_s": 107e12, "bytes_per_s": 13.4e12},
        )

    return build(found, make_pim=make_pim, reuse=reuse)
