"""All that an author of rules, ops, calls and tools needs, on one page.

A rule, in the simplest case of one line, says how an op is differentiated::

    defvjp, partials, zero, Rule, ZeroRule, Rules

An op is a function with a rule, for models of one's own::

    op

A call is a primitive that carries a function. Its author says, from the primitive, its params, which
operands are differentiated, and the rules, by which forward and backward program it is differentiated::

    defcall, CallProgram, of_jaxpr, wrapped, split_of, Split, Call

A tool is told of each node when it is recorded and when it is pulled back (``rules.observed_by``), or
reads the tape of a differentiation and those inside its calls::

    Observer, Node, FrozenTape, tape_of, walk_nodes

CONTRIBUTING.md has a short example of each.
"""

from funcgrad.called import of_jaxpr
from funcgrad.calls.entering import CallProgram, defcall
from funcgrad.calls.wrapped import wrapped
from funcgrad.inspect.observe import tape_of
from funcgrad.nodes import walk_nodes
from funcgrad.op import op
from funcgrad.partition.split import Call, Split, split_of
from funcgrad.registry import Observer, Rule, Rules, ZeroRule, defvjp, partials, zero
from funcgrad.tape import FrozenTape, Node

__all__ = [
    "Call",
    "CallProgram",
    "FrozenTape",
    "Node",
    "Observer",
    "Rule",
    "Rules",
    "Split",
    "ZeroRule",
    "defcall",
    "defvjp",
    "of_jaxpr",
    "op",
    "partials",
    "split_of",
    "tape_of",
    "walk_nodes",
    "wrapped",
    "zero",
]
