// The ladder of a sentence: a rung for every layer, what was seen at those that ran, and where it left and why.

import { element, plural, short, sum } from "./page.js";

/** The small gauge of a depth: so many of so many layers, as bars. */
export function gauge(exitLayer, numLayers) {
  const bars = Array.from({ length: numLayers }, (_, index) =>
    element("i", { class: index < exitLayer - 1 ? "ran" : index === exitLayer - 1 ? "ran left" : "" }),
  );
  return element("span", { class: "gauge", "aria-hidden": "true" }, bars);
}

/** The cards of the sentences of an answer, one by one. */
export function ladders(answer, points, hueOf, strategies) {
  const { exit_policy: policy, num_layers: numLayers, sequences } = answer;
  const strategy = strategies.of(policy);
  const axis = commonAxis(strategy, sequences);
  const view = { points, hueOf, numLayers, strategy, axis, consistencyScale: strategies.consistencyScale(policy) };
  return sequences.map((sequence, index) => card(sequence, index + 1, view));
}

function card(sequence, number, view) {
  const { points, numLayers, strategy } = view;
  const depth = `left at layer ${sequence.exit_layer} of ${numLayers}`;
  return element(
    "article",
    { class: "card sentence", id: `sentence-${number}`, tabindex: "-1", "aria-labelledby": `sentence-${number}-title` },
    element(
      "h3",
      { id: `sentence-${number}-title` },
      gauge(sequence.exit_layer, numLayers),
      `Sentence ${number} ${depth}`,
    ),
    element("p", { class: "why" }, strategy.why(sequence, numLayers)),
    sequence.word_layers
      ? depths(sequence, numLayers, points)
      : element("p", { class: "quote", dir: "auto" }, points.slice(sequence.start, sequence.end)),
    table(sequence, number, view),
  );
}

/** The sentence with a bar below every word, the longer, the deeper the word went, and the mean over its words. */
function depths({ start, end, word_layers: words }, numLayers, points) {
  const parts = [];
  let position = start;
  for (const word of words) {
    const said = `${points.slice(word.start, word.end)}: layer ${word.layer}`;
    const bar = element("i", { "aria-hidden": "true" });
    const attributes = { class: "word", "--depth": percent(word.layer / numLayers), title: said };
    parts.push(points.slice(position, word.start));
    parts.push(element("span", attributes, points.slice(word.start, word.end), bar, unseen(` layer ${word.layer}`)));
    position = word.end;
  }
  const mean = sum(words.map(({ layer }) => layer)) / words.length;
  return element(
    "div",
    {},
    element("p", { class: "depths", dir: "auto" }, parts, points.slice(position, end)),
    element("p", { class: "soft" }, `${short(mean, 3)} layers a word, of ${numLayers}`),
  );
}

const unseen = (text) => element("span", { class: "unseen" }, text);

function table(sequence, number, view) {
  const { numLayers, strategy, axis } = view;
  const rows = sequence.trace.map((item, index) =>
    rung(item, sequence.trace[index - 1], sequence.trace[index + 1], sequence.exit_layer, view),
  );
  const saved = numLayers - sequence.exit_layer;
  const heads = [
    element("th", { scope: "col", class: "layer" }, "Layer"),
    element("th", { scope: "col", class: "decision" }, strategy.display.title, axis && thresholdNames(strategy, axis)),
    element("th", { scope: "col", class: "agreement" }, "Agrees with", layerNumbers(numLayers)),
    element("th", { scope: "col", class: "entropy" }, "Entropy", element("span", { class: "below" }, "largest, mean")),
    element("th", { scope: "col", class: "found" }, "Entities"),
  ];
  return element(
    "table",
    { class: axis ? "ladder" : "ladder plain", "--earlier": Math.max(1, numLayers - 1) },
    element("caption", { class: "unseen" }, `What every layer saw in sentence ${number}`),
    element("thead", {}, element("tr", {}, heads)),
    element("tbody", {}, rows, saved ? skipped(sequence.exit_layer, numLayers) : null),
  );
}

function rung(item, before, after, exitLayer, view) {
  const isExit = item.layer === exitLayer;
  return element(
    "tr",
    { class: isExit ? "rung exit" : "rung" },
    element(
      "th",
      { scope: "row", class: "layer" },
      element("span", { class: "node" }, item.layer),
      isExit ? element("span", { class: "left-here" }, "left") : null,
    ),
    decision(item, before, after, view),
    agreement(item, view),
    entropy(item),
    found(item, before, view),
  );
}

/** The layers that never ran, as one row of empty rungs. */
function skipped(exitLayer, numLayers) {
  const count = numLayers - exitLayer;
  const which = count === 1 ? `Layer ${numLayers}` : `Layers ${exitLayer + 1} to ${numLayers}`;
  const nodes = Array.from({ length: count }, () => element("i", {}));
  return element(
    "tr",
    { class: "skipped" },
    element("td", { class: "layer" }, element("span", { class: "nodes", "aria-hidden": "true" }, nodes)),
    element(
      "td",
      { colspan: 4 },
      `${which} never ran: ${Math.round((100 * count) / numLayers)} % of the layers saved`,
    ),
  );
}

// ---- what decides: every number on one axis, where right of the threshold means leaving

/** The range that all values and thresholds of an answer span; null for a strategy of which nothing is drawn. */
function commonAxis(strategy, sequences) {
  const { scale, thresholds } = strategy;
  const items = sequences.flatMap((sequence) => sequence.trace);
  if (!scale || !items.length) return null;
  const seen = [...items.flatMap((item) => strategy.values(item)), ...thresholds.map(({ value }) => value)];
  const places = seen.map((value) => scale.place(value));
  const [low, high] = [Math.min(...places), Math.max(...places)];
  const margin = Math.max(0.12 * (high - low), 0.25);
  return (value) => (scale.place(value) - low + margin) / (high - low + 2 * margin);
}

const percent = (fraction) => `${(100 * fraction).toFixed(2)}%`;

function thresholdNames({ thresholds }, axis) {
  return element(
    "span",
    { class: "track names", "aria-hidden": "true" },
    thresholds.map(({ name, value, text }) => element("span", { "--at": percent(axis(value)) }, `${name} ${text}`)),
  );
}

function decision(item, before, after, view) {
  return element(
    "td",
    { class: "decision" },
    element("span", { class: "note" }, view.strategy.note(item)),
    view.axis && track(item, before, after, view),
  );
}

function track(item, before, after, { strategy, axis }) {
  const places = strategy.thresholds.map(({ value }) => percent(axis(value)));
  const lines = places.map((place) => element("span", { class: "tau", "--at": place }));
  const dots = strategy.values(item).map((value) =>
    element("span", { class: strategy.passes(value) ? "dot passes" : "dot", "--at": percent(axis(value)) }),
  );
  const zone = element("span", { class: "zone", "--at": places[0] });
  const steps = strategy.display.shown === "evidence" ? staircase(item, before, after, strategy, axis) : [];
  return element("span", { class: "track", "aria-hidden": "true" }, zone, lines, steps, dots);
}

/** The way from the number of the layer before to this one's, and on to the next: down, and aside between two rungs. */
function staircase(item, before, after, strategy, axis) {
  const at = (other) => (other && strategy.values(other).length ? axis(strategy.values(other)[0]) : null);
  const [last, here, next] = [at(before), at(item), at(after)];
  if (here === null) return [];
  const aside = { "--at": percent(Math.min(last, here)), "--wide": percent(Math.abs(last - here)) };
  return [
    last === null ? null : element("span", { class: "aside", ...aside }),
    last === null ? null : element("span", { class: "down to", "--at": percent(here) }),
    next === null ? null : element("span", { class: "down from", "--at": percent(here) }),
  ];
}

// ---- what else was seen

function layerNumbers(numLayers) {
  const numbers = Array.from({ length: numLayers - 1 }, (_, index) => element("span", {}, index + 1));
  return element("span", { class: "cells numbers", "aria-hidden": "true" }, numbers);
}

/** A cell for each earlier layer: the fuller, the nearer the two layers' answers; ticked where it is a vote. */
function agreement(item, { strategy, consistencyScale }) {
  const said = item.consistency.map((value, index) => {
    const vote = { true: ", a vote", false: ", no vote" }[strategy.isVote(value)] ?? "";
    return `layer ${index + 1}: ${short(value, 2)}${vote}`;
  });
  const cells = item.consistency.map((value, index) =>
    element("i", {
      class: strategy.isVote(value) ? "vote" : "",
      "--near": percent(nearness(value, consistencyScale)),
      title: said[index],
    }),
  );
  if (!cells.length) return element("td", { class: "agreement" }, element("span", { class: "unseen" }, "nothing yet"));
  return element(
    "td",
    { class: "agreement" },
    element("span", { class: "cells", role: "img", "aria-label": said.join("; ") }, cells),
  );
}

/** 0 for a doubt of 0.03 and more, 1 for one of 0.0001 and less; 0 without a scale. */
function nearness(value, scale) {
  if (!scale) return 0;
  const place = scale.place(value);
  return Math.min(1, Math.max(0, scale.isEven ? 1 + place : (place - 1.5) / 2.5));
}

/** Two bars on a square-root scale, so that small ones show: the mean over the cells, and the least certain cell. */
function entropy(item) {
  const said = `mean ${short(item.entropy_mean, 2)}, largest ${short(item.entropy_max, 2)}`;
  return element(
    "td",
    { class: "entropy" },
    element(
      "span",
      { class: "bars", role: "img", "aria-label": said, title: said },
      element("i", { class: "largest", "--share": percent(Math.sqrt(item.entropy_max)) }),
      element("i", { class: "mean", "--share": percent(Math.sqrt(item.entropy_mean)) }),
    ),
    element("span", { class: "number", "aria-hidden": "true" }, short(item.entropy_max, 2)),
  );
}

/** The entities: all of the first layer's, and of every other what changed. */
function found(item, before, { points, hueOf }) {
  const changes = entityChanges(before?.entities ?? [], item.entities);
  const chips = changes.map(({ entity, kind, was }) =>
    element(
      "li",
      { class: `chip ${hueOf(entity.label)} ${kind}`, title: `probability ${short(entity.score, 2)}` },
      before && kind === "new" ? element("span", { class: "sign" }, "+ ") : null,
      kind === "gone" ? element("span", { class: "sign" }, "\u2212 ") : null,
      element("span", { class: "words", dir: "auto" }, points.slice(entity.start, entity.end)),
      element("span", { class: "tag" }, was ? `${was} → ${entity.label}` : entity.label),
    ),
  );
  const none = item.entities.length ? `the same ${item.entities.length === 1 ? "one" : item.entities.length}` : "none";
  return element(
    "td",
    { class: "found" },
    chips.length ? element("ul", {}, chips) : element("span", { class: "same" }, none),
  );
}

/** What differs between the entities of two answers: new, gone, or of another label (`was`). */
export function entityChanges(before, after) {
  const place = ({ start, end }) => `${start}-${end}`;
  const old = new Map(before.map((entity) => [place(entity), entity]));
  const now = new Set(after.map(place));
  return [
    ...after.flatMap((entity) => {
      const was = old.get(place(entity))?.label;
      if (was === entity.label) return [];
      return [{ entity, kind: was ? "changed" : "new", was }];
    }),
    ...before.filter((entity) => !now.has(place(entity))).map((entity) => ({ entity, kind: "gone" })),
  ];
}
