"""Optimal transport by ott: unrolled, and by the implicit function theorem."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ecosystem.compare import check, draw, load

# ott imports jaxopt, which warns that it is not maintained.
load("ott", "JAXopt is no longer maintained")
pointcloud = load("ott.geometry.pointcloud")
linear_problem = load("ott.problems.linear.linear_problem")
sinkhorn = load("ott.solvers.linear.sinkhorn")
implicit = load("ott.solvers.linear.implicit_differentiation")

WAYS = {
    "implicit": {"implicit_diff": implicit.ImplicitDiff(), "max_iterations": 200},
    "unrolled": {"implicit_diff": None, "max_iterations": 10, "min_iterations": 10},
}


@pytest.mark.parametrize("name", WAYS)
def test_sinkhorn(name: str) -> None:
    solver = sinkhorn.Sinkhorn(threshold=1e-9, **WAYS[name])

    def loss(x: Any, y: Any) -> Any:
        geometry = pointcloud.PointCloud(x, y, epsilon=0.5)
        return solver(linear_problem.LinearProblem(geometry)).reg_ot_cost

    check(loss, draw(0, 5, 2), draw(1, 4, 2), argnums=(0, 1))
