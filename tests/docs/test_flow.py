"""What docs/flow.md shows runs as shown."""

import re
from pathlib import Path


def test_what_the_page_shows_runs():
    page = (Path(__file__).parents[2] / "docs" / "flow.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 2
    names = {"__name__": "flow_page"}
    exec(compile("\n".join(blocks), "flow.md", "exec", dont_inherit=True), names)
    assert names["found"]["layer_7"]["update_ratio"] > 0
    assert names["found"].flags()[0].layer == "layer_0"
