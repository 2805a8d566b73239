"""Benchmarks of funcgrad against jax.grad; run them with ``python benchmarks/run.py``."""
