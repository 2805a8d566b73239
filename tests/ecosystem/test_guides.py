"""What the guides of other libraries show runs as a script, and prints what they say."""

from __future__ import annotations

import pytest

from tests.docs import pages
from tests.ecosystem.compare import load

GUIDES = {
    "flax_linen": "flax.linen",
    "flax_nnx": "flax.nnx",
    "equinox": "equinox",
    "haiku": "haiku",
}


@pytest.mark.slow(landing=True)
@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_prints_what_it_shows(page, tmp_path):
    load(GUIDES[page])
    pages.check(pages.DOCS / "guides" / f"{page}.md", tmp_path)
