"""The check of a built site's links finds what leads nowhere, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_ext"))

from links import faults


def test_links_and_anchors_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "guides").mkdir()
    (tmp_path / "index.html").write_text(
        '<h1 id="top"></h1><a href="guides/loops.html#why"></a><a href="#top"></a>'
        '<a href="guides/loops.html#how"></a><a href="gone.html"></a><a href="https://jax.dev"></a>'
    )
    (tmp_path / "guides" / "loops.html").write_text(
        '<h2 id="why"></h2><a href="../index.html#bottom"></a><img src="../loop.png">'
    )
    assert list(faults(tmp_path)) == [
        "guides/loops.html links to ../index.html#bottom, and there is no such anchor",
        "guides/loops.html links to ../loop.png, and there is no such file",
        "index.html links to gone.html, and there is no such file",
        "index.html links to guides/loops.html#how, and there is no such anchor",
    ]


def test_what_is_loaded_from_another_server_is_found(tmp_path):
    (tmp_path / "index.html").write_text(
        '<script src="https://cdn.example.org/a.js"></script><img src="data:image/png;base64,AA">'
        '<a href="https://example.org"></a>'
    )
    assert list(faults(tmp_path)) == [
        "index.html loads https://cdn.example.org/a.js from another server"
    ]
