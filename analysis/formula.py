"""Arithmetic in data files: a number that follows from other numbers is written as its formula, and evaluated here.

Only + - * / **, parentheses, numbers, names of inputs, min() and max(): a data file must not be able to run code.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

from gempim.quantity import DataError, suggest

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_CALLS: dict[str, Callable[..., float]] = {"min": min, "max": max}


def evaluate_formula(text: str, inputs: Mapping[str, float], where: str) -> float:
    """The value of the formula `text` over `inputs`.

    Raises DataError, starting with `where`, for a syntax error, an unknown name (with the nearest one), anything that
    is not arithmetic, and a result that is not finite.
    """
    try:
        value = _node(_parse(text, where), inputs, where)
    except (ZeroDivisionError, OverflowError) as error:
        raise DataError(f"{where}: formula {text!r}: {error}") from error
    if isinstance(value, complex) or not math.isfinite(value):
        raise DataError(f"{where}: formula {text!r} gives {value}, not a finite number")
    return float(value)


def names_in(text: str, where: str) -> list[str]:
    """The input names in a formula, in order of first use. Raises DataError for a syntax error."""
    found = [n for n in ast.walk(_parse(text, where)) if isinstance(n, ast.Name) and n.id not in _CALLS]
    found.sort(key=lambda n: (n.lineno, n.col_offset))
    return list(dict.fromkeys(n.id for n in found))


def with_numbers(text: str, inputs: Mapping[str, float], where: str) -> str:
    """The formula with each name replaced by its number, for people to check by hand."""
    spans = sorted(
        (n.col_offset, n.end_col_offset or n.col_offset, n.id)
        for n in ast.walk(_parse(text, where))
        if isinstance(n, ast.Name) and n.id not in _CALLS
    )
    out, at = "", 0
    for start, end, name in spans:
        out += text[at:start] + f"{inputs[name]:g}"
        at = end
    return out + text[at:]


def _parse(text: str, where: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{where}: formula {text!r} is not arithmetic: {error}") from error


def _node(node: ast.expr, inputs: Mapping[str, float], where: str) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            if name not in inputs:
                raise DataError(f"{where}: formula uses {name!r}, which is not an input{suggest(name, inputs)}")
            return inputs[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_node(operand, inputs, where)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_node(left, inputs, where), _node(right, inputs, where))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS and args:
            return _CALLS[name](*(_node(arg, inputs, where) for arg in args))
        case _:
            raise DataError(f"{where}: formula part {ast.unparse(node)!r} is not arithmetic (+ - * / ** min max)")
