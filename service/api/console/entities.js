// Entities in a text: code points to JavaScript's UTF-16, spans to a tree, the tree to marked text.

import { element } from "./page.js";

/** A text that is cut by code points, as the service counts; JavaScript's strings count UTF-16 units. */
export class CodePoints {
  constructor(text) {
    this.text = text;
    this.units = [0]; // where each code point begins, and where the last one ends
    for (const character of text) this.units.push(this.units.at(-1) + character.length);
  }

  get length() {
    return this.units.length - 1;
  }

  slice(start, end) {
    return this.text.slice(this.units[start], this.units[end]);
  }
}

/** Entities as a tree: each with the `inner` ones that it contains, and `height`, the nesting within. */
export function nest(entities) {
  const roots = [];
  const open = [];
  for (const entity of [...entities].sort((a, b) => a.start - b.start || b.end - a.end)) {
    const node = { ...entity, inner: [], height: 0 };
    while (open.length && open.at(-1).end < node.end) open.pop();
    (open.at(-1)?.inner ?? roots).push(node);
    open.push(node);
  }
  const measure = (node) => (node.height = Math.max(0, ...node.inner.map((child) => measure(child) + 1)));
  roots.forEach(measure);
  return roots;
}

const NUM_HUES = 8;
const FAMILIAR = ["PER", "LOC", "ORG", "MISC", "GPE", "FAC", "VEH"];

/** A class for every label: the familiar ones always have the same, others take what is left, in turn. */
export function hues(labels) {
  const others = labels.filter((label) => !FAMILIAR.includes(label));
  const taken = labels.filter((label) => FAMILIAR.includes(label)).map((label) => FAMILIAR.indexOf(label));
  const free = [...Array(NUM_HUES).keys()].filter((hue) => !taken.includes(hue));
  const of = new Map(others.map((label, index) => [label, free[index % free.length]]));
  return (label) => `hue-${of.get(label) ?? Math.max(0, FAMILIAR.indexOf(label))}`;
}

/** The text with its entities marked, nested ones nested; `stops`, {at, node}, stand in the text at their place. */
export function marked(points, entities, hueOf, stops = []) {
  const parts = [];
  const waiting = [...stops];
  const plain = (start, end) => {
    while (waiting.length && waiting[0].at <= end) {
      const { at, node } = waiting.shift();
      if (at > start) parts.push(points.slice(start, at));
      parts.push(node);
      start = Math.max(start, at);
    }
    parts.push(points.slice(start, end));
  };
  let position = 0;
  for (const root of nest(entities)) {
    plain(position, root.start);
    parts.push(mark(points, root, hueOf));
    position = root.end;
  }
  plain(position, points.length);
  return parts;
}

function mark(points, node, hueOf) {
  const parts = [];
  let position = node.start;
  for (const child of node.inner) {
    parts.push(points.slice(position, child.start), mark(points, child, hueOf));
    position = child.end;
  }
  parts.push(points.slice(position, node.end));
  const classes = `entity ${hueOf(node.label)} height-${Math.min(node.height, 3)}`;
  const said = `${node.label}, probability ${node.score.toFixed(2)}, characters ${node.start} to ${node.end}`;
  return element("mark", { class: classes, title: said }, parts, element("span", { class: "tag" }, `\u00a0${node.label}`));
}
