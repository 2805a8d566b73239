"""A graph in a file and in a notebook."""

from __future__ import annotations

import difflib
import os
from html import escape
from pathlib import Path

from funcgrad.errors import MissingPackageError, SelectorError
from funcgrad.inspect.graphs.drawing.labels import AtStep
from funcgrad.inspect.graphs.drawing.svg import draw
from funcgrad.inspect.graphs.drawing.views import View, views_of
from funcgrad.inspect.graphs.nodes import Graph

MOST_NAMES = 12
"""How many views are named below a picture at most."""


def to_svg(
    graph: Graph, path: str | os.PathLike[str] | None = None, view: int | str = 0, step: AtStep = -1
) -> str:
    """The picture of a graph, or of one of its views by number or name, written to `path` if given."""
    text = draw(view_of(graph, view), step=step)
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def view_of(graph: Graph, wanted: int | str) -> View:
    """A view by its number, or by the end of its name: ``layer_3/LayerNorm_0``."""
    views = views_of(graph)
    names = {view.index: view.full_name for view in views}
    if isinstance(wanted, str):
        found = [i for i, name in names.items() if f"/{name}".endswith(f"/{wanted.strip('/')}")]
    else:
        found = [wanted] if wanted in names else []
    if len(found) == 1:
        return views[found[0]]
    near = found or [
        i
        for i in names
        if names[i] in difflib.get_close_matches(str(wanted), names.values(), 6, 0.3)
    ]
    listed = "".join(f"\n- {i}: {names[i]}" for i in near[:MOST_NAMES])
    raise SelectorError(
        f"The view {wanted!r} of {graph!r} was asked for. "
        f"{'Several have this name' if found else f'Its {len(views)} views have other names'}; "
        f"graph.views() lists them all, and a view can be given by its number.{listed}"
    )


def html_of(view: View) -> str:
    """A view for a notebook: its picture, and where it leads to."""
    try:
        picture = draw(view, step=-1)
    except MissingPackageError as error:
        return f"<pre>{escape(repr(view))}\n{escape(str(error))}</pre>"
    names = [f"{inner.index}: {inner.name}" for inner in view.views.values()]
    more = ", …" if len(names) > MOST_NAMES else ""
    leads = f"Views inside: {', '.join(names[:MOST_NAMES])}{more}" if names else ""
    place = " / ".join(outer.name for outer in view.path)
    return (
        f'<div style="overflow: auto; max-height: 900px">{picture}</div>'
        f"<small>{escape(place)}. {escape(leads)}</small>"
    )
