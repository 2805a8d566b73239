"""Where the notebooks teach each section of the lecture: made of the cells' tags, ``section:12``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

SECTIONS = (
    "Nobody differentiates a large network by hand",
    "Symbolic differentiation: expressions that swell",
    "Numeric differentiation: two evaluations and a step",
    "Between the two: formulas locally, numbers globally",
    "The chain rule on a graph of operations",
    "Why slopes multiply: linear pieces",
    "A value that reaches the result by several paths",
    "An example with three operations at x = -4.499",
    "Local and global derivatives",
    "What the way forward keeps, and the way back fills in",
    "The network as a graph: k, h, output, target, loss",
    "Output 10.1, target 12.1, loss 4: the derivative of v2 and its update",
    "The way back reuses y, h and k: modules",
    "What the derivatives of y, v, h, k and w do to them",
    "Forward and backward as loops",
    "Linear algebra, and why it is fast",
    "The way forward with matrices",
    "Jacobians, and why they are not built",
    "One assumption: the loss is a scalar",
    "A gradient has the shape of its tensor; the notation",
    "From scalar derivatives to vectors: y, V, h, k, W",
    "The biases, as an exercise",
    "The way back with matrices",
    "By hand and automatically",
    "An operation needs only the gradient above it",
    "Reverse mode and forward mode",
    "Data as tensors: tables, images, batches, layouts",
    "Values and operations as a graph of two kinds, fine or coarse",
    "TensorNode, OpNode and Op",
    "An op: forward, backward, context",
    "The order of the walk, and where gradients add up",
    "Operators that record",
    "Lazy execution: build first, feed later",
    "Eager execution: record while computing",
    "Op: the sum of two matrices",
    "Op: the sigmoid, and its context",
    "Op: the sum of rows, whose context is a size",
    "Op: expand, with a constant argument",
    "Ops: softmax and cross-entropy",
    "A linear module",
    "The complete picture: training",
    "Memory, row by row",
    "Reshape",
    "A reshape of images that is valid and wrong",
    "Transpose as a view",
    "Slices as views",
    "Contiguous memory",
)
"""The sections of the lecture, in its order."""


def headings_of_sections(notebook: dict[str, Any]) -> dict[int, list[str]]:
    """By section the headings under which a notebook's cells teach it."""
    found: dict[int, list[str]] = {}
    heading = ""
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = [heading, *re.findall(r"^#+ (.*)$", text, re.M)][-1]
        for tag in cell["metadata"].get("tags", []):
            if tag.startswith("section:"):
                known = found.setdefault(int(tag.removeprefix("section:")), [])
                known += [heading] if heading not in known else []
    return found


def taught(folder: Path = NOTEBOOKS) -> dict[int, list[tuple[str, str]]]:
    """By section the notebooks' file names and the headings under which they teach it."""
    found: dict[int, list[tuple[str, str]]] = {}
    for file in sorted(folder.glob("0*.ipynb")):
        for section, headings in headings_of_sections(json.loads(file.read_text())).items():
            found.setdefault(section, []).extend((file.name, heading) for heading in headings)
    return found


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def page() -> str:
    """The table: each section with the places that teach it."""
    rows = ["| | section | where it is taught |", "|---|---|---|"]
    places = taught()
    for number, title in enumerate(SECTIONS, 1):
        links = [
            f"[{file.removesuffix('.ipynb')}: {heading}](../../notebooks/{file}#{anchor(heading)})"
            for file, heading in places.get(number, [])
        ]
        rows.append(f"| {number} | {title} | {', '.join(links)} |")
    return "\n".join(rows)
