"""Textbook mathematics of the rules of common operations, written once and shown in two ways.

A formula is Python over the operands' names, `y` for the result and `ct` for its cotangent. The
notation ``x̄ = ȳ (1 - y²)`` and a step's line ``ct_a += ct_h * (1 - h**2)`` are both made of it. Of
operations that sum, move or select elements the notation alone is written down, with indices.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from funcgrad.default import DEFAULT
from funcgrad.keys import op_key


@dataclass(frozen=True)
class Formula:
    """An operation's mathematics.

    Attributes:
      operands: their names.
      value: the result.
      cts: of each operand the cotangent; empty where it has none.
      params: the names of static parameters that occur, each with JAX's name for it.
    """

    operands: tuple[str, ...]
    value: str
    cts: tuple[str, ...]
    params: Mapping[str, str]

    @property
    def notation(self) -> str:
        """``y = tanh(x);  x̄ = ȳ (1 - y²)``."""
        names = {name: name for name in (*self.operands, "y")} | {"ct": "ȳ"}
        cts = [
            f"{x}\u0304 = {written(ct, names)}"
            for x, ct in zip(self.operands, self.cts, strict=True)
            if ct
        ]
        return ";  ".join([f"y = {written(self.value, names)}", ", ".join(cts)])


def formula(value: str, *cts: str, **params: str) -> Formula:
    """The formula of an operation on `x`, on `a` and `b`, or of a selection between these by `p`."""
    operands = {1: ("x",), 2: ("a", "b"), 3: ("p", "a", "b")}[len(cts)]
    return Formula(operands, value, cts, params)


AT_A_TIE = "(a == b) / 2"

FORMULAS: dict[Any, Formula] = {
    lax.add_p: formula("a + b", "ct", "ct"),
    lax.sub_p: formula("a - b", "ct", "-ct"),
    lax.mul_p: formula("a * b", "ct * b", "ct * a"),
    lax.div_p: formula("a / b", "ct / b", "-ct * y / b"),
    lax.neg_p: formula("-x", "-ct"),
    lax.exp_p: formula("exp(x)", "ct * y"),
    lax.log_p: formula("log(x)", "ct / x"),
    lax.log1p_p: formula("log(1 + x)", "ct / (1 + x)"),
    lax.expm1_p: formula("exp(x) - 1", "ct * (y + 1)"),
    lax.tanh_p: formula("tanh(x)", "ct * (1 - y**2)"),
    lax.logistic_p: formula("1 / (1 + exp(-x))", "ct * y * (1 - y)"),
    lax.sin_p: formula("sin(x)", "ct * cos(x)"),
    lax.cos_p: formula("cos(x)", "-ct * sin(x)"),
    lax.tan_p: formula("tan(x)", "ct * (1 + y**2)"),
    lax.sqrt_p: formula("sqrt(x)", "ct / (2 * y)"),
    lax.rsqrt_p: formula("1 / sqrt(x)", "-ct * y**3 / 2"),
    lax.square_p: formula("x**2", "2 * ct * x"),
    lax.integer_pow_p: formula("x**n", "ct * n * x**(n - 1)", n="y"),
    lax.pow_p: formula("a**b", "ct * b * a**(b - 1)", "ct * y * log(a)"),
    lax.abs_p: formula("abs(x)", "ct if x >= 0 else -ct"),
    lax.erf_p: formula("erf(x)", "2 * ct * exp(-x**2) / sqrt(pi)"),
    lax.max_p: formula("max(a, b)", f"ct * ((a > b) + {AT_A_TIE})", f"ct * ((a < b) + {AT_A_TIE})"),
    lax.min_p: formula("min(a, b)", f"ct * ((a < b) + {AT_A_TIE})", f"ct * ((a > b) + {AT_A_TIE})"),
    lax.select_n_p: formula("b if p else a", "", "0 if p else ct", "ct if p else 0"),
    op_key(jax.nn.relu): formula("max(x, 0)", "ct if y > 0 else 0"),
    lax.convert_element_type_p: formula("x", "ct"),
    lax.copy_p: formula("x", "ct"),
}
"""Operations on single elements, on real numbers."""

NOTATIONS: dict[Any, str] = {
    lax.dot_general_p: "Y = A B;  Ā = Ȳ Bᵀ, B̄ = Aᵀ Ȳ",
    lax.reduce_sum_p: "y = Σᵢ xᵢ;  x̄ᵢ = ȳ",
    lax.reduce_max_p: "y = maxᵢ xᵢ;  x̄ᵢ = ȳ [xᵢ = y] / Σⱼ [xⱼ = y]",
    lax.reduce_min_p: "y = minᵢ xᵢ;  x̄ᵢ = ȳ [xᵢ = y] / Σⱼ [xⱼ = y]",
    lax.broadcast_in_dim_p: "yᵢⱼ = xⱼ;  x̄ⱼ = Σᵢ ȳᵢⱼ",
    lax.reshape_p: "y = reshape(x);  x̄ = reshape(ȳ)",
    lax.squeeze_p: "y = reshape(x);  x̄ = reshape(ȳ)",
    lax.transpose_p: "Y = Xᵀ;  X̄ = Ȳᵀ",
    lax.rev_p: "yᵢ = x₋ᵢ;  x̄ᵢ = ȳ₋ᵢ",
    lax.cumsum_p: "yᵢ = Σⱼ≤ᵢ xⱼ;  x̄ᵢ = Σⱼ≥ᵢ ȳⱼ",
    lax.concatenate_p: "y = (a, b);  (ā, b̄) = ȳ",
    lax.slice_p: "yᵢ = xₛ₊ᵢ;  x̄ₛ₊ᵢ = ȳᵢ, 0 elsewhere",
    lax.gather_p: "yᵢ = xₖ, k = k(i);  x̄ₖ = Σᵢ ȳᵢ [k(i) = k]",
}
"""Operations that sum, move or select elements."""


def formula_of(op: Any, entry: Any) -> Formula | None:
    """The formula of an operation; None where none is known for `entry`, its rule."""
    return FORMULAS.get(op) if entry is not None and entry == DEFAULT.find(op) else None


def notation_of(op: Any, entry: Any) -> str:
    """A line of mathematics of an operation and its rule; empty where none is known."""
    found = formula_of(op, entry)
    if found is not None:
        return found.notation
    return NOTATIONS.get(op, "") if entry is not None and entry == DEFAULT.find(op) else ""


def substituted(expression: str, names: Mapping[str, str]) -> str:
    """The expression, still Python, with other names."""
    tree = ast.parse(expression, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            node.id = names[node.id]
    return ast.unparse(tree).replace(" ** ", "**")


# --- notation

SUPERSCRIPTS = str.maketrans("0123456789-n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ")
COMPARISONS = {ast.Gt: ">", ast.GtE: "≥", ast.Lt: "<", ast.Eq: "="}


def written(expression: str, names: Mapping[str, str]) -> str:
    """A Python expression as a textbook writes it: ``ȳ (1 - y²)``, with these names."""
    return _Notation({**names, "pi": "π"})(ast.parse(expression, mode="eval").body)


@dataclass(frozen=True)
class _Notation:
    names: Mapping[str, str]

    def __call__(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id=name):
                return self.names.get(name, name)
            case ast.Constant(value=value):
                return str(value)
            case ast.UnaryOp(op=ast.USub(), operand=x):
                return f"-{self.factor(x)}"
            case ast.BinOp(left=a, op=ast.Mult(), right=b):
                return f"{self.factor(a)} {self.factor(b)}"
            case ast.BinOp(left=a, op=ast.Div(), right=b):
                return f"{self.factor(a)} / {self.divisor(b)}"
            case ast.BinOp(left=a, op=ast.Pow(), right=b):
                return f"{self.factor(a)}{self.exponent(b)}"
            case ast.BinOp(left=a, op=op, right=b):
                return f"{self(a)} {'+' if isinstance(op, ast.Add) else '-'} {self(b)}"
            case ast.Compare(left=a, ops=[op], comparators=[b]):
                return f"[{self(a)} {COMPARISONS[type(op)]} {self(b)}]"
            case ast.IfExp(test=p, body=a, orelse=b):
                return f"{self(a)} if {self(p).strip('[]')} else {self(b)}"
            case ast.Call(func=ast.Name(id="abs"), args=[x]):
                return f"|{self(x)}|"
            case ast.Call(func=ast.Name(id="sqrt"), args=[x]):
                return f"√{self.factor(x)}"
            case ast.Call(func=ast.Name(id=function), args=args):
                return f"{function}({', '.join(map(self, args))})"
        raise ValueError(ast.dump(node))

    def factor(self, node: ast.expr) -> str:
        """A part of a product: a sum in parentheses."""
        is_sum = isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub))
        return f"({self(node)})" if is_sum else self(node)

    def divisor(self, node: ast.expr) -> str:
        """What is divided by: a product in parentheses too."""
        is_product = isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Pow)
        return f"({self(node)})" if is_product else self(node)

    def exponent(self, node: ast.expr) -> str:
        """An exponent, raised where there are signs for that."""
        text = self(node).replace(" ", "")
        raised = all(c in "0123456789-n" for c in text)
        return text.translate(SUPERSCRIPTS) if raised else f"^{self.divisor(node)}"
