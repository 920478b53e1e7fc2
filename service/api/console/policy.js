// The exit policy's panel: what is in force, and what is previewed, whether the front or a single field proposed it.

import { Fields } from "./fields.js";
import { Front } from "./front.js";
import { byId, element, say } from "./page.js";
import { isSame } from "./strategies.js";

export class PolicyPanel {
  /** onPreview: called when what is previewed has changed. */
  constructor(onPreview) {
    this.onPreview = onPreview;
    this.numLayers = 1;
    this.strategies = null;
    this.policy = null; // as GET /exit-policy has it, with its ETag
    this.etag = null;
    this.parameters = null; // of the policy in force
    this.preview = null; // parameters, perhaps only some: the answer completes them
    this.previewEtag = null; // of the policy in force when the preview began
    this.front = new Front((parameters) => this.#propose(parameters));
    this.fields = new Fields((name, value) => this.#change(name, value));
    byId("strategy").addEventListener("change", ({ target }) => this.#propose({ strategy: target.value }));
    byId("discard").addEventListener("click", () => this.#end(this));
  }

  /** What cannot change while the server runs. */
  setModel({ num_layers: numLayers }, points, strategies) {
    Object.assign(this, { numLayers, strategies });
    this.front.setPoints(points);
    byId("policy").hidden = false;
    byId("strategy").replaceChildren(...strategies.descriptions.map(offered));
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
    this.#propose(this.strategies.of(this.#shown).changed(name, value));
  }

  get #shown() {
    return this.preview ?? this.parameters;
  }

  #show() {
    if (!this.policy || !this.#shown) return;
    byId("apply-form").hidden = !this.preview;
    this.#showInForce();
    this.front.show(this.#shown, this.parameters, this.preview ? null : this.policy.expected, this.numLayers);
    const strategy = this.strategies.of(this.#shown);
    byId("strategy").value = strategy.name;
    say(byId("strategy-hint"), strategy.hint);
    this.fields.show(strategy);
  }

  #showInForce() {
    const { policy, parameters } = this;
    const since = new Date(policy.updated_at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
    const name = policy.preset ?? this.strategies.of(parameters ?? { strategy: policy.strategy }).described;
    say(byId("in-force"), `in force: ${name}, version ${policy.version} by ${policy.updated_by} at ${since}`);
    const pilot = policy.autopilot;
    say(
      byId("autopilot"),
      pilot
        ? `Autopilot keeps p95 under ${pilot.p95_ms} ms and loses at most ${pilot.max_f1_loss} F1; it is at level ` +
            `${pilot.level} of ${pilot.highest_level}. Applying a policy here switches it off.`
        : "",
    );
  }
}

/** A strategy to choose; one that the model does not support cannot be chosen, and says what it needs. */
function offered({ strategy, lacks }) {
  const needs = lacks === null ? {} : { disabled: true, title: `needs ${lacks}` };
  return element("option", { value: strategy, ...needs }, strategy.replaceAll("_", " "));
}
