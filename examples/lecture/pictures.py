"""Plots, sliders and pages as all notebooks of the lecture show them.

Values are blue and derivatives are orange, as in the graphs that `funcgrad.inspect` draws.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import HTML, Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

import funcgrad

VALUE, DERIVATIVE = "#0b57b0", "#d4500c"
"""The colours of values and of derivatives, on paper."""

INK, FAINT, LINE = "#1f2328", "#6b7480", "#d5dae1"
"""The colours of text, of what is less important, and of lines behind it."""

STYLE = {
    "figure.facecolor": "white",
    "figure.dpi": 96,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.prop_cycle": plt.cycler(color=[VALUE, DERIVATIVE, FAINT, INK]),
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": INK,
    "font.size": 10,
    "lines.linewidth": 2,
    "legend.frameon": False,
}


def start() -> None:
    """Give the plots of this notebook the common style, and show them as PNG with two dots a pixel.

    JupyterLab shows an SVG only to somebody who has run its cell, or trusts the notebook.
    """
    plt.rcParams.update(STYLE)
    set_matplotlib_formats("retina", metadata={"Software": None})


def axes(columns: int = 1, *, width: float = 4.5, height: float = 3.0, rows: int = 1) -> Any:
    """New axes, of `width` by `height` inches each: one `Axes`, or an array of them.

    The notebook shows the plot at the end of the cell.
    """
    _, made = plt.subplots(rows, columns, figsize=(width * columns, height * rows))
    return made


def mark(
    ax: Axes, x: float, y: float, text: str, color: str = INK, *, dx: float = 8.0, dy: float = 6.0
) -> None:
    """Put a point at (x, y) with a text beside it, `dx` points to the right and `dy` above."""
    ax.plot([x], [y], "o", color=color, markersize=6, zorder=5)
    side = "left" if dx >= 0 else "right"
    ax.annotate(text, (x, y), (dx, dy), textcoords="offset points", color=color, ha=side)


def bars(ax: Axes, names: list[str], numbers: list[float], title: str, color: str = VALUE) -> None:
    """Draw a bar for each number, with the number beside its end."""
    drawn = ax.bar(names, numbers, color=color, width=0.55)
    ax.bar_label(drawn, [f"{number:.3g}" for number in numbers], padding=2, color=color)
    ax.axhline(0, color=FAINT, linewidth=0.8)
    ax.set_title(title)
    ax.margins(y=0.2)
    ax.grid(axis="x", visible=False)


def slider(draw: Callable[..., Any], **values: tuple[float, float, float]) -> None:
    """Show what `draw` plots, and under it a slider for each of its arguments, which redraws it.

    A slider is given as (from, to, start). The plot of the start values is also what a reader sees who
    has no kernel. `draw` is called long after the cell has run: what it reads must not be set anew by
    another cell.
    """
    _MADE.append((draw, values))
    sliders = {
        name: ipywidgets.FloatSlider(
            value=first, min=low, max=high, step=(high - low) / 100, description=name
        )
        for name, (low, high, first) in values.items()
    }
    shown = display(_drawn(draw, sliders), display_id=True)

    def redraw(_: Any) -> None:
        shown.update(_drawn(draw, sliders))

    for one in sliders.values():
        one.observe(redraw, "value")
        display(one)


_MADE: list[tuple[Callable[..., Any], dict[str, tuple[float, float, float]]]] = []
"""What the sliders of this notebook draw, and their (from, to, start)."""


def try_sliders() -> None:
    """Draw what is shown with all sliders at one end, and at the other.

    `notebooks/run.py` asks for this after the last cell, since Jupyter shows no error that a moved
    slider meets.
    """
    for draw, values in _MADE:
        for end in (0, 1):
            draw(**{name: value[end] for name, value in values.items()})
            plt.close()


def _drawn(draw: Callable[..., Any], sliders: dict[str, Any]) -> Image:
    draw(**{name: one.value for name, one in sliders.items()})
    return image(plt.gcf())


def image(figure: Figure) -> Image:
    """A plot as a picture of its own, with two dots a pixel; the plot is closed."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=2 * STYLE["figure.dpi"], metadata={"Software": None})
    plt.close(figure)
    return Image(data.getvalue(), retina=True)


def whole(graph: funcgrad.inspect.Graph, view: int | str = 0) -> HTML:
    """A drawn graph in its full height, however tall; `graph` by itself scrolls where it is tall."""
    return HTML(f'<div style="overflow-x: auto">{graph.to_svg(view=view)}</div>')


def page(graph: funcgrad.inspect.Graph, height: int = 720) -> HTML:
    """The page that steps through a graph, in the notebook, laid over the drawn graph.

    The drawn graph is what JupyterLab shows where nobody has run the cell: there it leaves frames out.
    """
    text = html.escape(graph.to_html())
    drawn = base64.b64encode(graph.to_svg().encode()).decode()
    over = f"position: absolute; inset: 0; width: 100%; height: 100%; border: 1px solid {LINE}"
    frame = f'<iframe sandbox="allow-scripts" style="{over}; background: white" srcdoc="{text}">'
    size = f"position: relative; height: {height}px; overflow: hidden"
    picture = f'<p>Run the cell to step.</p><img src="data:image/svg+xml;base64,{drawn}">'
    return HTML(f'<div style="{size}">{picture}{frame}</iframe></div>')


def table(rows: list[tuple[Any, ...]], *heads: str) -> None:
    """Print rows under their heads: text to the left, numbers of six digits to the right.

    >>> table([("y", 10.1, -4.0)], "node", "value", "derivative")
    node  value  derivative
    y      10.1          -4
    """
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
    numeric = [bool(rows) and not isinstance(cell, str) for cell in (rows[0] if rows else heads)]
    for line in [list(heads), *texts]:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numeric, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _text(cell: Any) -> str:
    return cell if isinstance(cell, str) else f"{round(float(cell), 12):.6g}"
