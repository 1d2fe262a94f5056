// The service that this page came from. The key is kept in memory alone.

let key = "";

export function useKey(given) {
  key = given;
}

// What went wrong, in the service's words where it had any.
export class Refusal extends Error {
  constructor(status, { error = "", message = "", found = "", accepted = [] } = {}) {
    super(message || `the service answered ${status}`);
    Object.assign(this, { status, error, found, accepted });
  }
}

export const needsKey = ({ status }) => status === 401 || status === 403;

export async function ask(path, options = {}) {
  const asked = key;
  const headers = { ...options.headers, ...(asked && { authorization: `Bearer ${asked}` }) };
  let response;
  try {
    response = await fetch(`../${path}`, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch {
    throw new Refusal(0, { message: "The service does not answer. Is it running still?" });
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const refusal = new Refusal(response.status, said);
  if (needsKey(refusal) && asked !== key) return ask(path, options); // another key was given meanwhile
  throw refusal;
}

export async function variants() {
  try {
    return (await (await ask("variants")).json()).variants;
  } catch (refusal) {
    if (refusal.status !== 403) throw refusal;
    const { model_stats: known } = await (await ask("v2/models/stats")).json(); // as much as a key to predict opens
    return known.map(({ name, version }) => ({ variant: name, version }));
  }
}

const posted = (blob) => ({
  method: "POST",
  body: blob,
  headers: { "content-type": blob.type.startsWith("image/") ? blob.type : "application/octet-stream" },
});

// The answer, with `round_trip_ms`.
async function timed(path, blob) {
  const begun = performance.now();
  const answer = await (await ask(path, posted(blob))).json();
  return { ...answer, round_trip_ms: performance.now() - begun };
}

export const classify = (blob, variant) => timed(`classify?variant=${encodeURIComponent(variant)}`, blob);

export const explain = (blob, variant, index) =>
  timed(`explain?variant=${encodeURIComponent(variant)}&class=${index}`, blob);
