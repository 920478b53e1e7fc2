// The fields of a policy's parameters: sliders for thresholds and counts, choices for names, boxes for what is on or off.

import { CHOICES, COUNTS, thresholdScale } from "./strategies.js";
import { byId, element, minus, short } from "./page.js";

const spelled = (name) => (name === "tau" ? "Threshold τ" : name[0].toUpperCase() + name.slice(1).replaceAll("_", " "));

const ENDS = {
  threshold: ["leaves later", "leaves earlier"],
  patience: ["leaves earlier", "leaves later"],
  layer: ["first", "last"],
  deepest_exit: ["the first layer alone", "any layer"],
};
const end = (text) => element("span", {}, text);
const line = (label, field) => element("div", { class: "label-line" }, label, field);

export class Fields {
  /** onChange: called with the name of a parameter and the value that the reader gave it. */
  constructor(onChange) {
    this.onChange = onChange;
    this.built = { strategy: "", names: [] }; // which fields there are
  }

  /** Show a policy, or as much of it as is known. The fields of a strategy stay, so that none loses the focus. */
  show(policy, numLayers) {
    this.policy = policy;
    this.numLayers = numLayers;
    const { strategy, ...parameters } = policy;
    const names = Object.keys(parameters);
    const box = byId("parameters");
    if (strategy !== this.built.strategy || names.some((name) => !this.built.names.includes(name))) {
      this.built = { strategy, names };
      box.replaceChildren(...names.map((name) => this.#field(name)));
    }
    for (const node of box.querySelectorAll("[data-parameter]")) this.#fill(node);
  }

  #field(name) {
    const id = `parameter-${name}`;
    const label = element("label", { for: id }, spelled(name));
    const bind = (attributes) => ({ "data-parameter": name, ...attributes });
    const value = this.policy[name];
    if (name in CHOICES) {
      const options = CHOICES[name].map((choice) => element("option", { value: choice }, choice.replaceAll("_", " ")));
      const change = ({ target }) => this.onChange(name, target.value);
      return line(label, element("select", bind({ id, onchange: change }), options));
    }
    if (typeof value === "boolean") {
      const change = ({ target }) => this.onChange(name, target.checked);
      return line(label, element("input", bind({ id, type: "checkbox", onchange: change })));
    }
    const change = ({ target }) => target.value !== "" && this.onChange(name, Number(target.value));
    const exact = { type: "number", step: "any", onchange: change };
    const scale = thresholdScale(name, this.policy);
    const isCount = name in COUNTS;
    if (!scale && !isCount) return line(label, element("input", bind({ id, ...exact })));
    const slide = ({ target }) => {
      const place = Number(target.value);
      this.onChange(name, isCount ? place : thresholdScale(name, this.policy).value(-place));
    };
    const hint = `${id}-hint`;
    return element(
      "div",
      { class: "field" },
      line(
        label,
        isCount
          ? element("output", bind({ for: id }))
          : element("input", bind({ ...exact, class: "exact", "aria-label": `${spelled(name)}, exactly` })),
      ),
      element("input", bind({ id, type: "range", oninput: slide, "aria-describedby": hint })),
      element("p", { class: "ends soft", id: hint }, ...ENDS[isCount ? name : "threshold"].map(end)),
    );
  }

  /** Put a parameter's value into one of the elements that show it. */
  #fill(node) {
    const name = node.dataset.parameter;
    const value = this.policy[name];
    if (value === undefined) return; // the answer to come will tell
    const most = COUNTS[name]?.(this.numLayers);
    if (node.tagName === "OUTPUT") node.textContent = Math.min(value, most);
    else if (node.type === "checkbox") node.checked = value;
    else if (node.type !== "range") node.value = value;
    else if (most !== undefined) Object.assign(node, { min: 1, max: most, value });
    else {
      const scale = thresholdScale(name, this.policy);
      const [never, first] = scale.ends;
      Object.assign(node, { min: -never, max: -first, step: 0.05, value: -scale.place(value) });
      node.setAttribute("aria-valuetext", minus(short(value, 4)));
    }
  }
}
