"""Backward rules, one module a family; in here are formulas only."""
