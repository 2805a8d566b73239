"""A graph as a page to step through: one file that holds its script, its style and all its numbers.

    page/page.html     the page, with places for the rest
    page/page.css      how it looks, light and dark
    page/timeline.js   the steps, and which numbers are known after each
    page/numbers.js    numbers as text, tables, heat maps and histograms
    page/picture.js    the drawn views
    page/panel.js      what is said beside the picture
    page/page.js       the controls

The graph and its pictures are packed into the page by gzip and base64, so no text of the user's source can
be taken for a part of the page. The page's policy forbids every request and every script but its own.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from importlib.resources import files
from typing import Any

SCRIPTS = ("timeline.js", "numbers.js", "picture.js", "panel.js", "page.js")
POLICY = (
    "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def page_of(graph: dict[str, Any], views: list[dict[str, Any]]) -> str:
    """The text of the page, from a graph as `as_dict` gives it and its drawn views.

    A view has ``title``, ``parent`` (the view around it; None for the first), ``calls`` (the operations that
    it stands for), ``ops`` (the operations drawn in it) and ``svg``.
    """
    script = "\n" + "\n".join(_file(name) for name in SCRIPTS) + "\n"
    filled = {
        "TITLE": html.escape(graph["name"]),
        "POLICY": POLICY.format(
            base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        ),
        "CSS": _file("page.css"),
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
