"""Where the elements of a tensor lie in memory: as numbers, as pictures, and as XLA decides."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lecture import pictures

OPERATION = re.compile(r"%\S+ = (\S+) ([\w-]+)\(")
"""A line of XLA's text: the type of the result with its layout, and the operation."""


def steps(array: np.ndarray) -> tuple[int, ...]:
    """How many elements of memory lie between two neighbours along each axis: the strides, not in bytes.

    >>> steps(np.zeros((3, 4))), steps(np.zeros((3, 4)).T)
    ((4, 1), (1, 4))
    """
    return tuple(stride // array.itemsize for stride in array.strides)


def positions(view: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Where in the memory of `base` each element of a view of it lies, counted in elements.

    Returns an array of int, of the shape of `view`. Raises ValueError where `view` has its own memory.

    >>> base = np.zeros((3, 4))
    >>> positions(base[1:, ::2], base)
    array([[ 4,  6],
           [ 8, 10]])
    """
    if not np.shares_memory(view, base):
        raise ValueError("the array has memory of its own: it is a copy, and no view")
    addresses = [array.__array_interface__["data"][0] for array in (view, base)]
    first = (addresses[0] - addresses[1]) // base.itemsize
    index = np.indices(view.shape)
    return first + sum(step * along for step, along in zip(steps(view), index, strict=True))


def draw_views(base: np.ndarray, **views: np.ndarray) -> None:
    """Draw the memory of an array as one line, and below it views of it, in the colours of the line.

    Args:
        base: an array, contiguous, of at most some 24 elements.
        views: views of `base` of one or two axes, by their titles; an underscore is drawn as a space.
    """
    figure = plt.figure(figsize=(8, 3.6))
    grid = figure.add_gridspec(2, len(views), height_ratios=(1, 3))
    line = figure.add_subplot(grid[0, :])
    where = np.arange(base.size)[None, :]
    _draw_cells(line, where, base.ravel(order="K")[None, :], base.size)
    bare(line, where.shape)
    line.set_title("memory")
    for position in where[0]:
        line.text(position + 0.5, 1.4, str(position), ha="center", color=pictures.FAINT, fontsize=8)
    grids = [np.atleast_2d(positions(view, base)) for view in views.values()]
    largest = tuple(max(where.shape[axis] for where in grids) for axis in (0, 1))
    for column, (name, view) in enumerate(views.items()):
        ax = figure.add_subplot(grid[1, column])
        _draw_cells(ax, grids[column], np.atleast_2d(view), base.size)
        bare(ax, largest)  # cells of the same size everywhere
        title = f"{name.replace('_', ' ')}\nshape {view.shape}, steps {steps(view)}"
        ax.set_title(title, fontsize=9)


def _draw_cells(ax: Axes, where: np.ndarray, numbers: np.ndarray, size: int) -> None:
    """Numbers in a grid, each in the colour of its position in a memory of `size` elements."""
    colours = plt.get_cmap("GnBu")
    for (row, column), position in np.ndenumerate(where):
        colour = colours(0.1 + 0.6 * position / max(size - 1, 1))
        ax.add_patch(Rectangle((column, row), 0.94, 0.94, color=colour))
        text = f"{numbers[row, column]:g}"
        ax.text(column + 0.47, row + 0.5, text, ha="center", va="center")


def bare(ax: Axes, shape: tuple[int, ...]) -> None:
    """Make axes show a grid of cells of `shape`, rows downwards, and nothing else."""
    rows, columns = shape
    ax.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal", xticks=[], yticks=[], anchor="NW")
    ax.grid(False)
    ax.spines[:].set_visible(False)


def draw_arrays(*, columns: int = 4, size: float = 1.8, **arrays: Any) -> None:
    """Draw matrices in grey, images of shape (height, width, 3) in colour, under their titles.

    An underscore in a title is drawn as a space.
    """
    rows = -(-len(arrays) // columns)
    panels = np.atleast_1d(pictures.axes(columns, rows=rows, width=size, height=size)).ravel()
    for ax in panels:
        ax.set_axis_off()
    for ax, (name, array) in zip(panels, arrays.items(), strict=False):
        ax.imshow(np.asarray(array), cmap="gray", interpolation="nearest")
        ax.set_title(name.replace("_", " "), fontsize=9)


def compiled_operations(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """The operations of the program that XLA makes of a function, each with the type of its result.

    A type ends in its layout, the axes from the one that changes fastest in memory to the slowest:
    ``f64[3,4]{1,0}`` is row-major, ``f64[3,4]{0,1}`` column-major.

    >>> compiled_operations(lambda a, b: a.T @ b, np.ones((3, 4)), np.ones((3, 4)))[-1].split()[-1]
    'dot'
    """
    text = jax.jit(function).lower(*arguments).compile().as_text()
    found = OPERATION.findall(text)
    return [f"{kind:20} {operation}" for kind, operation in found if operation != "parameter"]
