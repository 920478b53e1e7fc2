// What each exit strategy decides by: its thresholds, the scale they are drawn on, and its decision in words.
//
// A strategy that is not described here still works: its evidence is shown as numbers, its parameters as fields.

import { decimals, listed, plain, plural, short } from "./page.js";

const SMALLEST = 1e-5; // doubts below are drawn at the end of the scale

/**
 * The scale of a threshold. Its `doubt` is how far a value is from the surest there is: 0 for no doubt at all. What
 * happens near 0 matters most, so scales are logarithmic in the doubt, but where only a few values can occur.
 */
class Scale {
  constructor({ surest = 0, sign = 1, largest = 1, isEven = false }) {
    Object.assign(this, { surest, sign, largest, isEven });
  }

  /** Where a value is drawn: the larger, the nearer to leaving. */
  place(value) {
    const doubt = this.sign * (value - this.surest);
    return this.isEven ? -doubt : -Math.log10(Math.min(Math.max(doubt, SMALLEST), this.largest));
  }

  /** The value at a place, to four digits of its doubt. */
  value(place) {
    const doubt = Number((this.isEven ? -place : 10 ** -place).toPrecision(4));
    return Number((this.surest + this.sign * doubt).toPrecision(12));
  }

  /** A value as text, with three digits of its doubt: 0.0889, 0.99987. */
  write(value) {
    return plain(value, decimals(value - this.surest));
  }

  /** From the threshold that never leaves to the one that leaves first. */
  get ends() {
    return this.isEven ? [0, -this.largest] : [-Math.log10(SMALLEST), -Math.log10(this.largest)];
  }
}

const FROM_ZERO = new Scale({});
const BELOW_ONE = new Scale({ surest: 1, sign: -1 });
const BELOW_ZERO = new Scale({ sign: -1 });
const MEASURES = {
  kl: new Scale({ sign: -1, largest: 30 }),
  reverse_kl: new Scale({ sign: -1, largest: 30 }),
  js: BELOW_ZERO,
  hellinger: BELOW_ZERO,
  euclidean: new Scale({ sign: -1, largest: Math.SQRT2 }),
  cosine: BELOW_ONE,
  edit: BELOW_ZERO,
  edit_levenshtein: BELOW_ZERO,
  entity_set: new Scale({ surest: 1, sign: -1, isEven: true }),
  entity_jaccard: new Scale({ surest: 1, sign: -1, isEven: true }),
};

/** What the parameters that are names may be. */
export const CHOICES = { measure: Object.keys(MEASURES), pooling: ["mean", "max"] };
/** The parameters whose meaning another measure or pooling changes: the server knows their calibrated values. */
export const CALIBRATED_BY = { measure: ["pooling", "tau"], pooling: ["tau"] };

/** A strategy whose one number, `said` in words, must fall below tau, or with `isAbove` rise above it. */
function oneNumber(title, hint, scale, said, { isAbove = false } = {}) {
  const side = isAbove ? "above" : "below";
  return {
    title,
    hint,
    scale: () => scale,
    values: (item) => item.evidence,
    passes: (value, { tau }) => (isAbove ? value > tau : value < tau),
    thresholds: ({ tau }) => [{ name: "τ", value: tau }],
    note: (item) => item.evidence.map((value) => scale.write(value)).join(""),
    why: (item, { tau }) => `${said(scale.write(item.evidence[0]))}, ${side} τ = ${scale.write(tau)}.`,
    held: ({ tau }) => `no earlier layer came ${side} τ = ${scale.write(tau)}`,
  };
}

const LEARNED = oneNumber(
  "Worth of going on",
  "Leaves when going on is not expected to mend more than τ entity errors for the work of a layer. Nobody leaves " +
    "behind the deepest exit but at the end.",
  new Scale({ largest: 1000 }),
  (worth) => `Going on was expected to mend ${worth} entity errors for the work of a layer`,
);

const goingOn = ({ evidence }) => (evidence.length ? `${plural(evidence[0], "word")} of it` : "");

const DESCRIBED = {
  learned: {
    ...LEARNED,
    held: (policy, numLayers) =>
      policy.deepest_exit < numLayers - 1
        ? `down to layer ${policy.deepest_exit}, the deepest exit, none came below τ = ${short(policy.tau)}`
        : LEARNED.held(policy),
  },
  sentee: oneNumber(
    "Least certain cell",
    "Leaves when even the least certain cell has an entropy below τ.",
    FROM_ZERO,
    (entropy) => `The entropy of its least certain cell is ${entropy}`,
  ),
  de3: oneNumber(
    "Least certain candidate",
    "Leaves when the least certain cell that may be an entity has an entropy, weighed with its distance from what " +
      "its label looks like, below τ. The larger the weight, the more the distance counts.",
    FROM_ZERO,
    (doubt) => `Entropy and distance of its least certain candidate come to ${doubt}`,
  ),
  branchynet: oneNumber(
    "Mean entropy",
    "Leaves when the mean entropy of the cells is below τ.",
    FROM_ZERO,
    (entropy) => `The mean entropy of its cells is ${entropy}`,
  ),
  shallow_deep: oneNumber(
    "Mean confidence",
    "Leaves when the highest probability of a cell, on average, is above τ.",
    BELOW_ONE,
    (probability) => `The highest probability of its cells is ${probability} on average`,
    { isAbove: true },
  ),
  vee: {
    title: "Votes",
    hint: "Leaves when as many earlier layers as patience says agree with this one by more than τ.",
    scale: ({ measure }) => MEASURES[measure] ?? BELOW_ZERO,
    values: (item) => item.consistency,
    passes: (value, { tau }) => value > tau,
    thresholds: ({ tau }) => [{ name: "τ", value: tau }],
    note: (item, { patience }) => `${item.votes} of ${plural(patience, "vote")}`,
    why: (item, { tau, patience }) => {
      const voters = item.consistency.flatMap((value, index) => (value > tau ? [index + 1] : []));
      const who = voters.length === 1 ? `Layer ${voters[0]} agrees` : `Layers ${listed(voters)} agree`;
      return `${who} with it by more than τ = ${short(tau)}: ${plural(voters.length, "vote")}, patience ${patience}.`;
    },
    held: ({ patience, tau }) => `no earlier layer had ${plural(patience, "vote")} above τ = ${short(tau)}`,
  },
  gated_vote: {
    title: "Least certain cell, and votes",
    hint: "Leaves when the least certain cell’s entropy is below τ; or below the gate, with as many earlier layers " +
      "that found the same entities as patience says.",
    scale: () => FROM_ZERO,
    values: (item) => item.evidence.slice(0, 1),
    passes: (value, { tau }) => value < tau,
    thresholds: ({ tau, gate }) => [{ name: "τ", value: tau }, { name: "gate", value: gate }],
    note: ({ evidence }) => (evidence.length ? `${short(evidence[0])}, ${plural(evidence[1], "vote")}` : ""),
    why: ({ evidence }, { tau, gate }, reason) =>
      reason === "vote"
        ? `${plural(evidence[1], "earlier layer")} found the same entities, and the least certain cell’s entropy ` +
          `${short(evidence[0])} is below the gate ${short(gate)}.`
        : `The entropy of its least certain cell is ${short(evidence[0])}, below τ = ${short(tau)}.`,
    held: ({ tau }) => `no earlier layer was certain enough for τ = ${short(tau)}, nor had votes within the gate`,
  },
  pabee: {
    title: "Same as the layer before",
    hint: "Leaves when the entities stayed the same for as many layers in a row as patience says.",
    note: ({ layer, evidence }) => (layer === 1 || !evidence.length ? "" : evidence[0] === 1 ? "same" : "changed"),
    why: (_, { patience }) => `The entities stayed the same ${patience === 1 ? "once" : `${patience} times`} in a row.`,
    held: ({ patience }) => `the entities never stayed the same ${plural(patience, "time")} in a row`,
  },
  budgeted: {
    title: "Budget",
    hint: "Leaves at one fixed layer, whatever it says.",
    note: ({ layer }, policy) => (layer === policy.layer ? "the budget" : ""),
    why: (_, { layer }) => `The budget ends at layer ${layer}.`,
    held: () => "the budget allows it",
  },
  tokee: {
    title: "Words that go on",
    hint: "A word halts when the largest entropy of a cell that a word of its window begins or ends is below τ; " +
      "in the upper half of the layers below twice τ. A sentence leaves when all its words halt.",
    slider: () => FROM_ZERO,
    note: goingOn,
    why: (_, { tau, window }) =>
      `All its words halt: within ${plural(window, "word")} nothing was less certain than τ = ${short(tau)} allows.`,
    held: ({ tau }) => `some words never had a window that was certain enough for τ = ${short(tau)}`,
  },
  hashee: {
    title: "Words that go on",
    hint: "A hash says after which layer each word halts. It belongs to the model: there is nothing to set.",
    note: goingOn,
    why: () => "The hash lets none of its words go deeper.",
    held: () => "the hash sends a word of it to the last",
  },
  full_depth: {
    title: "Full depth",
    hint: "Never leaves early: the baseline.",
    note: () => "",
    held: () => "full depth never leaves early",
  },
};

const UNKNOWN = {
  title: "Evidence",
  hint: "",
  note: ({ evidence }) => evidence.map((value) => short(value)).join(", "),
  why: () => "Its strategy decided so.",
  held: () => "its strategy asked for no earlier exit",
};

/**
 * How a policy's strategy decides; see DESCRIBED for the parts. `scale` is missing where nothing is measured that could
 * be drawn; `slider` is the scale of a threshold all the same.
 */
export const decider = (policy) => DESCRIBED[policy.strategy] ?? UNKNOWN;

/** Why a sequence left, in a sentence. */
export function reason(sequence, policy, numLayers) {
  const { why, held } = decider(policy);
  if (sequence.exit_reason === "last_layer") return `All ${plural(numLayers, "layer")} ran: ${held(policy, numLayers)}.`;
  return why(sequence.trace.at(-1), policy, sequence.exit_reason);
}

/** The scale of a parameter that is a threshold; undefined for other parameters. */
export function thresholdScale(name, policy) {
  if (name === "tau") return (decider(policy).slider ?? decider(policy).scale)?.(policy);
  return name === "gate" ? FROM_ZERO : undefined;
}

/** The scale that consistencies are drawn on under a policy: under others than VEE they are the default measure's. */
export const consistencyScale = (policy) => MEASURES[policy.strategy === "vee" ? policy.measure : "kl"] ?? BELOW_ZERO;

/** The parameters that count layers, with the most that is worth asking for: their sliders go from 1 to that. */
export const COUNTS = { patience: (layers) => layers - 1, layer: (layers) => layers, deepest_exit: (layers) => layers - 1 };

/** Whether two policies have the same parameters. */
export function isSame(a, b) {
  const ordered = (object) => JSON.stringify(Object.entries(object).sort());
  return Boolean(a && b) && ordered(a) === ordered(b);
}

/** "vee, τ −0.001, patience 1": what a policy is, in a line; without what is off or makes no difference. */
export function described({ strategy, ...parameters }, numLayers) {
  const isIdle = (name, value) => value === false || (name === "deepest_exit" && value >= numLayers - 1);
  const parts = Object.entries(parameters)
    .filter(([name, value]) => !isIdle(name, value))
    .map(([name, value]) =>
      typeof value === "number" ? `${name === "tau" ? "τ" : name} ${short(value, 4)}` : value === true ? name : String(value),
    );
  return [strategy, ...parts].join(", ").replaceAll("_", " ");
}
