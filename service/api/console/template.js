// Sentences of the server's with gaps for values: {tau}, {patience|vote}, {0|entity|entities} and {0?same:changed}.

import { plural } from "./page.js";

const GAP = /\{(\w+)(?:\|([^{}]+)|\?([^{}:]*):([^{}]*))?\}/g;

/**
 * The template with its gaps filled: a value as `write` has it, one that is counted ("1 vote", "2 votes"), or the first
 * of two texts where the value is 1. Empty if a value is not there, as at a layer before anything was measured.
 */
export function fill(template, values, write) {
  let isWhole = true;
  const text = template.replace(GAP, (_, name, counted, one, other) => {
    const value = values[name] ?? null;
    if (value === null) isWhole = false;
    else if (counted) return plural(value, ...counted.split("|"));
    else if (one !== undefined) return value === 1 ? one : other;
    return isWhole ? write(name, value) : "";
  });
  return isWhole ? text : "";
}
