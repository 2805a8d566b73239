"""The package `lecture`, which lies among the examples."""

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "lecture"]:
        del sys.modules[name]


@pytest.fixture
def styled():
    """The notebooks' style of plots, all of which are closed afterwards."""
    import matplotlib
    import matplotlib.pyplot as plt
    from lecture import pictures

    with matplotlib.rc_context(pictures.STYLE):
        yield
    plt.close("all")
