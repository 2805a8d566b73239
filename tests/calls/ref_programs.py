"""Programs with mutable references, and the same programs without."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import funcgrad
from tests.programs import normal

X = 0.3 * normal(4) + 0.7
M = 0.5 * normal(3, 4, seed=1)


class Value:
    """What a reference is to a program without loops: a variable that is assigned to."""

    def __init__(self, value: Any):
        self.value = jnp.asarray(value)

    def __getitem__(self, index: Any) -> Any:
        return self.value[index]

    def __setitem__(self, index: Any, new: Any) -> None:
        self.value = self.value.at[index].set(new)

    def addupdate(self, new: Any, index: Any = ...) -> None:
        self.value = self.value.at[index].add(new)

    def swap(self, new: Any, index: Any = ...) -> Any:
        old, self[index] = self[index], new
        return old


def freeze(ref: Any) -> Any:
    return ref.value if isinstance(ref, Value) else jax.ref.freeze(ref)


def swap(ref: Any, new: Any, index: Any = ...) -> Any:
    return ref.swap(new, index) if isinstance(ref, Value) else jax.ref.swap(ref, index, new)


# --- straight programs: (new, *args) -> scalar; `new` makes a reference, or a Value


def accumulated(new, x):
    total = new(jnp.zeros_like(x))
    for i in range(3):
        total[...] += jnp.sin(x * i)
    return jnp.sum(total[...] ** 2)


def added(new, x):
    total = new(x)
    for i in range(4):
        total.addupdate(x[i] * jnp.cos(x[3 - i]), i)
        total.addupdate(jnp.tanh(x))
    return jnp.sum(total[...] ** 2)


def stored_by_index(new, x):
    ref = new(jnp.ones((4, 3), x.dtype))
    ref[1] = x[:3] ** 2
    ref[2, 1] = x[3] * x[0]
    ref[0:2, 2] = x[:2]
    ref[:, 0] = ref[:, 1] * jnp.sin(x)
    ref[::2] = ref[2, 0] * ref[::2] * x[2]
    return jnp.sum(ref[...] ** 3) + ref[3, 0]


def by_arrays(new, m):
    ref = new(m**2)
    rows, columns = jnp.array([2, 0, 1]), jnp.array([3, 1, 1])
    loaded = ref[rows, columns] * jnp.sin(m[:, 0])
    ref[rows, columns] = loaded
    ref.addupdate(m[0] * m[1], (jnp.array([1]).squeeze(),))
    ref[jnp.array([0, 2])] = ref[jnp.array([2, 0])] * 2
    return jnp.sum(ref[...] ** 2) + jnp.sum(ref[1:, rows])


def by_dynamic_index(new, x):
    ref = new(jnp.sin(x))
    i = jnp.argmax(x)
    ref[i] = ref[(i + 1) % 4] * x[0]
    ref.addupdate(x[1], (i + 2) % 4)
    return jnp.sum(ref[...] ** 2) * ref[i]


def swapped(new, x):
    ref = new(x)
    first = swap(ref, jnp.sin(x))
    second = swap(ref, first[0] * x[1], 2)
    third = swap(ref, jnp.ones(2), slice(0, 2))
    return jnp.sum(first * ref[...]) + second * jnp.sum(third)


def read_before_and_after(new, x):
    ref = new(x)
    before = ref[...]
    part = ref[1:3]
    ref[1:3] = part * before[0]
    after = ref[...]
    same = ref[...]
    return jnp.sum(before * after * same) + jnp.sum(part)


def scalar(new, x):
    ref = new(x[0])
    ref[...] = ref[...] * x[1]
    ref.addupdate(jnp.sin(x[2]))
    return freeze(ref) ** 2


def frozen(new, x):
    ref = new(jnp.cos(x))
    ref[0] = x[1]
    return jnp.sum(freeze(ref) ** 2)


def overwritten_by_constant(new, x):
    ref = new(x)
    ref[...] = jnp.full_like(x, 2.0)
    once = jnp.sum(ref[...] * x)
    ref[1] = x[0]
    ref[1] = 5.0
    return once + jnp.sum(ref[...])


def partly_overwritten(new, x):
    ref = new(jnp.sin(x))
    ref[1:3] = jnp.ones(2)
    ref.addupdate(2.0, 0)
    return jnp.sum(ref[...] ** 2)


def never_read(new, x):
    ref = new(x)
    ref[0] = jnp.sin(x[1])
    return jnp.sum(x**2)


def of_integers(new, x):
    count, order = new(jnp.zeros((), int)), new(jnp.arange(4))
    for i in range(3):
        count[...] += 1
        order[i] = order[i] + i * (x[i] > 0.7)
    return jnp.sum(x ** count[...]) * jnp.sum(x[order[...] % 4])


def undifferentiated_beside(new, x):
    table = new(jnp.arange(4.0))
    table[1] = 7.0
    table.addupdate(1.0, 2)
    log = new(jnp.zeros(4))
    log[...] = lax.stop_gradient(x)
    return jnp.sum(jnp.sin(x) * table[...] + log[...] * x) + x[0] * table[1]


def many_references(new, x):
    first, second = new(x), new(jnp.zeros_like(x))
    for i in range(4):
        second[i] = first[3 - i] * x[i]
        first[i] = jnp.sin(second[i])
    return jnp.sum(first[...] * second[...])


def of_complex(new, x):
    ref = new(lax.complex(x, x**2))
    ref[1:3] = ref[0:2] * lax.complex(x[0], x[1])
    ref.addupdate(1j * x[0], 3)
    return jnp.sum(jnp.abs(ref[...]) ** 2)


STRAIGHT = {
    "accumulated": (accumulated, X),
    "added": (added, X),
    "stored by index": (stored_by_index, X),
    "by arrays": (by_arrays, M),
    "by dynamic index": (by_dynamic_index, X),
    "swapped": (swapped, X),
    "read before and after": (read_before_and_after, X),
    "scalar": (scalar, X),
    "frozen": (frozen, X),
    "overwritten by a constant": (overwritten_by_constant, X),
    "partly overwritten": (partly_overwritten, X),
    "never read": (never_read, X),
    "of integers": (of_integers, X),
    "undifferentiated beside": (undifferentiated_beside, X),
    "many references": (many_references, X),
    "of complex": (of_complex, X),
}


def scanned(x):
    """A reference from outside the scan, closed over by its body."""
    ref = jax.new_ref(jnp.zeros_like(x))

    def body(carry, i):
        ref[i] = jnp.sin(x[i]) * carry
        ref.addupdate(x * carry)
        return carry * x[0] + ref[0], ref[i]

    carry, ys = lax.scan(body, x[1], jnp.arange(4))
    return carry * jnp.sum(ref[...] ** 2) + jnp.sum(ys**2)


def scanned_purely(x):
    def body(state, i):
        carry, value = state
        value = value.at[i].set(jnp.sin(x[i]) * carry) + x * carry
        return (carry * x[0] + value[0], value), value[i]

    (carry, value), ys = lax.scan(body, (x[1], jnp.zeros_like(x)), jnp.arange(4))
    return carry * jnp.sum(value**2) + jnp.sum(ys**2)


def own_in_scan(x):
    """A reference that lives for one step."""

    def body(carry, y):
        ref = jax.new_ref(jnp.zeros(2))
        ref[0] = carry * y
        ref[1] = jnp.sin(ref[0]) * x[2]
        ref[...] = ref[...] ** 2 * jnp.arange(1.0, 3.0)
        return jnp.sum(ref[...]), jax.ref.freeze(ref)

    carry, ys = lax.scan(body, x[0], x)
    return carry + jnp.sum(jnp.cos(ys))


def own_in_scan_purely(x):
    def body(carry, y):
        first = carry * y
        out = jnp.stack([first, jnp.sin(first) * x[2]]) ** 2 * jnp.arange(1.0, 3.0)
        return jnp.sum(out), out

    carry, ys = lax.scan(body, x[0], x)
    return carry + jnp.sum(jnp.cos(ys))


def in_fori_loop(x):
    ref = jax.new_ref(x)

    def body(i, total):
        ref[(i + 1) % 4] = ref[i] * x[i] + total
        return total + ref[(i + 2) % 4]

    return lax.fori_loop(0, 5, body, 0.0) * jnp.sum(jax.ref.freeze(ref))


def in_fori_loop_purely(x):
    def body(i, state):
        total, value = state
        value = value.at[(i + 1) % 4].set(value[i] * x[i] + total)
        return total + value[(i + 2) % 4], value

    total, value = lax.fori_loop(0, 5, body, (0.0, x))
    return total * jnp.sum(value)


def read_in_scan(x):
    """A reference that the body only reads, and one of integers that it counts in."""
    ref, count = jax.new_ref(jnp.sin(x)), jax.new_ref(jnp.zeros((), int))

    def body(carry, y):
        count[...] += 1
        return carry * ref[1] + jnp.sum(ref[...]) * y * count[...], None

    carry, _ = lax.scan(body, 1.0, x)
    ref[0] = carry
    return jnp.sum(ref[...] ** 2)


def read_in_scan_purely(x):
    value = jnp.sin(x)
    ys = (x, jnp.arange(1, 5))
    carry, _ = lax.scan(lambda c, y: (c * value[1] + jnp.sum(value) * y[0] * y[1], None), 1.0, ys)
    return jnp.sum(value.at[0].set(carry) ** 2)


def in_nested_scans(x):
    ref = jax.new_ref(jnp.zeros(()))

    def inner(carry, y):
        ref[...] = ref[...] * 0.5 + y * carry
        return carry + ref[...], None

    def outer(carry, y):
        return jnp.sin(lax.scan(inner, carry, x * y)[0]), ref[...]

    carry, ys = lax.scan(outer, x[0], x[1:])
    return carry * ref[...] + jnp.sum(ys**2)


def in_nested_scans_purely(x):
    def inner(state, y):
        carry, value = state
        value = value * 0.5 + y * carry
        return (carry + value, value), None

    def outer(state, y):
        carry, value = lax.scan(inner, state, x * y)[0]
        return (jnp.sin(carry), value), value

    (carry, value), ys = lax.scan(outer, (x[0], jnp.zeros(())), x[1:])
    return carry * value + jnp.sum(ys**2)


def in_branches(x):
    ref = jax.new_ref(jnp.zeros_like(x))

    def store(y):
        ref[...] = jnp.sin(x) * y

    lax.cond(x[0] > 0, store, lambda y: ref.addupdate(y * x[0], 0), x[0])
    lax.cond(x[0] < 0, store, lambda y: ref.addupdate(y * x[1], 1), -x[0])
    lax.switch(jnp.argmin(x), [lambda: None, lambda: ref.addupdate(x[2], 3)] * 2)
    return jnp.sum(ref[...] ** 2)


def in_branches_purely(x):
    value = jnp.zeros_like(x)
    for i, y in enumerate((x[0], -x[0])):
        value = jnp.where(y > 0, jnp.sin(x) * y, value.at[i].add(y * x[i]))
    value = value.at[3].add(jnp.where(jnp.argmin(x) % 2 == 1, x[2], 0.0))
    return jnp.sum(value**2)


def given_to_jit(x):
    """Into jitted functions as an argument, closed over, and made in them."""
    ref, other = jax.new_ref(jnp.zeros_like(x)), jax.new_ref(x)

    @jax.jit
    def store(ref, y, i):
        ref[i] = jnp.sum(jnp.sin(y)) * other[i]
        own = jax.new_ref(y)
        own[...] += x * y
        return own[...] * 2

    first = store(ref, x, 1)
    second = store(ref, first, 2)
    jax.jit(lambda y: other.addupdate(y * ref[1]))(x)
    return jnp.sum(ref[...] * second) + jnp.sum(other[...] ** 2)


def given_to_jit_purely(x):
    value, other = jnp.zeros_like(x), x
    first = (x + x * x) * 2
    value = value.at[1].set(jnp.sum(jnp.sin(x)) * other[1])
    second = (first + x * first) * 2
    value = value.at[2].set(jnp.sum(jnp.sin(first)) * other[2])
    other = other + x * value[1]
    return jnp.sum(value * second) + jnp.sum(other**2)


def in_checkpoint(x):
    ref = jax.new_ref(jnp.ones_like(x))

    @jax.checkpoint
    def block(y):
        own = jax.new_ref(jnp.zeros_like(y))
        own[...] = jnp.sin(y) * ref[0]
        ref[1] = own[1] * y[2]
        return own[...] ** 2

    return jnp.sum(block(block(x)) * ref[...])


def in_checkpoint_purely(x):
    value = jnp.ones_like(x)
    for _ in range(2):
        y, x = x, jnp.sin(x) * value[0]
        value = value.at[1].set(x[1] * y[2])
        x = x**2
    return jnp.sum(x * value)


def under_vmap(x):
    def one(y):
        ref = jax.new_ref(jnp.zeros(3))
        ref[0] = y * x[0]
        ref[1:] = jnp.stack([jnp.sin(y), ref[0]])
        return jnp.sum(ref[...] ** 2)

    return jnp.sum(jax.vmap(one)(x) ** 2)


def under_vmap_purely(x):
    one = lambda y: 2 * (y * x[0]) ** 2 + jnp.sin(y) ** 2
    return jnp.sum(one(x) ** 2)


def with_gradient_inside(x):
    """The inner differentiation stores into a reference of the outer one, and has one of its own."""
    ref = jax.new_ref(jnp.zeros_like(x))

    def inner(y):
        ref[...] = y * x
        own = jax.new_ref(jnp.sin(y))
        own[0] = ref[1] * y[2]
        return jnp.sum(own[...] * ref[...])

    found = funcgrad.grad(inner)(x**2)
    return jnp.sum(found * x) + jnp.sum(ref[...] ** 2)


def with_gradient_inside_purely(x):
    def inner(y):
        value = y * x
        return jnp.sum(jnp.sin(y).at[0].set(value[1] * y[2]) * value)

    return jnp.sum(jax.grad(inner)(x**2) * x) + jnp.sum(x**6)


CALLS = {
    "scan": (scanned, scanned_purely),
    "own in scan": (own_in_scan, own_in_scan_purely),
    "fori_loop": (in_fori_loop, in_fori_loop_purely),
    "read in scan": (read_in_scan, read_in_scan_purely),
    "nested scans": (in_nested_scans, in_nested_scans_purely),
    "branches": (in_branches, in_branches_purely),
    "jit": (given_to_jit, given_to_jit_purely),
    "checkpoint": (in_checkpoint, in_checkpoint_purely),
    "vmap": (under_vmap, under_vmap_purely),
    "gradient inside": (with_gradient_inside, with_gradient_inside_purely),
}
