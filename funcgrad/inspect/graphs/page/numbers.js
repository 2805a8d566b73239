"use strict";

/** Make an element: its attributes, then its children; text stays text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** An argument's name as its path: params.dense.kernel. */
const plain = (name) => name.replace(/\[['"](.*?)['"]\]/g, ".$1");

/** A number in a few digits, as a person writes it. */
function short(number, digits = 4) {
  if (typeof number !== "number") return String(number);
  if (number === 0 || Number.isInteger(number) && Math.abs(number) < 1e5) return minus(String(number));
  const size = Math.abs(number);
  if (size >= 1e5 || size < 1e-3) return minus(number.toExponential(digits - 2).replace("e+", "e"));
  return minus(String(Number(number.toPrecision(digits))));
}

const minus = (text) => text.replace(/-/g, "−");

/** Small data as lines of text, a matrix row by row, as the picture has them: three digits a number. */
function lines(data) {
  if (!data || data.numbers === undefined) return [];
  let rows = Array.isArray(data.numbers) ? data.numbers : [data.numbers];
  if (!Array.isArray(rows[0])) rows = [rows];
  if (rows.flat(Infinity).length > 9 || rows[0].length > 4 || Array.isArray(rows[0][0])) return [];
  const texts = rows.map((row) => row.map((number) =>
    typeof number === "number" ? minus(String(Number(number.toPrecision(3)))) : String(number)));
  const widest = Math.max(...texts.flat().map((text) => text.length));
  return texts.map((row) => row.map((text) => text.padStart(widest)).join("  "));
}

/** The sum of data whose numbers are known one by one; null where they are not. */
function summed(all) {
  if (!all.length || all.some((data) => !data || data.numbers === undefined)) return null;
  const add = (a, b) => (Array.isArray(a) ? a.map((part, i) => add(part, b[i])) : Number(a) + Number(b));
  const numbers = all.map((data) => data.numbers).reduce(add);
  return described({ shape: all[0].shape, numbers });
}

/** Data with its least, largest and mean number, and its norm. */
function described(data) {
  const flat = [data.numbers].flat(Infinity);
  const finite = flat.filter((number) => Number.isFinite(number));
  return {
    ...data,
    min: Math.min(...finite),
    max: Math.max(...finite),
    mean: finite.reduce((a, b) => a + b, 0) / finite.length,
    norm: Math.hypot(...finite),
    nonfinite: flat.length - finite.length,
  };
}

/** How many steps of a loop the data tells of, and the number of each. */
function stepsOf(data, steps) {
  if (data.each) return data.each.map((one) => one.step);
  const count = data.shape.slice(0, steps).reduce((a, b) => a * b, 1);
  return data.numbers === undefined ? [] : Array.from({ length: count }, (_, i) => i);
}

/** One step of a loop's data; the data itself where it has no steps. */
function atStep(data, steps, chosen) {
  const last = data && steps ? stepsOf(data, steps).length - 1 : -1;
  if (last < 0) return data;
  const position = Math.min(chosen, last);
  if (data.each) return data.each[position];
  return described({ shape: data.shape.slice(steps), numbers: data.numbers.flat(steps - 1)[position] });
}

/** Between blue for negative and red for positive, by way of the paper. */
function tint(number, scale) {
  if (!Number.isFinite(number)) return [255, 0, 255, 255];
  const part = scale > 0 ? Math.max(-1, Math.min(1, number / scale)) : 0;
  return [...(part < 0 ? [46, 110, 200] : [214, 84, 48]), Math.round(255 * Math.abs(part))];
}

const css = ([red, green, blue, alpha]) => `rgba(${red}, ${green}, ${blue}, ${(alpha / 255 * 0.6).toFixed(3)})`;

/** A value, as numbers where they are known one by one, else as a heat map and a histogram. */
function shown(data, label) {
  if (!data) return element("p", { class: "absent" }, "numbers not known");
  const facts = element("p", { class: "facts" },
    data.min === null ? "" : `min ${short(data.min)}, max ${short(data.max)}, mean ${short(data.mean)}, norm ${short(data.norm)} `,
    data.nonfinite ? element("strong", {}, `${data.nonfinite} not finite`) : null);
  if (data.numbers === undefined) {
    return element("div", { class: "large" }, heatMap(data, label), histogram(data, label), facts);
  }
  if (!Array.isArray(data.numbers)) {
    return element("p", { class: "scalar" }, short(data.numbers));
  }
  return table(data, label);
}

/** Numbers as a table: the last axis is a row. */
function table(data, label) {
  let rows = data.numbers;
  if (!Array.isArray(rows[0])) rows = [rows];
  while (Array.isArray(rows[0]?.[0])) rows = rows.flat(1);
  const scale = Math.max(Math.abs(data.min), Math.abs(data.max));
  return element("div", { class: "numbers", tabindex: "0", role: "group", "aria-label": `numbers of ${label}` }, element("table", {}, rows.map((row) =>
    element("tr", {}, row.map((number) => {
      const cell = element("td", {}, short(number, 3));
      cell.style.backgroundColor = css(tint(Number(number), scale));
      return cell;
    })))));
}

/** Pixels as a canvas, one for each number or for each of a sample. */
function heatMap(data, label) {
  const { rows, columns, pixels } = data.image;
  const bytes = atob(pixels);
  const canvas = element("canvas", { width: columns, height: rows, role: "img", "aria-label": `heat map of ${label}` });
  const scale = Math.max(Math.abs(data.min), Math.abs(data.max));
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const number = data.min === null ? NaN : data.min + (bytes.charCodeAt(i) / 255) * (data.max - data.min);
    image.data.set(tint(number, scale), 4 * i);
  }
  context.putImageData(image, 0, 0);
  canvas.style.aspectRatio = `${Math.max(columns, rows / 3)} / ${Math.max(rows, columns / 12)}`;
  return canvas;
}

/** Counts as bars over their edges. */
function histogram(data, label) {
  const { counts, edges } = data.histogram;
  if (!counts.length) return element("span");
  const most = Math.max(...counts, 1);
  const bars = element("div", { class: "bars", role: "img", "aria-label": `histogram of ${label}` },
    counts.map((count, i) => {
      const bar = element("span", { title: `${short(edges[i])} to ${short(edges[i + 1])}: ${count}` });
      bar.style.height = `${count ? Math.max(3, (100 * count) / most) : 0}%`;
      return bar;
    }));
  return element("figure", {}, bars,
    element("figcaption", {}, element("span", {}, short(edges[0])), element("span", {}, short(edges[edges.length - 1]))));
}
