"""What an operation's rule reads on the way back, found without running anything."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from funcgrad import _jax, errors
from funcgrad.keys import FunctionId
from funcgrad.registry import Rule
from funcgrad.rule_program import program_of

if TYPE_CHECKING:
    from funcgrad.inspect.graphs.nodes import OpNode, TensorNode


def reads_by_rule(node: OpNode) -> bool:
    """Whether the way back reads operands and outputs alone, by a rule of the operation's own.

    A call of a caught function is a custom derivative in the trace, of which the residuals are its own.
    """
    return isinstance(node.op.entry, Rule) and not node.op.is_caught


def context_of(node: OpNode) -> list[tuple[TensorNode, str]]:
    """The operands and outputs that the rule reads when each differentiated operand wants its cotangent.

    Raises:
      errors.FuncgradError: the rule cannot be traced.
    """
    wanted = tuple(i for i, tensor in enumerate(node.inputs) if tensor.is_active)
    if not (node.is_pulled and wanted and reads_by_rule(node)):
        return []
    rule, place = node.op.entry, node.place
    assert isinstance(rule, Rule)
    called = isinstance(node.op.key, FunctionId)
    params = {} if called else place.params
    multiple = len(place.outputs) > 1 if called else place.op.multiple_results
    types = place.operands, place.outputs
    try:
        with ExitStack() as around:
            for call in place.calls:
                if call.op is _jax.shard_map_p:
                    around.enter_context(_jax.within_shard_map(call.params))
            around.enter_context(_jax.in_place_of(place.equation))
            program = program_of(rule, node.op.key, params, *types, wanted, multiple)
    except errors.Unlocated as problem:
        raise problem.at(node.where) from problem.cause
    values = {"operand": node.inputs, "output": node.all_outputs}
    read = [(values[kind][i], f"{kind} {i}") for kind, i in program.reasons]
    return [(tensor, what) for tensor, what in read if tensor is not None]
