"""Changing a differentiation from outside, by place."""
