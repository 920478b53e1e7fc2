// The fields of a policy's parameters: sliders for thresholds and counts, choices for names, boxes for what is on or off.

import { byId, element, minus, short } from "./page.js";
import { spelled } from "./strategies.js";

const ENDS_OF_A_THRESHOLD = ["leaves later", "leaves earlier"];
const titled = (name) => (name === "tau" ? "Threshold τ" : name[0].toUpperCase() + name.slice(1).replaceAll("_", " "));
const isCounted = ({ useful_highest: useful }) => useful !== null;

export class Fields {
  /** onChange: called with the name of a parameter and the value that the reader gave it. */
  constructor(onChange) {
    this.onChange = onChange;
    this.built = { strategy: "", names: [] }; // which fields there are
  }

  /** Show a strategy's policy, or what is known of it. The fields of a strategy stay, so that none loses the focus. */
  show(strategy) {
    this.strategy = strategy;
    const known = strategy.parameters.filter(({ name }) => name in strategy.policy); // the answer to come will tell the rest
    const names = known.map(({ name }) => name);
    const box = byId("parameters");
    if (strategy.name !== this.built.strategy || names.some((name) => !this.built.names.includes(name))) {
      this.built = { strategy: strategy.name, names };
      box.replaceChildren(...known.map((parameter) => this.#field(parameter)));
    }
    for (const parameter of known) {
      for (const node of box.querySelectorAll(`[data-parameter="${parameter.name}"]`)) this.#fill(node, parameter);
    }
  }

  /** The label, what the value is set with, and what it means: a title for who points at it, a description for who listens. */
  #field(parameter) {
    const { name } = parameter;
    const id = `parameter-${name}`;
    const hasSlider = parameter.scale || isCounted(parameter);
    return element(
      "div",
      { "data-parameter": name },
      element(
        "div",
        { class: "label-line" },
        element("label", { for: id }, titled(name)),
        hasSlider ? this.#reading(parameter, id) : this.#control(parameter, id),
      ),
      hasSlider ? this.#slider(parameter, id) : null,
      element("span", { hidden: true, id: `${id}-meaning`, "data-parameter": name }), // read out all the same
    );
  }

  #control(parameter, id) {
    const { name, kind } = parameter;
    const bound = { id, "data-parameter": name, "aria-describedby": `${id}-meaning` };
    const change = (read) => (event) => this.onChange(name, read(event.target));
    if (kind === "choice") return element("select", { ...bound, onchange: change(({ value }) => value) });
    if (kind === "flag") {
      return element("input", { ...bound, type: "checkbox", onchange: change(({ checked }) => checked) });
    }
    return element("input", { ...bound, ...this.#exact(parameter) });
  }

  #exact({ name, lowest, step }) {
    const change = ({ target }) => target.value !== "" && this.onChange(name, Number(target.value));
    const counted = step === null ? { step: "any" } : { min: lowest, step };
    return { "data-parameter": name, type: "number", ...counted, onchange: change };
  }

  /** Beside a slider: its number, which can be typed for a threshold. */
  #reading(parameter, id) {
    const { name } = parameter;
    if (isCounted(parameter)) return element("output", { for: id, "data-parameter": name });
    return element("input", { ...this.#exact(parameter), class: "exact", "aria-label": `${titled(name)}, exactly` });
  }

  #slider(parameter, id) {
    const { name } = parameter;
    const slide = ({ target }) => {
      const place = Number(target.value);
      this.onChange(name, isCounted(parameter) ? place : this.strategy.scaleOf(name).value(-place));
    };
    const ends = parameter.scale ? ENDS_OF_A_THRESHOLD : (parameter.ends ?? []);
    const described = `${id}-meaning ${id}-ends`;
    return [
      element("input", { id, type: "range", "data-parameter": name, oninput: slide, "aria-describedby": described }),
      element("p", { class: "ends soft", id: `${id}-ends` }, ...ends.map((text) => element("span", {}, text))),
    ];
  }

  /** Put a parameter's value into one of the elements that show it, and its meaning into those that tell that. */
  #fill(node, parameter) {
    const { name, meaning, unit, lowest, useful_highest: useful } = parameter;
    const value = this.strategy.policy[name];
    const said = spelled(unit ? `${meaning} (${unit})` : meaning);
    if (node.tagName === "DIV") node.title = said;
    else if (node.tagName === "SPAN") node.textContent = said;
    else if (node.tagName === "OUTPUT") node.textContent = Math.min(value, useful);
    else if (node.tagName === "SELECT") this.#choose(node, name, value);
    else if (node.type === "checkbox") node.checked = value;
    else if (node.type !== "range") node.value = value;
    else if (isCounted(parameter)) Object.assign(node, { min: lowest, max: useful, value });
    else {
      const scale = this.strategy.scaleOf(name);
      const [never, first] = scale.ends;
      Object.assign(node, { min: -never, max: -first, step: 0.05, value: -scale.place(value) });
      node.setAttribute("aria-valuetext", minus(short(value, 4)));
    }
  }

  #choose(node, name, value) {
    const choices = this.strategy.choices(name);
    if (choices.join() !== [...node.options].map((option) => option.value).join()) {
      node.replaceChildren(
        ...choices.map((choice) => element("option", { value: choice }, choice.replaceAll("_", " "))),
      );
    }
    node.value = value;
  }
}
