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

SCALAR, TENSOR = "01_scalar.ipynb", "02_tensor.ipynb"
AUTOMATIC, DETAILS = "03_automatic.ipynb", "04_tensor_details.ipynb"

NUMBERS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("the example with three operations, at x = -4.499",
     SCALAR, "8. A worked example: a chain of operations",
     ("-4.499", "89.9272",)),
    ("its derivative there: 0",
     SCALAR, "9. Global and local derivatives",
     ("0.00399072",)),
    ("two inputs, three hidden units; output 10.1, target 12.1, loss 4",
     SCALAR, "12. Output 10.1, target 12.1, loss 4",
     ("y 10.1", "loss 4",)),
    ("the derivatives of v2 and w12",
     SCALAR, "12. Output 10.1, target 12.1, loss 4",
     ("v2 2 -2", "w12 1 -2",)),
    ("the update of v2",
     SCALAR, "12. Output 10.1, target 12.1, loss 4",
     ("v2 = 2.2",)),
    ("output 10 with target 0, and 0 with target 10: the same loss, opposite signs",
     SCALAR, "The output y",
     ("100 20", "100 -20",)),
    ("hidden units of 0.1 and more; v1 of 1, 10 or 100 gives the same update",
     SCALAR, "The weights v",
     ("1 -0.2020", "10 -0.2020", "100 -0.2020",)),
    ("the slope of the sigmoid: its output times 1 minus its output, small near 0 and near 1",
     SCALAR, "The sums k, and saturation",
     ("0.500000 0.250000", "0.999955 0.000045",)),
    ("a layer's cost: quadratic for the product, linear for the rest",
     TENSOR, "1. Linear algebra, and why it is fast",
     ("16384 128 128",)),
    ("w12 is the element (2, 1) of W",
     TENSOR, "8. The backward pass, vectorised",
     ("w_12 -2",)),
    ("n³ derivatives in a Jacobian, of which n² are wanted",
     TENSOR, "3. Jacobians, and why not",
     ("64 4,096 262,144",)),
    ("the gradient for a 3-tensor is a 3-tensor",
     TENSOR, "5. The gradient has the shape of its tensor",
     ("(2, 3, 4) and of its gradient (2, 3, 4)",)),
    ("2 (y - t)",
     TENSOR, "The gradient for y",
     ("[0] 10.1 -4",)),
    ("two outputs: a pass back for each",
     AUTOMATIC, "2. Reverse mode and forward mode",
     ("12 2 2",)),
    ("a pixel: three numbers from 0 to 1",
     AUTOMATIC, "3. Tensors as data",
     ("one pixel:", "0.0 to 1.0",)),
    ("a batch of images: a 4-tensor, in two layouts",
     AUTOMATIC, "3. Tensors as data",
     ("(4, 48, 64, 3)", "(4, 3, 48, 64)",)),
    ("the cotangent of a row's sum goes to the whole row: (n) becomes (n, 1)",
     AUTOMATIC, "The row sum: a size in the context",
     ("X[0, 2]", "0.345584",)),
    ("four nested loops over (a, b, c, d): d is the innermost",
     DETAILS, "1. Row-major memory",
     ("d innermost: 0 1 2 3",)),
    ("three maxima, one for a colour; 1 after the scaling",
     DETAILS, "3. A reshape of images that is valid and wrong",
     ("0.9 0.7 0.5", "scaled 1 1 1",)),
    ("element (i, j) of a transpose is element (j, i), in constant time",
     DETAILS, "4. Transpose: a view",
     ("(32, 8) and transposed: (8, 32)",)),
    ("a contiguous copy: time and memory in proportion to the size",
     DETAILS, "6. Contiguous",
     ("steps of ascontiguousarray",)),
)  # fmt: skip
"""The lecture's numbers that can be computed: what, the notebook, the heading, what is printed there."""


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


def shown(notebook: dict[str, Any], heading: str) -> str:
    """What the cells under a heading print, with one space between words."""
    texts, here = [], ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            here = [here, *re.findall(r"^#+ (.*)$", "".join(cell["source"]), re.M)][-1]
        elif here == heading:
            texts += ["".join(out["text"]) for out in cell["outputs"] if "text" in out]
    return " ".join(" ".join(texts).split())


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def link(file: str, heading: str) -> str:
    """A link to a heading of a notebook."""
    return f"[{file.removesuffix('.ipynb')}: {heading}](../../notebooks/{file}#{anchor(heading)})"


def page() -> str:
    """The table: each section with the places that teach it."""
    rows = ["| | section | where it is taught |", "|---|---|---|"]
    places = taught()
    for number, title in enumerate(SECTIONS, 1):
        links = ", ".join(link(*place) for place in places.get(number, []))
        rows.append(f"| {number} | {title} | {links} |")
    return "\n".join(rows)


def numbers() -> str:
    """The table of numbers: each with the place that computes it."""
    rows = ["| in the lecture | computed in |", "|---|---|"]
    return "\n".join([*rows, *(f"| {what} | {link(*place)} |" for what, *place, _ in NUMBERS)])
