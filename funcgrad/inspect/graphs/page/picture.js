"use strict";

/**
 * The drawn views, one at a time. A view is a picture of one level: values, operations, and groups that
 * are entered. Each drawn thing is told, step by step, whether it is not yet known, just now, or known.
 */
class Picture {
  constructor(place, timeline, views) {
    Object.assign(this, { place, timeline, views });
    this.viewOf = new Map();
    this.children = views.map(() => []);
    this.groupOfCall = new Map();
    views.forEach((view, i) => {
      view.ops.forEach((op) => this.viewOf.set(op, i));
      if (view.parent !== null) this.children[view.parent].push(i);
      view.calls.forEach((call) => this.groupOfCall.set(call, i));
    });
    this.parts = new Map();
    this.zoom = null;
    this.shown = null;
  }

  /** The view in which an operation is drawn: itself, or as the group that it carries. */
  home(op) {
    for (let at = op; ; ) {
      if (this.viewOf.has(at.id)) return this.viewOf.get(at.id);
      if (this.groupOfCall.has(at.id)) return this.views[this.groupOfCall.get(at.id)].parent ?? 0;
      const call = this.timeline.graph.graphs[at.graph].call;
      if (call === null) return 0;
      at = this.timeline.ops.get(call);
    }
  }

  /** The operations in a view and in all views inside it. */
  members(view) {
    if (!this.parts.has(view)) {
      const found = new Set([...this.views[view].ops, ...this.views[view].calls]);
      for (const child of this.children[view]) for (const op of this.members(child)) found.add(op);
      this.parts.set(view, found);
    }
    return this.parts.get(view);
  }

  /** The views from the whole function down to one. */
  path(view) {
    const found = [];
    for (let at = view; at !== null; at = this.views[at].parent) found.unshift(at);
    return found;
  }

  /** Draw a view in place of the one that is drawn. */
  show(view, onChoose) {
    if (this.shown === view) return;
    this.shown = view;
    const parsed = new DOMParser().parseFromString(this.views[view].svg, "image/svg+xml");
    this.svg = document.importNode(parsed.documentElement, true);
    this.svg.setAttribute("role", "group");
    this.things = [...this.svg.querySelectorAll("g.tensor, g.op, g.group")].filter((thing) => this.keysOf(thing).length);
    this.edges = [...this.svg.querySelectorAll("path.edge")];
    this.by = new Map();
    for (const thing of this.things) {
      for (const key of this.keysOf(thing)) {
        if (!this.by.has(key)) this.by.set(key, []);
        this.by.get(key).push(thing);
      }
      thing.setAttribute("tabindex", "0");
      thing.setAttribute("role", "button");
      thing.setAttribute("aria-label", this.label(thing));
      const choose = (event) => {
        event.stopPropagation();
        event.preventDefault();
        onChoose(this.keyOf(thing));
      };
      thing.addEventListener("click", choose);
      thing.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") choose(event);
      });
    }
    this.place.replaceChildren(this.svg);
    this.resize();
  }

  /** The names of what a thing is: the first of several values, then the others. */
  keysOf(thing) {
    const { tensor, op, view, also } = thing.dataset;
    if (view !== undefined) return [`v${view}`];
    if (op !== undefined) return [`o${op}`];
    return [tensor, ...(also ?? "").split(" ")].filter((one) => this.timeline.tensors.has(Number(one || NaN))).map((one) => `t${one}`);
  }

  keyOf(thing) {
    return this.keysOf(thing)[0];
  }

  label(thing) {
    const key = this.keyOf(thing);
    const number = Number(key.slice(1));
    if (key[0] === "t") return `value ${this.timeline.tensors.get(number).name}`;
    if (key[0] === "o") return `operation ${this.timeline.ops.get(number).op}`;
    return `group ${this.views[number].title}, ${this.members(number).size} operations: enter`;
  }

  /** Fit the picture into its place, but never so small that it cannot be read. */
  resize() {
    if (!this.svg) return;
    const box = this.svg.viewBox.baseVal;
    const room = { width: this.place.clientWidth - 24, height: this.place.clientHeight - 24 };
    const fit = Math.min(room.width / box.width, room.height / box.height);
    this.scale = this.zoom ?? Math.max(0.9, Math.min(1.35, fit));
    this.svg.setAttribute("width", box.width * this.scale);
    this.svg.setAttribute("height", box.height * this.scale);
  }

  /** Tell every drawn thing how it stands after a step. */
  update(step, chosen) {
    for (const thing of this.things) {
      const key = this.keyOf(thing);
      const number = Number(key.slice(1));
      const states = key[0] === "t" ? this.ofTensors(thing, step)
        : this.ofOps(key[0] === "o" ? [number] : this.members(number), step);
      states.chosen = key === chosen;
      for (const [name, on] of Object.entries(states)) thing.classList.toggle(name, on);
    }
    for (const edge of this.edges) {
      const at = this.edgeAt(edge);
      edge.classList.toggle("unknown", at > step);
      edge.classList.toggle("now", at === step);
    }
  }

  ofTensors(thing, step) {
    const tensors = this.keysOf(thing).map((key) => this.timeline.tensors.get(Number(key.slice(1))));
    const sums = tensors.map((tensor) => this.timeline.sumAt(tensor, step));
    const valuesAt = tensors.map((tensor) => this.timeline.valueAt(tensor));
    const came = sums.filter(({ before, now }) => before.length + now.length);
    const partial = came.length > 0 && sums.some(({ later }) => later.length);
    if (tensors.length === 1) this.writeSum(thing, partial ? sums[0] : null);
    return {
      unknown: valuesAt.every((at) => at > step),
      now: step > 0 && valuesAt.includes(step),
      "ct-unknown": !came.length,
      "ct-now": sums.some(({ now }) => now.length),
      "ct-partial": partial,
    };
  }

  /** Write what has arrived of a cotangent into its place in the picture, which has room for the whole. */
  writeSum(thing, partial) {
    const text = thing.querySelector("text.gradient");
    if (!text) return;
    const rows = text.children.length ? [...text.children] : [text];
    const sum = partial && lines(summed([...partial.before, ...partial.now].map((one) => one.gradient)));
    rows.forEach((row, i) => {
      row.dataset.whole ??= row.textContent;
      row.textContent = sum ? sum[i] ?? "…" : row.dataset.whole;
    });
  }

  ofOps(ops, step) {
    const ran = [...ops].map((op) => this.timeline.ranAt.get(op)).filter((at) => at !== undefined);
    const pulled = [...ops].map((op) => this.timeline.pulledAt.get(op)).filter((at) => at !== undefined);
    return {
      unknown: ran.every((at) => at > step),
      partial: ran.some((at) => at <= step) && ran.some((at) => at > step),
      now: ran.includes(step),
      "ct-now": pulled.includes(step),
      "ct-known": pulled.length > 0 && pulled.every((at) => at <= step),
    };
  }

  /** The step in which something flows along an edge: a value, or on the way back a cotangent. */
  edgeAt(edge) {
    const ends = [edge.dataset.from, edge.dataset.to];
    const tensor = ends.find((end) => end[0] === "t");
    const other = ends.find((end) => end !== tensor);
    const value = tensor === undefined ? null : this.timeline.tensors.get(Number(tensor.slice(1)));
    const ops = other?.[0] === "o" ? new Set([Number(other.slice(1))])
      : other?.[0] === "v" ? this.members(Number(other.slice(1))) : new Set();
    if (edge.classList.contains("backward")) {
      const { operand } = edge.dataset;
      const along = value ? this.timeline.contributions(value).filter((one) => ops.has(one.reader)
        && (operand === undefined || one.operand === Number(operand))) : [];
      if (along.length) return along[0].at;
      return this.least(ops, this.timeline.pulledAt);
    }
    if (value && ops.has(value.maker)) return this.timeline.valueAt(value);
    const readers = value ? value.readers.map(([op]) => op).filter((op) => ops.has(op)) : [];
    return this.least(readers.length ? readers : ops, this.timeline.ranAt);
  }

  least(ops, when) {
    return Math.min(Infinity, ...[...ops].map((op) => when.get(op) ?? Infinity));
  }

  /** Mark what a search found, groups that hold it too. */
  mark(hits) {
    for (const thing of this.things) {
      const key = this.keyOf(thing);
      const inside = key[0] === "v" && [...this.members(Number(key.slice(1)))].some((op) => hits.has(`o${op}`));
      thing.classList.toggle("hit", hits.has(key) || inside);
    }
  }

  /** Scroll so that the things with one of these keys are seen. */
  reveal(keys) {
    const found = keys.flatMap((key) => this.by.get(key) ?? []);
    const thing = found[0];
    if (!thing) return;
    const box = thing.getBoundingClientRect();
    const room = this.place.getBoundingClientRect();
    const seen = box.top > room.top + 20 && box.bottom < room.bottom - 20 && box.left > room.left && box.right < room.right;
    if (seen) return;
    this.place.scrollBy({
      left: box.left + box.width / 2 - room.left - room.width / 2,
      top: box.top + box.height / 2 - room.top - room.height / 2,
      behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
    });
  }
}
