"""Lowering: from a model and a phase to the operators of one pass, with the bytes each moves."""

from gempim.lowering.graph import LOGITS, NOT_MODELLED, PHASES, lower
from gempim.lowering.operator import KINDS, Operator
from gempim.lowering.routing import MODES, Routing

__all__ = ["KINDS", "LOGITS", "MODES", "NOT_MODELLED", "PHASES", "Operator", "Routing", "lower"]
