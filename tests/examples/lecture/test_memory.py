"""Where elements lie in memory, against NumPy's own bytes, and what is drawn of it."""

import doctest

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

pytest.importorskip("ipywidgets", reason="pictures need pip install 'funcgrad[notebooks]'")


@pytest.fixture
def memory(styled):
    from lecture import memory

    return memory


@pytest.fixture
def base():
    return np.arange(24.0).reshape(2, 3, 4)


VIEWS = {
    "the array": lambda base: base,
    "reshape": lambda base: base.reshape(4, 6),
    "transpose": lambda base: base.transpose(2, 0, 1),
    "slice": lambda base: base[1:, ::2, 1:3],
    "backwards": lambda base: base[:, :, ::-1],
    "broadcast": lambda base: np.broadcast_to(base[0, 0], (5, 4)),
    "one element": lambda base: base[1, 2, 3, None],
    "column-major": lambda base: base[1].T,
}


@pytest.mark.parametrize("name", VIEWS)
def test_the_bytes_at_a_position_are_the_element(memory, base, name):
    view = VIEWS[name](base)
    where = memory.positions(view, base)
    assert where.shape == view.shape
    line = np.frombuffer(base.tobytes())
    np.testing.assert_array_equal(line[where], view)


def test_a_copy_has_no_positions(memory, base):
    with pytest.raises(ValueError, match="memory of its own"):
        memory.positions(base.copy(), base)


def test_steps_lead_to_the_neighbours(memory, base):
    view = base.transpose(1, 2, 0)[::2]
    where = memory.positions(view, base)
    assert memory.steps(view) == (
        where[1, 0, 0] - where[0, 0, 0],
        where[0, 1, 0] - where[0, 0, 0],
        where[0, 0, 1] - where[0, 0, 0],
    )


def test_an_element_has_one_colour_in_the_line_and_in_every_view(memory):
    matrix = np.arange(12).reshape(3, 4)
    memory.draw_views(matrix, turned=matrix.T, second_columns=matrix[:, ::2])
    line, turned, columns = plt.gcf().axes
    for ax, view in [(turned, matrix.T), (columns, matrix[:, ::2])]:
        for number, cell in zip(view.ravel(), ax.patches, strict=True):
            assert cell.get_facecolor() == line.patches[number].get_facecolor()
    assert [text.get_text() for text in columns.texts] == ["0", "2", "4", "6", "8", "10"]
    assert columns.get_title(loc="left") == "second columns\nshape (3, 2), steps (4, 2)"


def test_a_column_major_array_is_drawn_in_the_order_of_its_memory(memory):
    array = np.asfortranarray([[0, 1], [2, 3]])
    memory.draw_views(array, array=array)
    line = plt.gcf().axes[0]
    assert [text.get_text() for text in line.texts[:4]] == ["0", "2", "1", "3"]


def test_arrays_stand_in_rows_of_columns(memory):
    pictures = {f"picture_{i}": np.full((2, 3), i) for i in range(3)}
    memory.draw_arrays(columns=2, **pictures)
    shown = [ax for ax in plt.gcf().axes if ax.images]
    assert len(plt.gcf().axes) == 4
    assert [ax.get_title(loc="left") for ax in shown] == ["picture 0", "picture 1", "picture 2"]
    np.testing.assert_array_equal(shown[2].images[0].get_array(), np.full((2, 3), 2))


def test_a_product_with_a_transposed_matrix_is_compiled_without_a_transpose(memory):
    a, b = jnp.zeros((3, 4), jnp.float32), jnp.zeros((3, 4), jnp.float32)
    operations = memory.compiled_operations(lambda a, b: a.T @ b, a, b)
    assert [line.split()[0] for line in operations if line.endswith("dot")] == ["f32[4,4]{1,0}"]
    assert not [line for line in operations if line.endswith("transpose")]


def test_the_examples_in_docstrings_run(memory):
    assert doctest.testmod(memory).failed == 0
