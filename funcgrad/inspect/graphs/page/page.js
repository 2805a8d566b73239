"use strict";

/** Read the packed data of the page: gzip in base64. */
async function unpack(text) {
  const letters = atob(text.trim());
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const at = (id) => document.getElementById(id);
const MOST_HITS = 60;
const MOST_BY_ONE = 200;

/** The page: which step, which view, what is chosen; the controls that change them. */
class Page {
  constructor({ graph, views }) {
    this.timeline = new Timeline(graph);
    this.chosen = { step: 0, watchers: [] };
    this.picture = new Picture(at("picture"), this.timeline, views);
    this.panel = new Panel(at("panel"), this.timeline, this.picture, this.chosen, this);
    this.index = 0;
    this.key = null;
    this.grouped = null;
    this.hits = [];
    this.playing = null;
    const last = this.timeline.steps.length - 1;
    at("size").textContent = `${graph.ops.filter((op) => !op.opened).length.toLocaleString("en")} operations`;
    at("slider").max = last;
    at("into").checked = graph.ops.length <= MOST_BY_ONE;
    at("slider").style.setProperty("--turn", `${(100 * (this.timeline.turn - 0.5)) / Math.max(last, 1)}%`);
    this.listen();
    this.enter(0);
    this.to(Number(/^#step=(\d+)$/.exec(location.hash)?.[1] ?? 0));
  }

  // --- steps --------------------------------------------------------------------------------------

  /** Go to a step; the view follows unless a group is taken in one step. */
  to(index, group = null) {
    this.index = Math.max(0, Math.min(this.timeline.steps.length - 1, index));
    this.key = null;
    this.grouped = group;
    const { op } = this.timeline.steps[this.index];
    const stays = group !== null;
    if (!stays) this.picture.show(op ? this.picture.home(op) : 0, (key) => this.choose(key));
    this.refresh();
    this.picture.reveal(stays ? [`v${group}`] : this.placesOf(op));
    if (location.protocol !== "about:") history.replaceState(null, "", `#step=${this.index}`); // a notebook's frame
  }

  placesOf(op) {
    if (!op) return [];
    const group = this.picture.groupOfCall.get(op.id);
    return [`o${op.id}`, ...(group === undefined ? [] : [`v${group}`]), ...op.outputs.map((id) => `t${id}`)];
  }

  /** One step on or back; where groups are not stepped into, to the next thing that is drawn. */
  move(by, other = false) {
    const into = at("into").checked !== other;
    if (into) return this.to(this.index + by);
    const begun = this.unitAt(this.index);
    let index = this.index + by;
    if (begun !== null) while (this.unitAt(index) === begun && this.sameWay(index, this.index)) index += by;
    this.showAround(this.timeline.steps[index]?.op);
    const unit = this.unitAt(index);
    if (unit === null || unit[0] !== "v") return this.to(index);
    while (this.unitAt(index + 1) === unit && this.sameWay(index, index + 1)) index += 1;
    this.to(index, Number(unit.slice(1)));
  }

  /** Show the innermost view around the shown one that has an operation. */
  showAround(op) {
    const around = op && this.picture.path(this.picture.shown).filter((view) => this.picture.members(view).has(op.id));
    if (around?.length) this.picture.show(around.at(-1), (key) => this.choose(key));
  }

  sameWay(a, b) {
    return a >= this.timeline.turn === b >= this.timeline.turn;
  }

  /** What is drawn in this view for the operation of a step: itself or a group; null if neither. */
  unitAt(index) {
    const op = this.timeline.steps[index]?.op;
    if (!op) return null;
    const shown = this.picture.shown;
    for (const child of this.picture.children[shown]) {
      if (this.picture.members(child).has(op.id)) return this.picture.by.has(`v${child}`) ? `v${child}` : `o${op.id}`;
    }
    return this.picture.members(shown).has(op.id) ? `o${op.id}` : null;
  }

  play(on) {
    clearInterval(this.playing);
    this.playing = null;
    const last = this.timeline.steps.length - 1;
    if (on) {
      if (this.index === last) this.to(0);
      this.playing = setInterval(() => {
        this.move(1);
        if (this.index === last) this.play(false);
      }, 900);
    }
    at("play").setAttribute("aria-pressed", String(Boolean(on)));
    at("play").setAttribute("aria-label", on ? "Pause" : "Play");
  }

  // --- views and choices --------------------------------------------------------------------------

  /** Show a view. */
  enter(view) {
    this.picture.show(view, (key) => this.choose(key));
    this.refresh();
  }

  /** Choose a thing: a group is entered, of another thing the panel tells. */
  choose(key) {
    this.play(false);
    if (key[0] === "v") return this.enter(Number(key.slice(1)));
    const number = Number(key.slice(1));
    if (!this.picture.by.has(key)) {
      const tensor = key[0] === "t" ? this.timeline.tensors.get(number) : null;
      const op = tensor ? this.timeline.ops.get(tensor.maker ?? tensor.readers[0]?.[0]) : this.timeline.ops.get(number);
      if (op) this.picture.show(this.picture.home(op), (chosen) => this.choose(chosen));
    }
    this.key = key;
    this.refresh();
    this.picture.reveal(key[0] === "o" ? this.placesOf(this.timeline.ops.get(number)) : [key]);
  }

  unchoose() {
    this.key = null;
    this.refresh();
  }

  /** Another step of a loop is chosen: the numbers change and nothing else. */
  loopStep() {
    this.chosen.watchers.forEach((fill) => fill());
  }

  refresh() {
    this.chosen.watchers.length = 0;
    this.picture.update(this.index, this.key);
    this.picture.mark(new Set(this.hits));
    if (this.key === null) this.panel.step(this.index, this.grouped);
    else this.panel.clicked(this.key);
    at("panel").scrollTop = 0;
    at("slider").value = this.index;
    const said = this.said();
    at("slider").setAttribute("aria-valuetext", said);
    at("count").textContent = `${this.index} / ${this.timeline.steps.length - 1}`;
    at("said").textContent = said;
    document.body.dataset.way = this.timeline.steps[this.index].way;
    this.breadcrumbs();
  }

  said() {
    const { way, op, number, of } = this.timeline.steps[this.index];
    return op ? `${way} ${number} of ${of}: ${op.function ?? op.op}` : { start: "start", seed: "the walk back begins", end: "the gradient" }[way];
  }

  breadcrumbs() {
    const path = this.picture.path(this.picture.shown);
    at("breadcrumbs").replaceChildren(...path.map((view, i) => {
      const { title } = this.picture.views[view];
      return i === path.length - 1 ? element("span", { "aria-current": "location" }, title)
        : element("button", { class: "link", onclick: () => this.enter(view) }, title);
    }));
  }

  // --- search -------------------------------------------------------------------------------------

  search(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const { graph } = this.timeline;
    const found = [];
    if (words.length) {
      const add = (key, name, about, texts) => {
        const all = texts.join("\n").toLowerCase();
        if (words.every((word) => all.includes(word))) found.push({ key, name, about });
      };
      for (const tensor of graph.tensors) {
        if (tensor.kind === "literal") continue;
        add(`t${tensor.id}`, tensor.name, `${tensor.kind}, ${tensor.dtype}[${tensor.shape.join(", ")}]`, [tensor.name, tensor.kind]);
      }
      for (const op of graph.ops) {
        const about = [op.scope, op.where].filter(Boolean).join(", ");
        add(`o${op.id}`, op.function ?? op.op, about, [op.op, op.function ?? "", op.scope, op.where ?? "", op.line]);
      }
    }
    this.hits = found.map(({ key }) => key);
    this.hit = -1;
    at("hit-count").textContent = words.length ? `${found.length} ${found.length === 1 ? "hit" : "hits"}` : "";
    at("hits").hidden = !found.length;
    at("hits").replaceChildren(...found.slice(0, MOST_HITS).map(({ key, name, about }, i) =>
      element("li", {}, element("button", { onclick: () => this.goToHit(i) },
        element("span", { class: key[0] === "o" ? "hit-op" : "hit-tensor" }, name), " ", element("small", {}, about)))),
      ...(found.length > MOST_HITS ? [element("li", { class: "quiet" }, `and ${found.length - MOST_HITS} more: add a word`)] : []));
    this.picture.mark(new Set(this.hits));
  }

  goToHit(i) {
    if (!this.hits.length) return;
    this.hit = (i + this.hits.length) % this.hits.length;
    this.choose(this.hits[this.hit]);
    at("hit-count").textContent = `${this.hit + 1} of ${this.hits.length}`;
    at("hits").hidden = true;
  }

  // --- controls -----------------------------------------------------------------------------------

  listen() {
    const last = this.timeline.steps.length - 1;
    const stop = (then) => () => { this.play(false); then(); };
    const actions = {
      first: stop(() => this.to(0)), back: stop(() => this.move(-1)), next: stop(() => this.move(1)),
      last: stop(() => this.to(last)), play: () => this.play(!this.playing), theme: () => this.theme(),
      "zoom-in": () => this.zoomTo(this.picture.scale * 1.25), "zoom-out": () => this.zoomTo(this.picture.scale / 1.25),
      "zoom-fit": () => this.zoomTo(null),
    };
    for (const [id, action] of Object.entries(actions)) at(id).addEventListener("click", action);
    at("slider").addEventListener("input", stop(() => this.to(Number(at("slider").value))));
    at("search").addEventListener("input", () => this.search(at("search").value));
    at("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.goToHit(this.hit + (event.shiftKey ? -1 : 1));
      if (event.key === "Escape") { at("search").value = ""; this.search(""); at("search").blur(); }
    });
    document.addEventListener("click", (event) => { if (!event.target.closest(".search")) at("hits").hidden = true; });
    at("search").addEventListener("focus", () => { at("hits").hidden = !this.hits.length; });
    document.addEventListener("keydown", (event) => this.pressed(event));
    addEventListener("resize", () => this.picture.resize());
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.matches("input[type=search]")) return;
    const ranged = event.target.matches("input[type=range]");
    const pressable = event.target.closest("button, summary, a, label, [role=button]");
    const keys = {
      ArrowRight: () => { this.play(false); this.move(1, event.shiftKey); },
      ArrowLeft: () => { this.play(false); this.move(-1, event.shiftKey); },
      Home: () => this.to(0), End: () => this.to(this.timeline.steps.length - 1),
      " ": () => this.play(!this.playing), "/": () => at("search").focus(), Escape: () => this.unchoose(),
    };
    if (!(event.key in keys) || (event.key === " " && pressable)) return;
    if (event.target.matches(".numbers") && event.key.startsWith("Arrow")) return;
    if (ranged && event.target.id !== "slider" && event.key !== "/" && event.key !== "Escape") return;
    event.preventDefault();
    keys[event.key]();
  }

  zoomTo(scale) {
    this.picture.zoom = scale === null ? null : Math.max(0.2, Math.min(4, scale));
    this.picture.resize();
  }

  theme() {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  }
}

unpack(at("data").textContent).then((data) => {
  window.page = new Page(data);
  document.body.dataset.ready = "";
}).catch((reason) => {
  at("panel").textContent = `This page could not be opened: ${reason}. It needs Chrome 111, Firefox 113, Safari 16.4 or newer.`;
  throw reason;
});
