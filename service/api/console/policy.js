// The exit policy's panel: what is in force, and parameters to preview, from the slider, a preset or single fields.

import { CALIBRATED_BY, CHOICES, decider, thresholdScale } from "./strategies.js";
import { byId, drawing, element, figure, minus, say, short } from "./page.js";

const spelled = (name) => (name === "tau" ? "Threshold τ" : name[0].toUpperCase() + name.slice(1));

const isSame = (a, b) => {
  const ordered = (object) => JSON.stringify(Object.entries(object).sort());
  return Boolean(a && b) && ordered(a) === ordered(b);
};

export class PolicyPanel {
  /** onPreview: called when what is previewed has changed. */
  constructor(onPreview) {
    this.onPreview = onPreview;
    this.points = []; // the calibrated front, fastest first
    this.numLayers = 1;
    this.policy = null; // as GET /exit-policy has it, with its ETag
    this.etag = null;
    this.parameters = null; // of the policy in force
    this.preview = null; // parameters, perhaps only some: the answer completes them
    this.previewEtag = null; // of the policy in force when the preview began
    byId("speedup").addEventListener("input", ({ target }) => this.#propose(this.#nearest(Number(target.value))));
    byId("speedup").addEventListener("keydown", (event) => this.#step(event));
    byId("strategy").addEventListener("change", ({ target }) => this.#propose({ strategy: target.value }));
    byId("discard").addEventListener("click", () => this.#end(this));
  }

  /** What cannot change while the server runs. */
  setModel({ strategies, num_layers: numLayers }, points) {
    this.numLayers = numLayers;
    this.points = points;
    byId("policy").hidden = false;
    byId("strategy").replaceChildren(
      ...strategies.map((name) => element("option", { value: name }, name.replaceAll("_", " "))),
    );
    byId("speed").hidden = !points.length;
    if (points.length) this.#buildFront();
  }

  /** The policy in force, from GET /exit-policy. Fields are filled anew only if it is another: somebody may be typing. */
  setInForce({ policy, etag }) {
    const isNew = etag !== this.etag;
    Object.assign(this, { policy, etag });
    if (isNew) this.#show();
    else this.#showInForce();
  }

  /** The parameters in force, as an answer under them says. */
  setParameters(parameters) {
    this.parameters = parameters;
    this.#show();
  }

  /** The whole of what is previewed, as its answer says; it may turn out to be what is in force. */
  completePreview(parameters) {
    this.preview = isSame(parameters, this.parameters) ? null : parameters;
    this.#show();
  }

  /** The preview is in force now, as `current`. */
  applied(current) {
    this.parameters = this.preview;
    this.#end(current);
  }

  #end({ policy, etag }) {
    const hadFocus = byId("apply-form").contains(document.activeElement);
    Object.assign(this, { policy, etag, preview: null });
    this.#show();
    if (hadFocus) byId("strategy").focus();
    this.onPreview();
  }

  #propose(parameters) {
    if (!this.preview) this.previewEtag = this.etag;
    this.preview = isSame(parameters, this.parameters) ? null : parameters;
    this.#show();
    this.onPreview();
  }

  #change(name, value) {
    const changed = { ...this.#shown, [name]: value };
    for (const dependent of CALIBRATED_BY[name] ?? []) delete changed[dependent];
    this.#propose(changed);
  }

  get #shown() {
    return this.preview ?? this.parameters;
  }

  #show() {
    if (!this.policy || !this.#shown) return;
    byId("apply-form").hidden = !this.preview;
    this.#showInForce();
    this.#showFront();
    byId("strategy").value = this.#shown.strategy;
    say(byId("strategy-hint"), decider(this.#shown).hint);
    this.#showParameters();
  }

  #showInForce() {
    const { policy, parameters } = this;
    const since = new Date(policy.updated_at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
    const name = policy.preset ?? described(parameters ?? { strategy: policy.strategy });
    say(byId("in-force"), `in force: ${name}, version ${policy.version} by ${policy.updated_by} at ${since}`);
    const pilot = policy.autopilot;
    say(
      byId("autopilot"),
      pilot
        ? `Autopilot keeps p95 under ${pilot.p95_ms} ms and loses at most ${pilot.max_f1_loss} F1; it is at level ` +
            `${pilot.level}. Applying a policy here switches it off.`
        : "",
    );
  }

  // ---- the calibrated front and its slider

  #nearest(speedup) {
    const distance = (point) => Math.abs(point.speedup_latency - speedup);
    return this.points.reduce((best, point) => (distance(point) < distance(best) ? point : best)).parameters;
  }

  /** Arrow keys go from point to point. */
  #step(event) {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const bySpeed = [...this.points].sort((a, b) => a.speedup_latency - b.speedup_latency);
    const at = bySpeed.findIndex(({ speedup_latency: speedup }) => speedup >= Number(event.target.value) - 1e-9);
    const next = bySpeed[Math.min(Math.max(at + steps[event.key], 0), bySpeed.length - 1)];
    this.#propose(next.parameters);
  }

  #range(name) {
    const values = this.points.map((point) => point[name]);
    return [Math.min(...values), Math.max(...values)];
  }

  /** Where a point is drawn: faster to the right, more accurate up; in percent. */
  #placed(point) {
    const [slow, fast] = this.#range("speedup_latency");
    const [best, worst] = this.#range("f1_loss");
    const share = (value, low, high) => (high > low ? (100 * (value - low)) / (high - low) : 50);
    return [share(point.speedup_latency, slow, fast), share(point.f1_loss, best, worst)];
  }

  #buildFront() {
    const [slow, fast] = this.#range("speedup_latency");
    Object.assign(byId("speedup"), { min: slow, max: fast });
    const places = this.points.map((point) => this.#placed(point)).sort(([a], [b]) => a - b);
    const way = places.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");
    const curve = drawing(
      "svg",
      { viewBox: "0 0 100 100", preserveAspectRatio: "none" },
      drawing("path", { class: "area", d: `${way}V100H0Z` }),
      drawing("path", { class: "curve", d: way, "vector-effect": "non-scaling-stroke" }),
    );
    const dots = places.map(([x, y]) => element("span", { class: "point", "--x": `${x}%`, "--y": `${y}%` }));
    byId("front").replaceChildren(curve, ...dots);
    const presets = this.points.filter(({ preset }) => preset).reverse();
    byId("presets").replaceChildren(
      ...presets.map(({ preset, parameters, speedup_latency: speedup }) =>
        element(
          "button",
          { type: "button", "data-preset": preset, onclick: () => this.#propose(parameters) },
          preset,
          element("span", { class: "soft" }, `${speedup.toFixed(1)}×`),
        ),
      ),
    );
  }

  #showFront() {
    if (!this.points.length) return;
    const find = (parameters) => this.points.find((point) => isSame(point.parameters, parameters));
    const point = find(this.#shown);
    const mark = (of, kind) => {
      const [x, y] = this.#placed(of);
      return element("span", { class: `point ${kind}`, "--x": `${x}%`, "--y": `${y}%` });
    };
    byId("front").querySelectorAll(".here, .in-force").forEach((node) => node.remove());
    const inForce = find(this.parameters);
    if (inForce) byId("front").append(mark(inForce, "in-force"));
    if (point) byId("front").append(mark(point, "here"));
    for (const button of byId("presets").children) {
      button.setAttribute("aria-pressed", String(button.dataset.preset === point?.preset));
    }
    const expected = point ?? (this.preview ? null : this.policy.expected);
    const slider = byId("speedup");
    if (point) slider.value = point.speedup_latency;
    const said = expected ? `${expected.speedup_latency.toFixed(2)}× full depth` : "not on the calibrated front";
    slider.setAttribute("aria-valuetext", expected ? `${said}, ${minus(expected.f1_loss)} F1 lost` : said);
    byId("speedup-said").textContent = said;
    byId("expected").replaceChildren(...expectedFigures(expected, this.numLayers));
  }

  // ---- single parameters

  #showParameters() {
    const { strategy, ...parameters } = this.#shown;
    const names = Object.keys(parameters);
    const box = byId("parameters");
    const isBuilt = isSame({ strategy, names }, this.built);
    if (!isBuilt) {
      this.built = { strategy, names };
      box.replaceChildren(...names.map((name) => this.#field(name)));
    }
    for (const node of box.querySelectorAll("[data-parameter]")) this.#fill(node, this.#shown);
  }

  #field(name) {
    const id = `parameter-${name}`;
    const label = element("label", { for: id }, spelled(name));
    const bind = (attributes) => ({ "data-parameter": name, ...attributes });
    const value = this.#shown[name];
    if (name in CHOICES) {
      const options = CHOICES[name].map((choice) => element("option", { value: choice }, choice.replaceAll("_", " ")));
      const change = ({ target }) => this.#change(name, target.value);
      return line(label, element("select", bind({ id, onchange: change }), options));
    }
    if (typeof value === "boolean") {
      const change = ({ target }) => this.#change(name, target.checked);
      return line(label, element("input", bind({ id, type: "checkbox", onchange: change })));
    }
    const change = ({ target }) => target.value !== "" && this.#change(name, Number(target.value));
    const exact = { type: "number", step: "any", onchange: change };
    const scale = thresholdScale(name, this.#shown);
    const isCount = name === "patience" || name === "layer";
    if (!scale && !isCount) return line(label, element("input", bind({ id, ...exact })));
    const slide = ({ target }) => {
      const place = Number(target.value);
      this.#change(name, isCount ? place : thresholdScale(name, this.#shown).value(-place));
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
  #fill(node, shown) {
    const name = node.dataset.parameter;
    const value = shown[name];
    if (value === undefined) return; // the answer to come will tell
    if (node.tagName === "OUTPUT") node.textContent = value;
    else if (node.type === "checkbox") node.checked = value;
    else if (node.type !== "range") node.value = value;
    else if (name === "patience" || name === "layer") {
      Object.assign(node, { min: 1, max: Math.max(1, this.numLayers - (name === "patience" ? 1 : 0)), value });
    } else {
      const scale = thresholdScale(name, shown);
      const [never, first] = scale.ends;
      Object.assign(node, { min: -never, max: -first, step: 0.05, value: -scale.place(value) });
      node.setAttribute("aria-valuetext", minus(short(value, 4)));
    }
  }
}

const ENDS = {
  threshold: ["leaves later", "leaves earlier"],
  patience: ["leaves earlier", "leaves later"],
  layer: ["first", "last"],
};
const end = (text) => element("span", {}, text);
const line = (label, field) => element("div", { class: "label-line" }, label, field);

function expectedFigures(expected, numLayers) {
  if (!expected) return [];
  const { f1, f1_loss: loss, average_exit_layer: layer } = expected;
  return [
    figure("Expected F1", f1.toFixed(2), ""),
    figure("F1 lost", minus(loss.toFixed(2)), ""),
    figure("Average layer", layer.toFixed(2), `of ${numLayers}`),
  ];
}

/** "vee, τ −0.001, patience 1": what a policy is, in a line. */
export function described({ strategy, ...parameters }) {
  const parts = Object.entries(parameters)
    .filter(([, value]) => value !== false)
    .map(([name, value]) =>
      typeof value === "number" ? `${name === "tau" ? "τ" : name} ${short(value, 4)}` : value === true ? name : String(value),
    );
  return [strategy, ...parts].join(", ").replaceAll("_", " ");
}
