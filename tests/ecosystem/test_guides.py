"""What the pages about other libraries show runs as a script, and prints what they say."""

from __future__ import annotations

import pytest

from tests.docs import pages
from tests.ecosystem.compare import load

GUIDES = {
    "guides/flax_linen": "flax.linen",
    "guides/flax_nnx": "flax.nnx",
    "guides/equinox": "equinox",
    "guides/haiku": "haiku",
    "recipes/sparse_jacobian": "asdex",
}


@pytest.mark.slow(landing=True)
@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_prints_what_it_shows(page, tmp_path):
    load(GUIDES[page])
    pages.check(pages.DOCS / f"{page}.md", tmp_path)
