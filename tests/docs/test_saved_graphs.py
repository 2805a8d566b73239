"""A graph that a notebook saved as an image is drawn in the page of the site."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the site needs pip install 'funcgrad[docs]'")
sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_ext"))

import saved_graphs


def test_an_image_of_an_svg_becomes_the_svg_and_another_stays():
    svg = "<svg><title>ȳ</title></svg>"
    image = f'<img src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'
    other = '<img src="a.png">'
    assert saved_graphs.as_svg(f"<div>{image}{other}</div>") == f"<div>{svg}{other}</div>"
    under_a_page = f"<div>{image}<iframe></iframe></div>"
    assert saved_graphs.as_svg(under_a_page) == under_a_page
