// The console: a text in, its entities and ladders out, under the policy in force or one that is previewed.

import { Refused, changePolicy, getJson, getPolicy, getText, keepKey, readKey, recognise } from "./api.js";
import { CodePoints, hues, marked } from "./entities.js";
import { EXAMPLES } from "./examples.js";
import { entityChanges, gauge, ladders } from "./ladder.js";
import { promised, showLevels } from "./levels.js";
import { History, figures, parseMetrics, spoken } from "./live.js";
import { byId, element, listed, plural, say, sum } from "./page.js";
import { PolicyPanel } from "./policy.js";
import { Strategies } from "./strategies.js";

const POLL_MS = 2000;
const PAUSE_MS = 250; // after the last keystroke
const LIVE_CHARS = 5000; // longer texts are sent when asked for
const CARDS = 12; // sentences whose ladders are drawn at a time
const PASSING = [0, 502, 503]; // refusals that end by themselves: no server, none behind the proxy, not ready

let model = null; // null until the server let us in
let hueOf = null;
let strategies = null;
let asking = null; // aborts the answer that is waited for
let inForce = null; // the latest answer under the policy in force, and the text that it is of
let shownCards = CARDS;
let isToAskAgain = false; // as soon as the server is there again
const history = new History();
const panel = new PolicyPanel(() => answer());

// ---- start: the model, its operating points and strategies, the policy

async function start() {
  try {
    const [[first], points, descriptions] = await Promise.all(
      ["models", "exit-policy/operating-points", "exit-policy/strategies"].map(getJson),
    );
    const current = await getPolicy();
    model = first;
    hueOf = hues(model.labels);
    strategies = new Strategies(descriptions);
    panel.setModel(model, points, strategies);
    panel.setInForce(current);
    byId("key-form").hidden = true;
    say(byId("error"), "");
    byId("model").textContent = `${model.name}@${model.version}`;
    if (!byId("text").value) byId("text").value = EXAMPLES[model.nested ? "Fiction" : "News"];
    await answer();
  } catch (error) {
    refused(error);
  }
}

/** Say what the server said; where it asks for a key, ask for it. */
function refused(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) {
    const isFirst = byId("key-form").hidden;
    byId("key-form").hidden = false;
    byId("key-message").textContent = isFirst && !readKey("api") ? "" : error.message;
    return;
  }
  say(byId("error"), error.message);
}

// ---- the answer

/** Ask for the text as it stands, under the policy in force and, if there is one, under the preview. */
async function answer() {
  if (!model) return;
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const text = byId("text").value;
  try {
    if (inForce?.text !== text || inForce.policy_version !== panel.policy.version) {
      inForce = { text, ...(await recognise(text, null, signal)) };
      panel.setParameters(inForce.exit_policy);
    }
    const { preview } = panel;
    const shown = preview ? await recognise(text, preview, signal) : inForce;
    if (preview) panel.completePreview(shown.exit_policy);
    say(byId("error"), "");
    isToAskAgain = false;
    show(text, shown, panel.preview ? inForce : null);
  } catch (error) {
    if (error.name === "AbortError") return;
    clear();
    isToAskAgain = PASSING.includes(error.status);
    refused(error);
  }
}

/** Take the answer away: what it is of does not stand in the box any more, or has no answer. */
function clear() {
  inForce = null;
  byId("answer").hidden = true;
  byId("ladders-section").hidden = true;
  for (const id of ["reading", "legend", "ladders", "summary"]) byId(id).replaceChildren();
  for (const id of ["preview-note", "effect", "more"]) say(byId(id), "");
}

function askAgain() {
  inForce = null;
  answer();
}

/** before: the answer under the policy in force, when `result` is a preview. */
function show(text, result, before) {
  const points = new CodePoints(text);
  const { sequences, num_layers: numLayers } = result;
  const stops = sequences.map((sequence, index) => ({
    at: sequence.end,
    node: element(
      "a",
      { class: "stop", href: `#sentence-${index + 1}` },
      gauge(sequence.exit_layer, numLayers),
      element("span", { class: "unseen" }, ` left at layer ${sequence.exit_layer}, see why `),
    ),
  }));
  byId("answer").hidden = !sequences.length;
  byId("ladders-section").hidden = !sequences.length;
  byId("reading").replaceChildren(...marked(points, result.entities, hueOf, stops));
  byId("legend").replaceChildren(...legend(result.entities));
  byId("summary").textContent = summary(result);
  const what = before && strategies.of(result.exit_policy).described;
  say(byId("preview-note"), before ? `A preview of ${what}. Other requests are not affected.` : "");
  say(byId("effect"), before ? effect(before, result, points) : "");
  showLadders(result, points);
}

function showLadders(result, points) {
  const cards = ladders({ ...result, sequences: result.sequences.slice(0, shownCards) }, points, hueOf, strategies);
  const left = result.sequences.length - cards.length;
  byId("ladders").replaceChildren(...cards);
  say(byId("more"), left > 0 ? `Show ${Math.min(left, CARDS)} more of ${plural(left, "sentence")}` : "");
  byId("more").onclick = () => {
    shownCards += CARDS;
    showLadders(result, points);
  };
}

function legend(entities) {
  const counts = new Map();
  for (const { label } of entities) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].sort().map(([label, count]) => element("li", { class: `chip ${hueOf(label)}` }, `${label} ${count}`));
}

/** Of a sequence; where words halted one by one, the mean over them. */
const depth = ({ exit_layer: layer, word_layers: words }) =>
  words ? sum(words.map((word) => word.layer)) / words.length : layer;
const averageLayer = ({ sequences }) => sum(sequences.map(depth)) / sequences.length;

function summary({ entities, sequences, num_layers: numLayers, timing_ms: timing }) {
  const found = entities.length ? plural(entities.length, "entity", "entities") : "No entities";
  const layers = sequences.map((sequence) => sequence.exit_layer);
  const where =
    layers.length > 4 ? `on average at layer ${averageLayer({ sequences }).toFixed(1)}` : `at layer ${listed(layers)}`;
  return `${found}; left ${where} of ${numLayers}; ${timing.total.toFixed(1)} ms`;
}

/** What a preview changes on this text. */
function effect(before, after, points) {
  if (!after.sequences.length) return "A preview, of no text yet.";
  const depths = [before, after].map((result) => averageLayer(result).toFixed(1));
  const changes = entityChanges(before.entities, after.entities).map(({ entity, kind, was }) => {
    const name = `“${points.slice(entity.start, entity.end)}”`;
    if (kind === "changed") return `${name} becomes ${entity.label} (${was})`;
    return `${name} ${entity.label} is ${kind === "new" ? "new" : "lost"}`;
  });
  const what = changes.length ? listed(changes) : "the entities stay the same";
  return `On this text: average layer ${depths[0]} → ${depths[1]}; ${what}.`;
}

// ---- what moves by itself

async function poll() {
  try {
    history.add({ at: performance.now() / 1000, ...parseMetrics(await getText("metrics")) });
    byId("live").replaceChildren(...figures(history, model?.num_layers));
    byId("live-note").textContent = spoken(history);
    if (!model) {
      if (byId("key-form").hidden) await start(); // the server was not there when the page was loaded
      return;
    }
    const current = await getPolicy();
    const isNew = current.etag !== panel.etag;
    panel.setInForce(current);
    const levels = await getJson("exit-policy/levels");
    showLevels(levels);
    say(byId("promise"), promised(levels));
    if (isNew || isToAskAgain) await answer();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    byId("live-note").textContent = error.message;
  }
}

/** Poll for as long as somebody looks. */
async function keepPolling() {
  if (!document.hidden) await poll();
  setTimeout(keepPolling, POLL_MS);
}

// ---- what the reader does

async function apply(event) {
  event.preventDefault();
  keepKey("admin", byId("admin-key").value.trim());
  const message = byId("policy-message");
  const { autopilot, promise } = panel.policy;
  const etag = autopilot || promise ? null : panel.previewEtag; // these move at any time, and yield
  try {
    panel.applied(await changePolicy(panel.preview, etag));
    message.textContent = `In force for every request, as version ${panel.policy.version}.`;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    message.textContent = error.message;
    if (error.status !== 412) return;
    panel.setInForce(await getPolicy());
    panel.previewEtag = panel.etag;
  }
}

let pause = 0;

function typed() {
  shownCards = CARDS;
  clearTimeout(pause);
  const isLong = byId("text").value.length > LIVE_CHARS;
  byId("text-hint-live").textContent = isLong
    ? `More than ${LIVE_CHARS.toLocaleString("en")} characters are answered when you ask.`
    : "Answers as you type.";
  if (!isLong) {
    pause = setTimeout(answer, PAUSE_MS);
    return;
  }
  asking?.abort();
  clear();
  say(byId("error"), "");
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  byId("theme").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
  byId("theme").setAttribute("aria-label", `Theme: ${theme}`);
}

function nextTheme() {
  const themes = ["auto", "light", "dark"];
  setTheme(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length]);
}

byId("theme").addEventListener("click", nextTheme);
byId("text").addEventListener("input", typed);
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) askAgain();
});
byId("run").addEventListener("click", askAgain);
byId("apply-form").addEventListener("submit", apply);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey("api", byId("api-key").value.trim());
  start();
});
byId("examples").append(
  ...Object.entries(EXAMPLES).map(([name, text]) =>
    element(
      "button",
      {
        type: "button",
        class: "quiet",
        onclick: () => {
          byId("text").value = text;
          typed();
        },
      },
      name,
    ),
  ),
);
byId("admin-key").value = readKey("admin");
setTheme(localStorage.getItem("theme") ?? "auto");
start();
keepPolling();
