"""A graph as a page to step through: one file that holds its script, its style and all its numbers.

    page/page.html     the page, with places for the rest
    page/page.css      how it looks, light and dark
    page/timeline.js   the steps, and which numbers are known after each
    page/numbers.js    numbers as text, tables, heat maps and histograms
    page/picture.js    the drawn views
    page/panel.js      what is said beside the picture
    page/page.js       the controls

The graph and its pictures are packed into the page by gzip and base64, so no text of the user's source
can be taken for a part of the page. A policy forbids every request and every script but the page's own.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from funcgrad.inspect.graphs.drawing.style import DARK, LIGHT, STYLE
from funcgrad.inspect.graphs.drawing.svg import draw
from funcgrad.inspect.graphs.drawing.views import View, views_of
from funcgrad.inspect.graphs.export.json import as_dict
from funcgrad.inspect.graphs.export.numbers import SMALL, as_numpy, data
from funcgrad.inspect.graphs.merged import merged
from funcgrad.inspect.graphs.nodes import Graph, TensorNode

SCRIPTS = ("timeline.js", "numbers.js", "picture.js", "panel.js", "page.js")
POLICY = (
    "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)

_DARK = f"{{{DARK}color-scheme: dark; }}\n"
THEME = (
    f":root {{{LIGHT}color-scheme: light; }}\n"
    f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {_DARK} }}\n'
    f':root[data-theme="dark"] {_DARK}'
)
"""The pictures' colours, for the page around them."""

MOST_STEPS = 16
"""Of how many steps of a loop a large value is shown."""


def to_html(graph: Graph, path: str | Path | None = None) -> str:
    """The page of a graph as text, written to `path` if there is one."""
    text = page_of(written(graph), [_view(view) for view in views_of(graph)])
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def _view(view: View) -> dict[str, Any]:
    return {
        "title": view.name,
        "parent": None if view.parent is None else view.parent.index,
        "calls": [call.index for call in view.group.calls],
        "ops": [op.index for op in view.operations],
        "svg": draw(view, styled=False),
    }


def written(graph: Graph) -> dict[str, Any]:
    """The graph as the page has it: what `as_dict` gives, each value once, loops step by step."""
    found = with_steps(graph, merged(graph, as_dict(graph)))
    return found | {"note": graph.note}


def with_steps(graph: Graph, found: dict[str, Any]) -> dict[str, Any]:
    """Add to what is inside a loop pictures of single steps, ``"each"``, and which steps have it."""
    tensors = {tensor.index: tensor for tensor in graph.all_tensors() if tensor.steps}
    for one in found["tensors"]:
        if one["id"] not in tensors:
            continue
        tensor = tensors[one["id"]]
        _add_steps(one["value"], tensor, tensor.value)
        _add_steps(one["gradient"], tensor, tensor.gradient)
        if tensor.present is not None:
            one["present"] = np.asarray(tensor.present).ravel().tolist()
    return found


def _add_steps(one: dict[str, Any] | None, tensor: TensorNode, x: Any) -> None:
    array = as_numpy(x)
    if one is None or array is None or array.size <= SMALL:
        return
    steps = array.reshape(-1, *array.shape[tensor.steps :])
    picked = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MOST_STEPS)).astype(int))
    one["each"] = [{"step": int(i)} | (data(steps[i]) or {}) for i in picked]


def page_of(graph: dict[str, Any], views: list[dict[str, Any]]) -> str:
    """The text of the page, from a graph as `as_dict` gives it and its drawn views.

    A view has ``title``, ``parent`` (the view around it; None for the first), ``calls`` (the operations
    that it stands for), ``ops`` (the operations drawn in it) and ``svg``.
    """
    script = "\n" + "\n".join(_file(name) for name in SCRIPTS) + "\n"
    filled = {
        "TITLE": html.escape(graph["name"]),
        "POLICY": POLICY.format(
            base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        ),
        "CSS": THEME + STYLE + _file("page.css"),
        "DATA": packed({"graph": graph, "views": views}),
    }
    page, own = _file("page.html").split("\n@JS@\n")
    for name, text in filled.items():
        page = page.replace(f"@{name}@", text)
    return page + script + own


def packed(content: Any) -> str:
    """JSON, packed by gzip, in base64: letters that mean nothing in HTML."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _file(name: str) -> str:
    return (files("funcgrad.inspect.graphs") / "page" / name).read_text(encoding="utf-8")
