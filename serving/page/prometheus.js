// Prometheus' text format, and what two readings of it say of the time between them.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

// [{ name, labels, value }]
export function parse(text) {
  return text.split("\n").flatMap((line) => {
    const match = line.startsWith("#") ? null : SAMPLE.exec(line);
    if (!match) return [];
    const pairs = [...(match[2] ?? "").matchAll(LABEL)];
    const labels = Object.fromEntries(pairs.map(([, name, value]) => [name, value.replace(/\\[n"\\]/g, (c) => ESCAPED[c])]));
    return [{ name: match[1], labels, value: Number(match[3].replace("Inf", "Infinity")) }];
  });
}

// Samples of a counter with what was added since `before`; a service that began anew counts from 0.
export function increases(name, before, now) {
  const earlier = new Map(of(name, before).map((sample) => [keyOf(sample), sample.value]));
  return of(name, now).map((sample) => {
    const since = sample.value - (earlier.get(keyOf(sample)) ?? 0);
    return { ...sample, value: since < 0 ? sample.value : since };
  });
}

export const of = (name, samples) => samples.filter((sample) => sample.name === name);

const keyOf = ({ labels }) => JSON.stringify(Object.entries(labels).sort());

// The share `q` of observations lies below it, by linear interpolation in its bucket, as Prometheus' histogram_quantile;
// null where nothing was observed. Buckets are cumulative samples with a label `le`.
export function quantile(q, buckets) {
  const sorted = buckets
    .map(({ labels, value }) => ({ bound: Number(labels.le.replace("+Inf", "Infinity")), count: value }))
    .sort((one, other) => one.bound - other.bound);
  const rank = q * (sorted.at(-1)?.count ?? 0);
  if (!rank) return null;
  const place = sorted.findIndex(({ count }) => count >= rank);
  const { bound: lower, count: below } = place ? sorted[place - 1] : { bound: 0, count: 0 };
  const { bound: upper, count } = sorted[place];
  return upper === Infinity ? lower : lower + ((upper - lower) * (rank - below)) / (count - below);
}
