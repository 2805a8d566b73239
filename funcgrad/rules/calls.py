"""Calls: primitives that carry a function, differentiated as a whole."""

from __future__ import annotations

from jax import lax

from funcgrad import _jax, branches, custom, loops, partition, remat, solves
from funcgrad.registry import defcall

jit_call = defcall(_jax.jit_p)(partition.jit_call)
scan_call = defcall(lax.scan_p)(loops.scan_call)
cond_call = defcall(lax.cond_p)(branches.cond_call)
remat_call = defcall(_jax.remat_p)(remat.remat_call)
linear_solve_call = defcall(lax.linear_solve_p)(solves.linear_solve_call)
custom_jvp_call = defcall(_jax.custom_jvp_call_p)(custom.custom_jvp_call)
custom_vjp_call = defcall(_jax.custom_vjp_call_p)(custom.custom_vjp_call)
