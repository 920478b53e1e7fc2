// The exit strategies as GET /exit-policy/strategies describes them. No strategy, parameter or measure is known here.

import { plural, short } from "./page.js";
import { Scale } from "./scale.js";
import { fill } from "./template.js";

/** A text of the server's, or a parameter's name, as readers see it. */
export const spelled = (text) => text.replace(/\btau\b/g, "τ");

/** Whether a policy, of which perhaps not all is known, may have these values. */
const mayHave = (policy, values) => Object.entries(values).every(([name, value]) => (policy[name] ?? value) === value);

export class Strategies {
  constructor(descriptions) {
    this.descriptions = descriptions;
  }

  /** The strategy of a policy. */
  of(policy) {
    return new Strategy(
      this.descriptions.find(({ strategy }) => strategy === policy.strategy),
      policy,
    );
  }

  /** The scale of consistencies under a policy; where it does not decide by them, that of the default one which does. */
  consistencyScale(policy) {
    const own = this.of(policy);
    if (own.display.shown === "consistency") return own.scale;
    const description = this.descriptions.find(({ display }) => display.shown === "consistency");
    return description ? new Strategy(description, {}).scale : null;
  }
}

/** A strategy under a policy, of which perhaps only some is known: its parameters, and its decisions in words. */
class Strategy {
  constructor(description, policy) {
    const { display, calibrated_by: calibratedBy, variants } = description;
    Object.assign(this, { description, display, calibratedBy, variants, policy });
  }

  get name() {
    return this.description.strategy;
  }

  get hint() {
    return spelled(this.description.meaning);
  }

  // ---- parameters

  get parameters() {
    return this.description.parameters.map(({ name }) => this.parameter(name));
  }

  /** A parameter as it is under the policy; where that leaves several variants, the one of the defaults if it is among them. */
  parameter(name) {
    const { parameters } = this.description;
    const defaults = Object.fromEntries(parameters.map((parameter) => [parameter.name, parameter.default]));
    const own = this.variants.filter(({ parameter, when }) => parameter.name === name && mayHave(this.policy, when));
    const variant = own.find(({ when }) => mayHave(defaults, when)) ?? own[0];
    return variant?.parameter ?? parameters.find((parameter) => parameter.name === name);
  }

  /** What a parameter may be under the values of those that come before it. */
  choices(name) {
    const { choices } = this.parameter(name);
    const before = this.calibratedBy.slice(0, Math.max(0, this.calibratedBy.indexOf(name)));
    const given = Object.fromEntries(before.map((other) => [other, this.policy[other]]));
    const whens = this.variants.map(({ when }) => when).filter((when) => name in when && mayHave(given, when));
    return whens.length ? choices.filter((choice) => whens.some((when) => when[name] === choice)) : choices;
  }

  /** The scale of a parameter that is a threshold; null for other parameters. */
  scaleOf(name) {
    const { scale } = this.parameter(name);
    return scale && new Scale(scale);
  }

  /** The policy with another value, and without those that do not go with it: the server knows the calibrated ones. */
  changed(name, value) {
    const changed = { ...this.policy, [name]: value };
    const at = this.calibratedBy.indexOf(name);
    if (at < 0) return changed;
    delete changed.tau;
    for (const dependent of this.calibratedBy.slice(at + 1)) {
      if (!new Strategy(this.description, changed).choices(dependent).includes(changed[dependent])) delete changed[dependent];
    }
    return changed;
  }

  /** "name, τ −0.001, patience 1": the policy in a line, without what is off or makes no difference. */
  get described() {
    const parts = Object.entries(this.policy)
      .filter(([name, value]) => name !== "strategy" && !this.#isIdle(name, value))
      .map(([name, value]) =>
        typeof value === "number" ? `${spelled(name)} ${short(value, 4)}` : value === true ? name : String(value),
      );
    return [this.name, ...parts].join(", ").replaceAll("_", " ");
  }

  #isIdle(name, value) {
    const { useful_highest: useful, default: usual } = this.parameter(name);
    return value === false || (useful !== null && value >= useful && usual > useful);
  }

  // ---- decisions

  /** The scale that what decides is drawn on; null where nothing is. */
  get scale() {
    const [first] = this.display.thresholds;
    return this.display.shown === "nothing" || !first ? null : this.scaleOf(first);
  }

  /** What is drawn of a layer: its consistency with every earlier one, or the first number of its evidence. */
  values({ consistency, evidence }) {
    return { consistency, evidence: evidence.slice(0, 1), nothing: [] }[this.display.shown];
  }

  get thresholds() {
    return this.display.thresholds.map((name) => {
      const value = this.policy[name];
      return { name: spelled(name), value, text: this.#write(name, value) };
    });
  }

  /** Whether a value is on the side of the threshold where sequences leave. */
  passes(value) {
    const threshold = this.policy[this.display.thresholds[0]];
    return this.display.leaves === "above" ? value > threshold : value < threshold;
  }

  /** Whether a layer's consistency with an earlier one is a vote; null where nobody votes. */
  isVote(consistency) {
    return this.display.shown === "consistency" ? this.passes(consistency) : null;
  }

  /** What a layer saw, in a few words. */
  note(item) {
    return this.#fill(this.display.note, item);
  }

  /** Why a sequence left where it did, in a sentence. */
  why({ exit_reason: reason, trace }, numLayers) {
    const { why, held } = this.display;
    if (reason !== "last_layer") return this.#fill(why[reason] ?? "", trace.at(-1));
    return `All ${plural(numLayers, "layer")} ran: ${this.#fill(held, trace.at(-1))}.`;
  }

  #fill(template, { evidence, votes }) {
    return fill(template, { ...evidence, votes, ...this.policy }, (name, value) => this.#write(name, value));
  }

  /** A parameter, the first number of the evidence, or any other value as text. */
  #write(name, value) {
    if (typeof value !== "number") return String(value);
    const scale = name in this.policy ? this.scaleOf(name) : name === "0" ? this.scale : null;
    return scale ? scale.write(value) : short(value);
  }
}

/** Whether two policies have the same parameters. */
export function isSame(a, b) {
  const ordered = (object) => JSON.stringify(Object.entries(object).sort());
  return Boolean(a && b) && ordered(a) === ordered(b);
}
