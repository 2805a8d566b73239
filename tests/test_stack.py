"""A differentiation has room on Python's stack, wherever it is called."""

import resource

import pytest

from funcgrad.stack import with_room


def at_depth(depth, fun):
    return fun() if depth == 0 else at_depth(depth - 1, fun)


def climb(times):
    """Call a function of some depth, again and again: the end of a chunk may lie in between."""
    for _ in range(times):
        at_depth(5, int)


def faults(depth, fun):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    at_depth(depth, lambda: fun(1000))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_calls_with_room_do_not_map_memory_again_and_again():
    depths = range(0, 150)
    assert max(faults(depth, climb) for depth in depths) >= 1000
    assert max(faults(depth, with_room(climb)) for depth in depths) < 100


def test_arguments_results_and_errors_pass():
    @with_room
    def divide(x, *, by):
        """Divide."""
        return x / by

    assert divide(3.0, by=2.0) == 1.5
    assert divide.__doc__ == "Divide."
    with pytest.raises(ZeroDivisionError):
        divide(1.0, by=0.0)
