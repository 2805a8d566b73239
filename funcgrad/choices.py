"""Choices that depend on the device: the one table by platform.

A choice changes how fast a gradient is and what it keeps; its value it changes by rounding alone. The
numbers of the CPU were measured, each where its attribute says. Nobody has measured those of GPUs and
TPUs: they are the CPU's, but that nothing is asked of XLA's fusion there, and that grouped convolutions
keep their usual form. The platform is that of JAX's default backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import jax
from jax import lax

from funcgrad._jax import Primitive


@dataclass(frozen=True)
class Choices:
    """What to compute again, when to put sums off, which form a rule takes, on one platform.

    Attributes:
      measured: whether the numbers were measured on this platform.
      swift: functions that are computed again rather than kept where memory matters less than time.
        On the CPU exp, log and tanh took 0.9 to 1.1 ns an element: less than to write a result to a
        stack and to read it there.
      short_axis: the last axis of an array is short if it has at most so many elements. Where memory
        matters less than time, what arithmetic broadcasts into such an array is kept: computed again,
        it is computed in each of several loops that XLA does not vectorise. Of 34 to 97 bodies in 2 to
        16 dimensions, 20 steps, the gradient took 0.98 to 1.22 of `jax.grad`'s time where their
        differences were computed again and 0.78 to 0.90 where they were kept, at 0.55 to 0.61 of its
        memory. A forward algorithm of 32 states, kept so, took 0.91 of the time in the place of 0.63.
      slow: elementary functions that take longer than ten additions, in additions. On the CPU on which
        exp, log, tanh and erf took 0.9 to 1.1 ns an element, ten additions, these took 1.9 to 2.2,
        3.8, 6 and 17 ns.
      bytes_per_operation: what one operation more is worth where memory matters, in bytes. An exp, ten
        operations, costs 2.5 bytes an element: one exp may be repeated to save a float32 of each step,
        two in a row may not.
      room: the bytes of all runs of a body for which time goes first. Bodies in a simulation took 0.73
        to 0.87 of the time where a scan kept 1 to 8 MB (0.2 MB where memory went first), and as long
        or 1.1 times as long where it kept 22 to 30 MB, which no cache holds (0.4 to 0.8 MB).
      late_steps: how many elementwise rules a broadcast cotangent may pass before it is summed, none
        of which reads an array. Three are enough for softmax and layer norm; after eight, the XLA of
        JAX 0.12 made arrays of the broadcasts for its larger fusions. Arithmetic along other axes than
        the last comes after the sum, unless two cotangents meet: before it, three layers with batch
        norm took 1.1 of `jax.grad`'s time. Along the last axis it comes before: a mixer took 0.57 of
        the time so, and 0.70 with all sums first.
      late_worth: how many times the size of its stacks a sum in a loop must have to be put off until
        after the loop. Products of many rows are quick in the loop too: with a batch of 128, putting
        them off gained nothing for an LSTM.
      computed_again: a cotangent is written (``fusion.py``) where kernels would compute so many
        operations of it again: its operations times the kernels but the first, of which seven are
        counted. 0 for never. With 24, an LSTM unrolled over 20 steps took 0.54 of `jax.grad`'s time and
        of its compile time, 20 Euler steps of Lotka-Volterra 0.39 and 0.27. With 12, three coupled
        polynomials took 1.1 times the time.
      written_terms: a sum of so many arrays is added up before more of them are made. The gradient of a
        layer applied 20 times took 0.42 of the memory, and 0.91 of the time.
      kernel_work: a kernel of its own takes about as long as so many operations on an element: a
        cotangent of fewer elements passes more operations.
      most_fused_steps: how many any cotangent passes at most, since XLA takes long to compile them: 50
        steps of Lotka-Volterra on two numbers took `jax.grad` 33 s, and 0.7 s so.
      unrolled: windows of at most this many elements are pulled back element by element, not by XLA's
        select-and-scatter. A 2x2 max-pool took 0.12 of the time so, and 0.04 of the memory.
      weights_by_features: the cotangent of a grouped convolution's weights is a convolution of groups
        of features. As one of groups of batches, the usual form, that of 32 groups of 4 channels took
        1.2 s, where the convolution itself takes 5 ms; so it takes 2.4 ms.
    """

    measured: bool
    swift: frozenset[Primitive]
    short_axis: int
    slow: Mapping[Primitive, int]
    bytes_per_operation: float
    room: int
    late_steps: int
    late_worth: int
    computed_again: int
    written_terms: int
    kernel_work: int
    most_fused_steps: int
    unrolled: int
    weights_by_features: bool


CPU = Choices(
    measured=True,
    swift=frozenset({lax.exp_p, lax.exp2_p, lax.log_p, lax.tanh_p}),
    short_axis=16,
    slow=MappingProxyType(
        {
            **dict.fromkeys((lax.log1p_p, lax.expm1_p, lax.logistic_p), 20),
            **dict.fromkeys((lax.sin_p, lax.cos_p), 40),
            lax.pow_p: 60,
            lax.tan_p: 170,
        }
    ),
    bytes_per_operation=0.25,
    room=16 * 2**20,
    late_steps=3,
    late_worth=4,
    computed_again=24,
    written_terms=4,
    kernel_work=512,
    most_fused_steps=64,
    unrolled=64,
    weights_by_features=True,
)

NOT_MEASURED = replace(CPU, measured=False, computed_again=0, weights_by_features=False)

BY_PLATFORM: Mapping[str, Choices] = MappingProxyType(
    {"cpu": CPU, "gpu": NOT_MEASURED, "tpu": NOT_MEASURED}
)
"""The table, by the names of ``jax.default_backend()``."""


def choices() -> Choices:
    """The choices for the platform of JAX's default backend, wherever a value lies.

    Example:
      >>> from funcgrad.choices import choices
      >>> choices().late_steps
      3
    """
    return BY_PLATFORM.get(jax.default_backend(), NOT_MEASURED)
