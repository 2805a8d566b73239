"""A graph made by hand: y = x², z = y + sin(x) in a group, so x is read twice."""

from __future__ import annotations

import html
from typing import Any


def number(x: float) -> dict[str, Any]:
    return {
        "shape": [], "min": x, "max": x, "mean": x, "norm": abs(x), "nonfinite": 0, "numbers": x,
    }  # fmt: skip


def tensor(index, name, kind, value, gradient, maker=None, readers=(), given=(), result=False):
    return {
        "id": index, "name": name, "shape": [], "dtype": "float32", "kind": kind, "result": result,
        "maker": maker, "readers": [list(one) for one in readers], "value": number(value),
        "gradient": number(gradient), "steps": 0, "graph": 0,
        "contributions": [
            {"reader": reader, "operand": operand, "gradient": number(ct)}
            for reader, operand, ct in given
        ],
    }  # fmt: skip


def op(index, name, inputs, outputs, line, scope=""):
    return {
        "id": index, "op": name, "inputs": inputs, "outputs": outputs, "context": [],
        "residuals_inside": False, "scope": scope, "where": f"model.py:{index + 1} (f)", "line": line,
        "params": {}, "function": None, "graphs": [], "graph": 0,
    }  # fmt: skip


def kind(rule, mathematics=""):
    return {
        "rule": rule, "source": f"def {rule}(ct, x, **_):\n    return ...\n",
        "mathematics": mathematics, "place": "rules/some.py:1", "zero": False,
    }  # fmt: skip


def small(name: str = "f", line: str = "y = x**2") -> dict[str, Any]:
    """At x = 3: y = 9, s = sin 3 = 0.1411, z = 9.1411; ct_x = 2·3 + cos 3 = 5.01."""
    return {
        "version": 1, "name": name, "jax": "0.10.2",
        "tensors": [
            tensor(0, "x", "argument", 3.0, 5.01, readers=[(0, 0), (1, 0)],
                   given=[(0, 0, 6.0), (1, 0, -0.99)]),
            tensor(1, "y", "value", 9.0, 1.0, 0, [(2, 0)], [(2, 0, 1.0)]),
            tensor(2, "s", "value", 0.1411, 1.0, 1, [(2, 1)], [(2, 1, 1.0)]),
            tensor(3, "z", "value", 9.1411, 1.0, 2, [], [(None, 0, 1.0)], result=True),
        ],
        "ops": [op(0, "square", [0], [1], line), op(1, "sin", [0], [2], "s = sin(x)", "waves"),
                op(2, "add", [1, 2], [3], "z = y + s")],
        "kinds": {"square": kind("square_vjp", "y = x²;  x̄ = 2 x ȳ"), "sin": kind("sin_vjp"),
                  "add": kind("add_vjp")},
        "graphs": [{"name": name, "kind": "function", "call": None, "inputs": [0], "results": [3],
                    "tensors": [0, 1, 2, 3], "ops": [0, 1, 2], "entering": []}],
        "forward": [0, 1, 2], "backward": [2, 1, 0],
    }  # fmt: skip


PLACES = {
    "t0": (100, 20, "x"), "o0": (40, 80, "square"), "v1": (160, 80, "waves"), "o1": (160, 80, "sin"),
    "t1": (40, 140, "y"), "t2": (160, 140, "s"), "o2": (100, 200, "add"), "t3": (100, 260, "z"),
}  # fmt: skip


def thing(key: str) -> str:
    x, y, name = PLACES[key]
    css, data = {"t": ("tensor", "tensor"), "o": ("op", "op"), "v": ("group", "view")}[key[0]]
    numbers = "".join(
        f'<text class="{way}" x="{x + 5}" y="{y + 28}">1</text>' for way in ("value", "gradient")
    )
    return (
        f'<g class="{css}" data-{data}="{key[1:]}"><rect x="{x}" y="{y}" width="60" height="34" '
        f'fill="white" stroke="currentColor"/><text x="{x + 5}" y="{y + 12}">{html.escape(name)}</text>'
        + (numbers if key[0] == "t" else "")
        + "</g>"
    )


def edge(start: str, end: str) -> str:
    (x, y, _), (to_x, to_y, _) = PLACES[start], PLACES[end]
    line = f"M{x + 30} {y + 34}L{to_x + 30} {to_y}"
    return "".join(
        f'<path class="edge {way}" data-from="{start}" data-to="{end}" d="{line}"/>'
        for way in ("forward", "backward")
    )


def svg(keys: list[str], edges: list[tuple[str, str]]) -> str:
    inside = "".join(edge(*ends) for ends in edges) + "".join(thing(key) for key in keys)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 260 310">{inside}</svg>'


def views(title: str = "f") -> list[dict[str, Any]]:
    around = [
        ("t0", "o0"),
        ("t0", "v1"),
        ("o0", "t1"),
        ("v1", "t2"),
        ("t1", "o2"),
        ("t2", "o2"),
        ("o2", "t3"),
    ]
    outer = svg(["t0", "o0", "v1", "t1", "t2", "o2", "t3"], around)
    inner = svg(["t0", "o1", "t2"], [("t0", "o1"), ("o1", "t2")])
    return [
        {"title": title, "parent": None, "calls": [], "ops": [0, 2], "svg": outer},
        {"title": "waves", "parent": 0, "calls": [], "ops": [1], "svg": inner},
    ]
