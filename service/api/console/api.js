// The calls to the service, relative to the page, with the keys of this tab. Errors carry the server's own words.

const KEYS = { api: "ner-api-key", admin: "ner-admin-key" }; // names in sessionStorage

/** A refusal; status 0: the server could not be reached. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const readKey = (kind) => sessionStorage.getItem(KEYS[kind]) ?? "";

export function keepKey(kind, key) {
  if (key) sessionStorage.setItem(KEYS[kind], key);
  else sessionStorage.removeItem(KEYS[kind]);
}

/** A key as a header takes it: its UTF-8 bytes, each as one character. */
function authorization(key) {
  const bytes = new TextEncoder().encode(key.trim());
  return key.trim() ? { Authorization: `Bearer ${String.fromCharCode(...bytes)}` } : {};
}

async function call(path, { key = readKey("api"), headers = {}, ...options } = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...authorization(key), ...headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the server cannot be reached");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Refused(response.status, body.error ?? `the server answered ${response.status}`);
}

const JSON_BODY = { "Content-Type": "application/json" };

export const getJson = async (path) => (await call(path)).json();

export const getText = async (path) => (await call(path)).text();

/** The policy in force with its ETag. */
export async function getPolicy() {
  const response = await call("exit-policy");
  return { policy: await response.json(), etag: response.headers.get("ETag") };
}

/** POST /ner with the trace; `exitPolicy` null: the policy in force decides. */
export async function recognise(text, exitPolicy, signal) {
  const body = { text, trace: true, ...(exitPolicy ? { exit_policy: exitPolicy } : {}) };
  return (await call("ner", { method: "POST", headers: JSON_BODY, body: JSON.stringify(body), signal })).json();
}

/** PATCH /exit-policy as the administrator, unless somebody changed it since `etag`. */
export async function changePolicy(changes, etag) {
  const headers = { ...JSON_BODY, "X-Changed-By": "console", ...(etag ? { "If-Match": etag } : {}) };
  const options = { method: "PATCH", key: readKey("admin"), headers, body: JSON.stringify(changes) };
  const response = await call("exit-policy", options);
  return { policy: await response.json(), etag: response.headers.get("ETag") };
}
