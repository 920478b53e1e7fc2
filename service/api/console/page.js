// Building the page: elements from text nodes alone, and how numbers are written. Nothing here knows what is shown.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; strings become text, never markup. null children are left out. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function drawing(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** The element of an id, which index.html has. */
export const byId = (id) => document.getElementById(id);

/** Show `text` in the element, and the element only if there is any. Writes nothing new, so nothing is said twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
  node.hidden = !text;
}

/** A number with about `digits` significant digits, never in powers of ten: 0.0889, −0.00308, 382. */
export function short(value, digits = 3) {
  return plain(value, decimals(value, digits));
}

/** How many decimals show `digits` significant digits of a value; at most six. */
export function decimals(value, digits = 3) {
  return value === 0 ? 0 : Math.min(6, Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value)))));
}

/** A number with at most so many decimals: no zeros at the end, no −0. */
export function plain(value, most) {
  const text = value.toFixed(most);
  return minus(text.includes(".") ? text.replace(/\.?0+$/, "") : text).replace(/^\u22120$/, "0");
}

/** A typographic minus sign. */
export const minus = (text) => String(text).replace("-", "\u2212");

export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** "1, 2 and 5" */
export function listed(items) {
  const texts = items.map(String);
  return texts.length < 2 ? texts.join("") : `${texts.slice(0, -1).join(", ")} and ${texts.at(-1)}`;
}

export const sum = (values) => values.reduce((total, value) => total + value, 0);

/** A figure: its name, its value with a unit, and something small below. */
export function figure(name, value, unit, below = null) {
  return element(
    "div",
    {},
    element("dt", {}, name),
    element("dd", {}, element("span", { class: "value" }, value), ` ${unit}`, below),
  );
}
