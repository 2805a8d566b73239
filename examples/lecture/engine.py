"""Automatic differentiation in numpy: three classes of 80 lines, and seven operations.

Eagerly, each operation runs where it is written, and the graph grows beside the computation:

    a, b = TensorNode(2.0), TensorNode(3.0)
    c = a * b
    c.backward()
    print(c.value, a.ct, b.ct)  # 6.0 3.0 2.0

Lazily, the graph is built first and fed later:

    a, b = TensorNode(), TensorNode()
    c = a * b
    c.feed({a: 2.0, b: 3.0})
    c.backward()
"""

import itertools

import numpy as np


class Op:
    """A kind of operation: how it is computed, and how a cotangent goes back through it.

    Keyword arguments are constants. `forward` may leave in `context` what `backward` will need.
    """

    elementwise = False  # numpy broadcasts the inputs; the sums that undo this are made in OpNode

    def forward(self, context, *inputs, **constants):
        """Return the output, an array, for inputs that are arrays."""
        raise NotImplementedError

    def backward(self, context, ct):
        """Return a cotangent for each input, or None, from the cotangent of the output."""
        raise NotImplementedError

    def __call__(self, *inputs, **constants):
        return OpNode(self, [as_node(x) for x in inputs], constants).output


class OpNode:
    """An op applied once: its inputs, its constants, its output, and the context of its last run."""

    numbers = itertools.count()  # a node is made after the nodes whose outputs it reads

    def __init__(self, op, inputs, constants):
        self.op, self.inputs, self.constants = op, inputs, constants
        self.output, self.number = TensorNode(maker=self), next(OpNode.numbers)
        if all(x.value is not None for x in inputs):
            self.forward()

    def forward(self):
        if any(x.value is None for x in self.inputs):
            raise ValueError(f"{type(self.op).__name__} reads a tensor that has no value: feed it")
        self.context = {}
        values = [x.value for x in self.inputs]
        self.output.value = np.asarray(self.op.forward(self.context, *values, **self.constants))

    def backward(self):
        cts = self.op.backward(self.context, self.output.ct)
        for x, ct in zip(self.inputs, cts, strict=True):
            if ct is None:
                continue
            if self.op.elementwise:
                ct = summed_to(x.value.shape, ct)
            if np.shape(ct) != x.value.shape:
                found = f"a cotangent of shape {np.shape(ct)} for an input of {x.value.shape}"
                raise ValueError(f"{type(self.op).__name__} returned {found}")
            x.ct = x.ct + ct  # a tensor that is read more than once gets a sum


class TensorNode:
    """A tensor, the op node that made it (None for a leaf), and its cotangent after `backward`."""

    __array_ufunc__ = None  # numpy leaves `array * node` to the node

    def __init__(self, value=None, maker=None):
        self.value = None if value is None else np.asarray(value, np.float64)
        self.ct, self.maker = None, maker

    def history(self):
        """The op nodes behind this tensor, each after those whose outputs it reads."""
        found, waiting = set(), [self.maker]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in found:
                found.add(node)
                waiting.extend(x.maker for x in node.inputs)
        return sorted(found, key=lambda node: node.number)

    def feed(self, values):
        """Give leaves their values, and run the operations behind this tensor; return its value."""
        for leaf, value in values.items():
            if leaf.maker is not None:
                raise ValueError(
                    f"only leaves are fed: {type(leaf.maker.op).__name__} makes this one"
                )
            leaf.value = np.asarray(value, np.float64)
        for node in self.history():
            node.forward()
        return self.value

    def backward(self):
        """Leave in each tensor behind this scalar the derivative of this scalar by that tensor."""
        if self.value is None or self.value.shape != ():
            raise ValueError("backward starts at a scalar that has a value")
        nodes = self.history()
        for tensor in (x for node in nodes for x in (*node.inputs, node.output)):
            tensor.ct = np.zeros_like(tensor.value)
        self.ct = np.ones(())
        for node in reversed(nodes):
            node.backward()

    def __add__(self, other):
        return add(self, other)

    def __sub__(self, other):
        return subtract(self, other)

    def __rsub__(self, other):
        return subtract(other, self)

    def __mul__(self, other):
        return multiply(self, other)

    def __matmul__(self, other):
        return matmul(self, other)

    def __rmatmul__(self, other):
        return matmul(other, self)

    def __pow__(self, exponent):
        return power(self, exponent=exponent)

    __radd__, __rmul__ = __add__, __mul__


def as_node(x):
    """A node as it is, and anything else as a leaf that holds it."""
    return x if isinstance(x, TensorNode) else TensorNode(x)


def summed_to(shape, ct):
    """Sum over the axes along which an input of this shape was broadcast."""
    ct = ct.sum(axis=tuple(range(ct.ndim - len(shape))))
    return ct.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


class Add(Op):
    elementwise = True

    def forward(self, context, a, b):
        return a + b

    def backward(self, context, ct):
        return ct, ct


class Subtract(Op):
    elementwise = True

    def forward(self, context, a, b):
        return a - b

    def backward(self, context, ct):
        return ct, -ct


class Multiply(Op):
    elementwise = True

    def forward(self, context, a, b):
        context["a"], context["b"] = a, b
        return a * b

    def backward(self, context, ct):
        return ct * context["b"], ct * context["a"]


class Matmul(Op):
    """The product of two matrices."""

    def forward(self, context, a, b):
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(f"Matmul takes two matrices, not shapes {a.shape} and {b.shape}")
        context["a"], context["b"] = a, b
        return a @ b

    def backward(self, context, ct):
        return ct @ context["b"].T, context["a"].T @ ct


class Power(Op):
    def forward(self, context, x, exponent):
        context["slope"] = exponent * x ** (exponent - 1)
        return x**exponent

    def backward(self, context, ct):
        return (ct * context["slope"],)


class Sigmoid(Op):
    def forward(self, context, x):
        y = context["y"] = 1 / (1 + np.exp(-x))
        return y

    def backward(self, context, ct):
        y = context["y"]
        return (ct * y * (1 - y),)


class Total(Op):
    """The sum of all elements."""

    def forward(self, context, x):
        context["shape"] = x.shape
        return x.sum()

    def backward(self, context, ct):
        return (np.full(context["shape"], ct),)


add, subtract, multiply, matmul = Add(), Subtract(), Multiply(), Matmul()
power, sigmoid, total = Power(), Sigmoid(), Total()
