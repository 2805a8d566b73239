"use strict";

/**
 * The steps of a run, forward and backward, and which numbers are known after each.
 *
 * Step 0 has only what the function is given. One step for each operation follows, then one in which
 * the walk back begins, one for each operation that gets a cotangent, and one that shows the gradients.
 */
class Timeline {
  constructor(graph) {
    this.graph = graph;
    this.ops = new Map(graph.ops.map((op) => [op.id, op]));
    this.tensors = new Map(graph.tensors.map((tensor) => [tensor.id, tensor]));
    this.measured = graph.tensors.some((tensor) => tensor.value && tensor.kind !== "literal");
    const forward = this.inOrder(graph.forward, false);
    const backward = this.inOrder(graph.backward, true);
    this.steps = [
      { way: "start" },
      ...forward.map((op, i) => ({ way: "forward", op, number: i + 1, of: forward.length })),
    ];
    this.turn = this.steps.length;
    if (backward.length) {
      this.steps.push(
        { way: "seed" },
        ...backward.map((op, i) => ({ way: "backward", op, number: i + 1, of: backward.length })),
        { way: "end" },
      );
    }
    this.ranAt = new Map();
    this.pulledAt = new Map();
    this.steps.forEach((step, i) => {
      if (step.op) (step.way === "forward" ? this.ranAt : this.pulledAt).set(step.op.id, i);
    });
    this.insideAt = new Map();
    for (const inner of graph.graphs) if (inner.call !== null) this.noteInside(inner);
    this.enteredFrom = new Map(graph.graphs.flatMap((inner) => inner.entering.map(([o, i]) => [i, o])));
  }

  /** The operations in order: each call after those that it carries. */
  inOrder(ids, reversed) {
    const byGraph = new Map();
    for (const id of ids) {
      const op = this.ops.get(id);
      if (!byGraph.has(op.graph)) byGraph.set(op.graph, []);
      byGraph.get(op.graph).push(op);
    }
    const found = [];
    const visit = (graph) => {
      for (const op of byGraph.get(graph) ?? []) {
        (reversed ? [...op.graphs].reverse() : op.graphs).forEach(visit);
        found.push(op);
      }
    };
    visit(0);
    return found;
  }

  /** Note the first forward and the first backward step inside a carried graph. */
  noteInside(inner) {
    const steps = { ran: Infinity, pulled: Infinity };
    for (const id of inner.ops) {
      steps.ran = Math.min(steps.ran, this.ranAt.get(id) ?? Infinity);
      steps.pulled = Math.min(steps.pulled, this.pulledAt.get(id) ?? Infinity);
    }
    this.insideAt.set(inner, steps);
  }

  /** The step in which a value becomes known. */
  valueAt(tensor) {
    if (tensor.maker !== null) return this.ranAt.get(tensor.maker) ?? Infinity;
    const inner = this.graph.graphs[tensor.graph];
    if (inner.call === null || tensor.kind === "literal") return 0;
    const outer = this.enteredFrom.get(tensor.id);
    if (outer !== undefined) return this.valueAt(this.tensors.get(outer));
    return this.insideAt.get(inner).ran;
  }

  /** The contributions to a value's cotangent that arrive, each with the step in which it does. */
  contributions(tensor) {
    const inner = this.graph.graphs[tensor.graph];
    const seeded = inner.call === null ? this.turn : this.insideAt.get(inner).pulled;
    const all = tensor.contributions.length
      ? tensor.contributions.filter((one) => one.gradient || !this.measured)
      : this.structural(tensor);
    return all
      .map((one) => ({ ...one, at: one.reader === null ? seeded : this.pulledAt.get(one.reader) ?? Infinity }))
      .filter((one) => one.at < Infinity)
      .sort((a, b) => a.at - b.at || a.operand - b.operand);
  }

  /** What may arrive where no numbers are known: one contribution from each reader that is pulled back. */
  structural(tensor) {
    if (this.measured || !/float|complex/.test(tensor.dtype ?? "")) return [];
    const found = tensor.readers.map(([reader, operand]) => ({ reader, operand, gradient: null }));
    if (tensor.result) found.unshift({ reader: null, operand: 0, gradient: null });
    return found;
  }

  /** The step in which a value's cotangent is whole; Infinity where none arrives. */
  gradientAt(tensor) {
    const all = this.contributions(tensor);
    return all.length ? all[all.length - 1].at : Infinity;
  }

  /** What a value's cotangent is after a step: which contributions are in, and which came just now. */
  sumAt(tensor, step) {
    const all = this.contributions(tensor);
    return {
      before: all.filter((one) => one.at < step),
      now: all.filter((one) => one.at === step),
      later: all.filter((one) => one.at > step),
    };
  }
}
