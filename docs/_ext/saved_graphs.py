"""Graphs that notebooks save as images are SVG in the page, so that a reader can point at a value."""

from __future__ import annotations

import base64
import re

from docutils import nodes
from sphinx.application import Sphinx

IMAGE = re.compile(r'<img src="data:image/svg\+xml;base64,([^"]*)">(?!<iframe)')
"""What `notebooks/run.py` saves for an SVG; what a page in a frame lies over stays an image."""


def as_svg(page: str) -> str:
    """HTML in which each image of an SVG has become the SVG."""
    return IMAGE.sub(lambda image: base64.b64decode(image[1]).decode(), page)


def draw_in_page(app: Sphinx, doctree: nodes.document) -> None:
    """Put the SVGs of a notebook's outputs into the page itself."""
    for node in list(doctree.findall(nodes.raw)):
        if node.get("format") == "html" and IMAGE.search(node.astext()):
            node.replace_self(nodes.raw("", as_svg(node.astext()), format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", draw_in_page)
    return {"parallel_read_safe": True}
