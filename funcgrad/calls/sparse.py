"""Sparse ops that are differentiated as programs of other sparse ops, and of dense ones."""

from __future__ import annotations

from funcgrad._jax import sparse
from funcgrad.calls.expanded import defprogram

spdot_general = defprogram(sparse.bcoo_spdot_general_p)(sparse.spdot_general)
todense = defprogram(sparse.todense_p)(sparse.todense)
