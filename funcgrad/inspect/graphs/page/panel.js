"use strict";

/** The words and numbers beside the picture: what a step does, or what was clicked. */
class Panel {
  constructor(place, timeline, picture, chosen, go) {
    Object.assign(this, { place, timeline, picture, chosen, go });
  }

  show(...children) {
    this.place.replaceChildren(...children.flat(Infinity).filter((child) => child));
  }

  // --- a step -------------------------------------------------------------------------------------

  step(index, group = null) {
    const step = this.timeline.steps[index];
    if (group !== null) return this.group(group, index);
    const made = { start: () => this.start(), seed: () => this.seed(index), end: () => this.end(),
      forward: () => this.forward(step), backward: () => this.backward(step, index) }[step.way]();
    this.show(made);
  }

  start() {
    const { graph, measured } = this.timeline;
    const given = graph.graphs[0].inputs.map((id) => this.timeline.tensors.get(id));
    return [
      this.title(graph.name, "Start", "start"),
      element("p", {}, measured ? "The arguments are known; the forward pass fills in the rest." : "The types are known, the numbers are not."),
      graph.note ? element("p", { class: "quiet" }, graph.note) : null,
      element("p", { class: "keys" }, "Step with ", element("kbd", {}, "→"), " and ", element("kbd", {}, "←"),
        ", play with ", element("kbd", {}, "space"), ", search with ", element("kbd", {}, "/"), ". Click anything to see its line."),
      element("h3", {}, "Given"), given.slice(0, 40).map((tensor) => this.value(tensor)), this.more(given.length - 40),
    ];
  }

  forward({ op, number, of }) {
    const kind = this.timeline.graph.kinds[op.op];
    return [
      this.title(this.nameOf(op), `Forward ${number} of ${of}`, "forward", op.scope),
      element("p", { class: "equation" }, this.equation(op)),
      this.mathematics(kind),
      this.inside(op),
      element("h3", {}, "Reads"), this.values(op.inputs),
      element("h3", {}, "Makes"), this.values(op.outputs),
      this.source(op), this.rule(kind, op),
    ];
  }

  backward({ op, number, of }, index) {
    const kind = this.timeline.graph.kinds[op.op];
    const comes = op.outputs.map((id) => this.timeline.tensors.get(id));
    return [
      this.title(this.nameOf(op), `Backward ${number} of ${of}`, "backward", op.scope),
      element("p", { class: "equation" }, "through ", this.equation(op)),
      this.mathematics(kind),
      this.inside(op),
      element("h3", {}, "Comes in"), comes.map((tensor) => this.cotangent(tensor)),
      op.context.length ? [element("h3", {}, "The rule reads"), op.context.map(([id, what]) => this.value(this.timeline.tensors.get(id), what))] : null,
      op.residuals_inside ? element("p", { class: "quiet" }, "The rule reads values from inside.") : null,
      element("h3", {}, "Goes out"), this.goesOut(op, index),
      this.rule(kind, op), this.source(op),
    ];
  }

  /** For each operand what goes out to it, and the sum there. */
  goesOut(op, index) {
    const seen = new Set();
    return op.inputs.map((id) => {
      if (seen.has(id)) return null;
      seen.add(id);
      const tensor = this.timeline.tensors.get(id);
      const sum = this.timeline.sumAt(tensor, index);
      if (!sum.now.length) {
        return element("p", { class: "quiet" }, `Nothing goes to `, this.link(tensor), tensor.kind === "literal" ? ", a number in the program." : ".");
      }
      return this.sum(tensor, sum);
    });
  }

  /** What a cotangent is made of: what came before, what comes now, and what they add up to. */
  sum(tensor, { before, now, later }) {
    const many = before.length + now.length + later.length > 1;
    const ct = `ct_${plain(tensor.name)}`;
    if (!many) return this.numbers(tensor, now[0].gradient, ct);
    const line = (one, word) => element("div", { class: "term" },
      element("span", { class: "sign" }, word), element("span", { class: "from" }, "from ", this.readerName(one)),
      this.drawn(one.gradient, tensor, `${ct} from one reader`));
    const whole = later.length === 0;
    const total = whole && tensor.gradient ? tensor.gradient : summed([...before, ...now].map((one) => one.gradient));
    return element("div", { class: "sum" },
      element("h4", {}, `${ct} is added up: `, `${plain(tensor.name)} is used ${before.length + now.length + later.length} times`),
      before.map((one) => line(one, "")), now.map((one) => { const made = line(one, "+"); made.classList.add("now"); return made; }),
      element("div", { class: `term total ${whole ? "whole" : "partial"}` },
        element("span", { class: "sign" }, "="), element("span", { class: "from" }, whole ? `${ct}, whole` : `so far; ${later.length} more to come`),
        total ? this.drawn(total, tensor, ct) : element("p", { class: "absent" }, "")));
  }

  readerName(one) {
    if (one.reader === null) return "the end";
    const op = this.timeline.ops.get(one.reader);
    return this.linkTo(`o${op.id}`, this.nameOf(op));
  }

  seed(index) {
    const results = this.timeline.graph.graphs[0].results.map((id) => this.timeline.tensors.get(id));
    return [
      this.title(this.timeline.graph.name, "The walk back begins", "backward"),
      element("p", {}, "The forward pass is over. The result has a cotangent: ones, unless another was asked for. From here each rule turns the cotangent of what its operation made into cotangents of what it read."),
      element("h3", {}, "Result"), [...new Set(results)].map((tensor) => [this.value(tensor),
        this.timeline.sumAt(tensor, index).now.map((one) => this.numbers(tensor, one.gradient, `ct_${plain(tensor.name)}`))]),
    ];
  }

  end() {
    const given = this.timeline.graph.graphs[0].inputs.map((id) => this.timeline.tensors.get(id));
    return [
      this.title(this.timeline.graph.name, "The gradient", "backward"),
      element("p", {}, "The walk back is over: the cotangents of the arguments are the gradient."),
      given.slice(0, 40).map((tensor) => this.timeline.gradientAt(tensor) < Infinity ? this.cotangent(tensor)
        : element("p", { class: "quiet" }, "No cotangent arrives at ", this.link(tensor), ".")),
      this.more(given.length - 40),
    ];
  }

  /** A group taken in one step: what goes in and what comes out. */
  group(view, index) {
    const back = index >= this.timeline.turn;
    const members = this.picture.members(view);
    const tensors = [...members].flatMap((id) => { const op = this.timeline.ops.get(id); return [...op.inputs, ...op.outputs]; });
    const unique = [...new Set(tensors)].map((id) => this.timeline.tensors.get(id));
    const entering = unique.filter((tensor) => !members.has(tensor.maker) && tensor.kind !== "literal" && this.outside(tensor, members));
    const leaving = unique.filter((tensor) => members.has(tensor.maker) && this.outside(tensor, members)
      && (tensor.result || tensor.readers.some(([reader]) => !members.has(reader))));
    const tell = (tensor) => (back ? this.cotangent(tensor) : this.value(tensor));
    const parts = [["Goes in", entering], ["Comes out", leaving]];
    if (back) parts.reverse();
    this.show(
      this.title(this.picture.views[view].title, back ? "Backward through a group" : "Forward through a group", back ? "backward" : "forward"),
      element("p", {}, `${members.size} operations. `, this.enter(view)),
      parts.map(([word, all], i) => [element("h3", {}, back ? ["Comes in", "Goes out"][i] : word),
        all.slice(0, 12).map(tell), this.more(all.length - 12)]),
      this.kinds(members),
    );
  }

  /** Whether a value is in a graph that reaches beyond the group: not inside a call that the group has. */
  outside(tensor, members) {
    const call = this.timeline.graph.graphs[tensor.graph].call;
    return call === null || !members.has(call);
  }

  kinds(members) {
    const counts = new Map();
    for (const id of members) { const { op } = this.timeline.ops.get(id); counts.set(op, (counts.get(op) ?? 0) + 1); }
    const sorted = [...counts].sort((a, b) => b[1] - a[1]);
    return [element("h3", {}, "Made of"), element("p", { class: "kinds" }, sorted.map(([op, count]) => element("span", {}, `${count} ${op}`)))];
  }

  // --- what was clicked ---------------------------------------------------------------------------

  clicked(key) {
    const number = Number(key.slice(1));
    const back = element("button", { class: "return", onclick: () => this.go.unchoose() }, "back to the step");
    if (key[0] === "o") this.show(this.clickedOp(this.timeline.ops.get(number)), back);
    else this.show(this.clickedTensor(this.timeline.tensors.get(number)), back);
  }

  clickedOp(op) {
    const kind = this.timeline.graph.kinds[op.op];
    const params = Object.entries(op.params);
    return [
      this.title(this.nameOf(op), "Operation", "chosen", op.scope),
      element("p", { class: "equation" }, this.equation(op)),
      this.source(op),
      element("p", { class: "go" }, this.stepButton(this.timeline.ranAt.get(op.id), "forward"), this.stepButton(this.timeline.pulledAt.get(op.id), "backward")),
      this.inside(op), this.mathematics(kind),
      params.length ? [element("h3", {}, "Params"), element("dl", {}, params.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]))] : null,
      this.rule(kind, op),
    ];
  }

  clickedTensor(tensor) {
    const all = this.timeline.contributions(tensor);
    const maker = tensor.maker === null ? null : this.timeline.ops.get(tensor.maker);
    const word = { argument: "Argument", constant: "Constant", literal: "Number in the program", value: "Value" }[tensor.kind];
    return [
      this.title(plain(tensor.name), tensor.result ? `${word}, result` : word, "chosen"),
      element("p", {}, maker ? ["Made by ", this.linkTo(`o${maker.id}`, this.nameOf(maker)), ". "] : "",
        tensor.readers.length ? ["Read by ", tensor.readers.map(([id], i) => [i ? ", " : "", this.linkTo(`o${id}`, this.nameOf(this.timeline.ops.get(id)))]).flat(), "."] : ""),
      element("p", { class: "go" }, this.stepButton(maker ? this.timeline.ranAt.get(maker.id) : 0, "made"), this.stepButton(this.timeline.gradientAt(tensor), "its cotangent")),
      this.value(tensor),
      all.length > 1 ? this.sum(tensor, { before: all, now: [], later: [] })
        : all.length ? this.cotangent(tensor) : element("p", { class: "quiet" }, "No cotangent arrives."),
      maker ? this.source(maker) : null,
    ];
  }

  stepButton(at, word) {
    return at === undefined || at === Infinity ? null
      : element("button", { onclick: () => this.go.to(at) }, `go to step ${at}: ${word}`);
  }

  // --- parts --------------------------------------------------------------------------------------

  title(name, word, way, scope = "") {
    return element("div", { class: `title ${way}` }, element("span", { class: "pill" }, word), element("h2", {}, name),
      scope ? element("p", { class: "scope" }, scope) : null);
  }

  nameOf(op) {
    return op.function ?? op.op;
  }

  equation(op) {
    const list = (ids) => ids.map((id, i) => [i ? ", " : "", this.link(this.timeline.tensors.get(id))]).flat();
    return [list(op.outputs), " = ", element("b", {}, this.nameOf(op)), "(", list(op.inputs), ")"].flat();
  }

  link(tensor) {
    return tensor.kind === "literal" ? tensor.name : this.linkTo(`t${tensor.id}`, plain(tensor.name));
  }

  linkTo(key, text) {
    return element("button", { class: "link", onclick: () => this.go.choose(key) }, text);
  }

  enter(view) {
    return element("button", { class: "link", onclick: () => this.go.enter(view) }, "look inside");
  }

  inside(op) {
    const view = this.picture.groupOfCall.get(op.id);
    const carried = op.graphs.map((i) => this.timeline.graph.graphs[i]);
    if (!carried.length) return null;
    return element("p", { class: "quiet" }, `Carries ${carried.map((graph) => `${graph.name} (${graph.kind})`).join(", ")}. `,
      view === undefined ? null : this.enter(view));
  }

  mathematics(kind) {
    if (!kind?.mathematics) return null;
    return element("p", { class: "mathematics" }, kind.mathematics.split(/;\s*/).map((part) => element("span", {}, part)));
  }

  rule(kind, op) {
    if (!kind) return null;
    if (kind.zero) return element("p", { class: "quiet" }, "Its derivative is zero by nature: no cotangent goes back through it.");
    if (!kind.source) {
      const word = op.graphs.length ? "It is differentiated through what it carries." : "It has no rule of its own.";
      return element("p", { class: "quiet" }, word);
    }
    return element("details", { open: "" }, element("summary", {}, "Rule ", element("code", {}, kind.rule)),
      element("p", { class: "place" }, kind.place), element("pre", {}, element("code", {}, kind.source)));
  }

  source(op) {
    if (!op.where && !op.line) return null;
    return element("div", { class: "source" }, element("p", { class: "place" }, op.where ?? ""),
      op.line ? element("pre", {}, element("code", {}, op.line)) : null);
  }

  values(ids) {
    return [...new Set(ids)].map((id) => this.value(this.timeline.tensors.get(id)));
  }

  value(tensor, what = "") {
    return this.numbers(tensor, tensor.value, plain(tensor.name), what, "value");
  }

  cotangent(tensor) {
    if (this.timeline.gradientAt(tensor) === Infinity) return element("p", { class: "quiet" }, "No cotangent arrives at ", this.link(tensor), ".");
    return this.numbers(tensor, tensor.gradient, `ct_${plain(tensor.name)}`);
  }

  /** A name with its type and its numbers. */
  numbers(tensor, data, name, what = "", way = "gradient") {
    const type = `${tensor.dtype}[${tensor.shape.join(", ")}]`;
    return element("div", { class: `quantity ${way}` },
      element("p", { class: "head" }, tensor.kind === "literal" ? element("span", {}, name) : this.linkTo(`t${tensor.id}`, name),
        element("span", { class: "type" }, what ? `${type}, ${what}` : type)),
      this.drawn(data, tensor, name));
  }

  /** Numbers; inside a scan those of one step, with a slider that chooses it. */
  drawn(data, tensor, label) {
    if (!data) return this.timeline.measured ? element("p", { class: "absent" }, "not known") : null;
    if (!tensor.steps) return shown(data, label);
    const numbers = stepsOf(data, tensor.steps);
    if (!numbers.length) return shown(data, label);
    const total = data.shape.slice(0, tensor.steps).reduce((a, b) => a * b, 1);
    const place = element("div");
    const number = element("output", {}, "");
    const fill = () => {
      const position = Math.min(this.chosen.step, numbers.length - 1);
      number.textContent = `${tensor.axes.join(" and ")} ${numbers[position] + 1} of ${total}`;
      slider.value = position;
      place.replaceChildren(tensor.present && !tensor.present[numbers[position]]
        ? element("p", { class: "absent" }, "not computed in this step")
        : shown(atStep(data, tensor.steps, position), label));
    };
    const slider = element("input", { type: "range", min: 0, max: numbers.length - 1, "aria-label": `${tensor.axes.join(" and ")}, ${label}` });
    slider.addEventListener("input", () => { this.chosen.step = Number(slider.value); this.go.loopStep(); });
    this.chosen.watchers.push(fill);
    fill();
    return element("div", { class: "looped" }, element("label", {}, slider, number), place);
  }

  more(count) {
    return count > 0 ? element("p", { class: "quiet" }, `and ${count} more`) : null;
  }
}
