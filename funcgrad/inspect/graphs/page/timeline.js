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
    if (graph.tensors.some((tensor) => tensor.contributions.length)) {
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
    this.arriving = new Map();
    this.enteredFrom = new Map(graph.graphs.flatMap((inner) => inner.entering.map(([o, i]) => [i, o])));
  }

  /** The operations in order: each call after those that it carries, of which only what ran is told. */
  inOrder(ids, reversed) {
    const wanted = new Set(ids);
    const turned = (list) => (reversed ? [...list].reverse() : list);
    const found = [];
    const visit = (number) => {
      for (const id of turned(this.graph.graphs[number].ops)) {
        const op = this.ops.get(id);
        turned(op.graphs).filter((inner) => op.opened || !this.measured || this.isMeasured(inner)).forEach(visit);
        if (wanted.has(id)) found.push(op);
      }
    };
    visit(0);
    return found;
  }

  /** Whether numbers of a carried graph are known: it may be a branch that was not taken. */
  isMeasured(number) {
    const inner = this.graph.graphs[number];
    return inner.tensors.some((id) => this.tensors.get(id).value && this.tensors.get(id).kind !== "literal")
      || inner.ops.some((id) => this.ops.get(id).graphs.some((deeper) => this.isMeasured(deeper)));
  }

  /** The first forward and the first backward step inside a carried graph. */
  inside(inner) {
    if (!this.insideAt.has(inner)) {
      const steps = { ran: Infinity, pulled: Infinity };
      for (const id of inner.ops) {
        const deeper = this.ops.get(id).graphs.map((number) => this.inside(this.graph.graphs[number]));
        steps.ran = Math.min(steps.ran, this.ranAt.get(id) ?? Infinity, ...deeper.map((one) => one.ran));
        steps.pulled = Math.min(steps.pulled, this.pulledAt.get(id) ?? Infinity, ...deeper.map((one) => one.pulled));
      }
      this.insideAt.set(inner, steps);
    }
    return this.insideAt.get(inner);
  }

  /** The step in which a value becomes known. */
  valueAt(tensor) {
    if (tensor.maker !== null) return this.ranAt.get(tensor.maker) ?? Infinity;
    const inner = this.graph.graphs[tensor.graph];
    if (inner.call === null || tensor.kind === "literal") return 0;
    const outer = this.enteredFrom.get(tensor.id);
    if (outer !== undefined) return this.valueAt(this.tensors.get(outer));
    return this.inside(inner).ran;
  }

  /** The contributions to a value's cotangent that arrive, each with the step in which it does. */
  contributions(tensor) {
    if (!this.arriving.has(tensor)) this.arriving.set(tensor, this.arrivals(tensor));
    return this.arriving.get(tensor);
  }

  arrivals(tensor) {
    const inner = this.graph.graphs[tensor.graph];
    const seeded = inner.call === null ? this.turn : this.inside(inner).pulled;
    const all = tensor.contributions.length
      ? tensor.contributions.filter((one) => one.gradient || !this.measured)
      : this.structural(tensor);
    return all
      .map((one, _, { length }) => ({ ...one, gradient: length === 1 ? tensor.gradient : one.gradient, at: one.reader === null ? seeded : this.pulledAt.get(one.reader) ?? Infinity }))
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
