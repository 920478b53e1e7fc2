// What the service as a whole does, from two readings of GET /metrics: the difference is what happened in between.

import { drawing, figure } from "./page.js";

const WINDOW_S = 30; // the figures are of so long; the lines beside them show every reading of two minutes
const KEPT_S = 120;

/** Prometheus' text, as far as it is needed here -> the totals of all series of a name, and buckets by upper bound. */
export function parseMetrics(text) {
  const totals = new Map();
  const buckets = new Map();
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (!name) continue;
    totals.set(name, (totals.get(name) ?? 0) + Number(value));
    const bound = /le="([^"]+)"/.exec(labels)?.[1];
    if (!bound) continue;
    if (!buckets.has(name)) buckets.set(name, new Map());
    const of = buckets.get(name);
    const upper = bound === "+Inf" ? Infinity : Number(bound);
    of.set(upper, (of.get(upper) ?? 0) + Number(value));
  }
  return { totals, buckets };
}

/** The value below which `fraction` of the observations lie; cumulative counts by upper bound; NaN for none. */
export function quantile(fraction, counts) {
  const bounds = [...counts.keys()].sort((a, b) => a - b);
  const rank = fraction * (counts.get(bounds.at(-1)) ?? 0);
  if (!(rank > 0)) return NaN;
  let [lower, below] = [0, 0];
  for (const upper of bounds) {
    const count = counts.get(upper);
    if (count >= rank) return upper === Infinity ? lower : lower + ((upper - lower) * (rank - below)) / (count - below);
    [lower, below] = [upper, count];
  }
  return lower;
}

const REQUESTS = "ner_request_duration_seconds";
const LAYERS = "ner_layers_executed_total"; // of a sequence whose words halt one by one, the mean over its words
const SEQUENCES = "ner_sequences_total";

/** What happened between two readings {at, totals, buckets}; `at` is in seconds. */
export function between(before, after) {
  const grown = (name) => (after.totals.get(name) ?? 0) - (before.totals.get(name) ?? 0);
  const earlier = before.buckets.get(`${REQUESTS}_bucket`) ?? new Map();
  const durations = new Map();
  for (const [bound, count] of after.buckets.get(`${REQUESTS}_bucket`) ?? []) {
    durations.set(bound, count - (earlier.get(bound) ?? 0));
  }
  return {
    seconds: after.at - before.at,
    requests: grown(`${REQUESTS}_count`),
    layer: grown(LAYERS) / grown(SEQUENCES),
    p95Ms: 1000 * quantile(0.95, durations),
    perSecond: grown(`${REQUESTS}_count`) / (after.at - before.at),
  };
}

/** Readings of the last minutes. A server that started anew counts from 0 again, so what was before is dropped. */
export class History {
  readings = [];

  add(reading) {
    const last = this.readings.at(-1);
    const count = ({ totals }) => totals.get(`${REQUESTS}_count`) ?? 0;
    if (last && count(reading) < count(last)) this.readings = [];
    this.readings.push(reading);
    this.readings = this.readings.filter(({ at }) => reading.at - at <= KEPT_S);
  }

  /** Of the window, or of as much of it as has been read; null before the second reading. */
  get now() {
    const last = this.readings.at(-1);
    const first = this.readings.find(({ at }) => last.at - at <= WINDOW_S);
    return first && first !== last ? between(first, last) : null;
  }

  /** Between every reading and the next. */
  get course() {
    return this.readings.slice(1).map((reading, index) => between(this.readings[index], reading));
  }
}

/** Whose figures they are. */
export function spoken({ now }) {
  if (!now) return "reading";
  const window = `in the last ${Math.round(now.seconds)} s`;
  return now.requests ? `all requests ${window}` : `no requests ${window}`;
}

/** The three figures with their lines. `numLayers` is what the average is out of, if that is known. */
export function figures(history, numLayers) {
  const { now, course } = history;
  const written = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
  const rate = now?.perSecond;
  return [
    figure("Average layer", written(now?.layer, 2), numLayers ? `of ${numLayers}` : "", line(course.map(({ layer }) => layer))),
    figure("p95", written(now?.p95Ms, now?.p95Ms < 10 ? 1 : 0), "ms", line(course.map(({ p95Ms }) => p95Ms))),
    figure("Rate", written(rate, rate < 10 ? 1 : 0), "per s", line(course.map(({ perSecond }) => perSecond))),
  ];
}

/** A line through values at even distances, from 0 to the largest; gaps where there is none. */
function line(values) {
  const largest = Math.max(...values.filter(Number.isFinite), 0) || 1;
  const slots = Math.max(values.length - 1, 1);
  let isOpen = false;
  const way = values.map((value, index) => {
    if (!Number.isFinite(value)) return (isOpen = false) || "";
    const point = `${((100 * index) / slots).toFixed(1)} ${(22 - (20 * value) / largest).toFixed(1)}`;
    const step = isOpen ? `L${point}` : `M${point}h.1`;
    isOpen = true;
    return step;
  });
  return drawing(
    "svg",
    { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" },
    drawing("path", { d: way.join(""), "vector-effect": "non-scaling-stroke" }),
  );
}
