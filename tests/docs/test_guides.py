"""What the guides and the recipes show runs as a script, and prints what they say."""

from __future__ import annotations

import pytest

from tests.docs import pages

QUICK = ("start.md", "why.md", "guides/speed.md", "guides/pytorch.md")
"""The pages whose code runs in about a second; the others are slow, and ``.ci/run`` runs them too."""

LIBRARIES = ("flax_linen", "flax_nnx", "equinox", "haiku", "sparse_jacobian")
"""The pages that ``tests/ecosystem/test_guides.py`` runs, where these libraries are installed."""

PAGES = {
    path.relative_to(pages.DOCS).as_posix(): path
    for folder in (".", "guides", "recipes")
    for path in sorted((pages.DOCS / folder).glob("*.md"))
    if path.stem not in LIBRARIES
    if folder != "." or path.stem in ("start", "why", "limits")
}


@pytest.mark.parametrize(
    "page",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow(landing=True))
        for name in PAGES
    ],
)
def test_a_page_prints_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    pages.check(PAGES[page], tmp_path)


def test_the_pytorch_side_prints_what_it_shows(tmp_path):
    pytest.importorskip("torch")
    page = PAGES["guides/pytorch.md"]
    assert len(pages.blocks_of(page, "py")) == 2
    pages.check(page, tmp_path, "py")
