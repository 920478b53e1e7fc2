// The calibrated front: what accuracy each speed-up costs, drawn above a slider that goes from point to point.

import { isSame } from "./strategies.js";
import { byId, drawing, element, figure, minus } from "./page.js";

export class Front {
  /** onChoose: called with the parameters of the point that the reader chose. */
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.points = []; // fastest first
    byId("speedup").addEventListener("input", ({ target }) => onChoose(this.#nearest(Number(target.value))));
    byId("speedup").addEventListener("keydown", (event) => this.#step(event));
  }

  /** The operating points of GET /exit-policy/operating-points; without any there is nothing to show. */
  setPoints(points) {
    this.points = points;
    byId("speed").hidden = !points.length;
    if (!points.length) return;
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
    byId("front").replaceChildren(curve, ...this.points.map((point) => this.#dot(point, "point")));
    const presets = this.points.filter(({ preset }) => preset).reverse();
    byId("presets").replaceChildren(
      ...presets.map(({ preset, parameters, speedup_latency: speedup }) =>
        element(
          "button",
          { type: "button", "data-preset": preset, onclick: () => this.onChoose(parameters) },
          preset,
          element("span", { class: "soft" }, `${speedup.toFixed(1)}×`),
        ),
      ),
    );
  }

  /** Mark the policy that is shown and the one in force; `measured`: what is expected of the former if it is no point. */
  show(shown, inForce, measured, numLayers) {
    if (!this.points.length) return;
    const [here, there] = [shown, inForce].map((policy) =>
      this.points.find(({ parameters }) => isSame(parameters, policy)),
    );
    byId("front").querySelectorAll(".here, .in-force").forEach((node) => node.remove());
    if (there) byId("front").append(this.#dot(there, "point in-force"));
    if (here) byId("front").append(this.#dot(here, "point here"));
    for (const button of byId("presets").children) {
      button.setAttribute("aria-pressed", String(button.dataset.preset === here?.preset));
    }
    const expected = here ?? measured;
    const slider = byId("speedup");
    if (here) slider.value = here.speedup_latency;
    const said = expected ? `${expected.speedup_latency.toFixed(2)}× full depth` : "not on the calibrated front";
    slider.setAttribute("aria-valuetext", expected ? `${said}, ${minus(expected.f1_loss)} F1 lost` : said);
    byId("speedup-said").textContent = said;
    byId("expected").replaceChildren(...expectedFigures(expected, numLayers));
  }

  #dot(point, kind) {
    const [x, y] = this.#placed(point);
    return element("span", { class: kind, "--x": `${x}%`, "--y": `${y}%` });
  }

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
    this.onChoose(next.parameters);
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
}

function expectedFigures(expected, numLayers) {
  if (!expected) return [];
  const { f1, f1_loss: loss, average_exit_layer: layer } = expected;
  return [
    figure("Expected F1", f1.toFixed(2), ""),
    figure("F1 lost", minus(loss.toFixed(2)), ""),
    figure("Average layer", layer.toFixed(2), `of ${numLayers}`),
  ];
}
