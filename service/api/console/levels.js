// What every calibrated level gives on the traffic: expected by calibration, measured on samples, certified or not.

import { byId, element, plural, say } from "./page.js";

/** What is promised, in a sentence; "" while nothing is. `found` is of GET /exit-policy/levels. */
export function promised({ promise, levels }) {
  if (!promise) return "";
  const certified = levels.filter((level) => level.certified).length;
  const tested = levels.filter((level) => level.certified !== null).length;
  const alarms = promise.alarms ? `, ${plural(promise.alarms, "alarm")}` : "";
  return (
    `Promised: at most ${promise.max_disagreement} F1 away from full depth, at a confidence of ${promise.confidence}. ` +
    `${certified} of ${plural(tested, "level")} certified by ${plural(promise.samples, "sample")}${alarms}. ` +
    "Applying a policy here ends it."
  );
}

/** Fill the table; nothing is shown where nothing is sampled. */
export function showLevels({ sampling, levels }) {
  byId("levels").hidden = !sampling || !levels.length;
  if (byId("levels").hidden) return;
  const { samples, sentences } = sampling;
  say(byId("levels-note"), `${plural(samples, "sample")} of ${plural(sentences, "sentence")}; intervals of 95 %`);
  byId("levels-rows").replaceChildren(...levels.map(row));
}

function row({ parameters, preset, expected, measured, certified }) {
  const origin = preset ?? (parameters.fit ? `fit ${parameters.fit}` : null);
  const speedup = `${expected.speedup_latency.toFixed(1)}×`;
  const has = measured && measured.average_exit_layer !== null;
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, speedup, origin ? element("span", { class: "below" }, origin) : null),
    element("td", {}, expected.average_exit_layer.toFixed(2)),
    element("td", {}, has ? ranged(measured.average_exit_layer, measured.average_exit_layer_interval, 2) : "–"),
    element("td", {}, has ? ranged(measured.agreement, measured.agreement_interval, 3) : "–"),
    element("td", {}, { true: "yes", false: "not yet" }[certified] ?? "–"),
  );
}

function ranged(value, [low, high], digits) {
  const interval = `${low.toFixed(digits)} – ${high.toFixed(digits)}`;
  return [value === null ? "–" : value.toFixed(digits), element("span", { class: "below" }, interval)];
}
