// What the service has been doing lately, read off /metrics while somebody can see it.

import { element } from "./elements.js";
import { increases, of, parse, quantile } from "./prometheus.js";
import { ask, needsKey } from "./service.js";

const EVERY_MS = 2000;
const WINDOW_MS = 30_000;
const STAGES = ["receive", "queue", "decode", "infer", "explain", "answer"];

export function watch(place) {
  let readings = [];
  let timer = null;

  async function look() {
    clearTimeout(timer);
    timer = null;
    if (document.hidden) return;
    try {
      const samples = parse(await (await ask("metrics")).text());
      const now = performance.now();
      readings = [...readings.filter(({ at }) => now - at <= WINDOW_MS), { at: now, samples }];
      place.replaceChildren(...panel(readings));
    } catch (refusal) {
      const mayNot = needsKey(refusal);
      place.replaceChildren(element("p", { className: "quiet" }, mayNot ? "Needs a key with the scope observe." : refusal.message));
      if (mayNot) return;
    }
    clearTimeout(timer); // another look may have begun meanwhile
    timer = setTimeout(look, EVERY_MS);
  }

  document.addEventListener("visibilitychange", () => document.hidden || look());
  return { begin: look, look: () => timer !== null && look() };
}

function panel(readings) {
  const [first, last] = [readings[0], readings.at(-1)];
  const seconds = (last.at - first.at) / 1e3;
  const images = increases("preflight_images_total", first.samples, last.samples);
  const refused = increases("preflight_refused_total", first.samples, last.samples);
  const buckets = increases("preflight_stage_seconds_bucket", first.samples, last.samples);
  const variants = of("preflight_variant_info", last.samples).map(({ labels }) => labels.variant);
  const gauge = (name) => of(name, last.samples).reduce((sum, { value }) => sum + value, 0);
  const perSecond = images.reduce((sum, { value }) => sum + value, 0) / (seconds || 1);
  return [
    element(
      "dl",
      { className: "gauges" },
      figure("images/s", seconds ? rate(perSecond) : "–"),
      figure("in flight", String(gauge("preflight_in_flight"))),
      figure("queued", String(gauge("preflight_queue_depth"))),
      figure("refused", refusals(refused)),
    ),
    element("div", { className: "scrolls", tabIndex: 0, role: "region", ariaLabel: "Latency by stage" }, table(variants, { images, buckets, seconds })),
    element("p", { className: "quiet" }, `Over the last ${Math.max(Math.round(seconds), 1)} s, from all clients; percentiles interpolated within the histogram's buckets.`),
  ];
}

const figure = (name, text) => element("div", {}, element("dt", {}, name), element("dd", {}, text));

const rate = (perSecond) => perSecond.toFixed(perSecond < 10 ? 1 : 0);

function refusals(refused) {
  const recent = refused.filter(({ value }) => value > 0);
  return recent.map(({ labels, value }) => `${value} ${labels.reason.replaceAll("_", " ")}`).join(", ") || "none";
}

function table(variants, { images, buckets, seconds }) {
  const head = element("tr", {}, element("th", { scope: "col" }, "p50 / p99, ms"), ...variants.map((name) => element("th", { scope: "col" }, name)));
  const throughput = variants.map((name) => {
    const answered = images.find(({ labels }) => labels.variant === name)?.value ?? 0;
    return seconds ? rate(answered / seconds) : "–";
  });
  const rows = STAGES.map((stage) => {
    const cells = variants.map((name) => {
      const own = buckets.filter(({ labels }) => labels.variant === name && labels.stage === stage);
      const [p50, p99] = [0.5, 0.99].map((q) => quantile(q, own));
      return p50 === null ? "–" : `${milliseconds(p50)} / ${milliseconds(p99)}`;
    });
    return row(stage, cells);
  });
  return element("table", {}, element("thead", {}, head), element("tbody", {}, row("images/s", throughput), ...rows));
}

const row = (name, cells) => element("tr", {}, element("th", { scope: "row" }, name), ...cells.map((text) => element("td", {}, text)));

const milliseconds = (s) => String(Number((1e3 * s).toPrecision(2)));
