// One photograph and what each variant says of it.

import { element } from "./elements.js";
import { heatMap } from "./heat_map.js";
import { classify, explain, needsKey } from "./service.js";

const STAGES = ["queue", "decode", "infer"];
let photographs = 0;

// A card for a photograph; `settled` resolves to one sentence once every variant has answered or refused.
export function answersFor(file, variants) {
  photographs += 1;
  const heading = element("h3", { id: `photograph-${photographs}` }, file.name || "pasted image");
  const image = element("img", { src: URL.createObjectURL(file), alt: "" });
  image.addEventListener("error", () => image.replaceWith(element("p", { className: "no-preview quiet" }, "No preview")));
  const verdict = element("p", { className: "verdict" }, "Asking…");
  const columns = variants.map((each) => ({
    variant: each.variant,
    place: element("section", { className: "answer" }, element("h4", {}, each.variant), facts(each)),
  }));
  const places = element("div", { className: "columns" }, ...columns.map(({ place }) => place));
  const picture = element("div", { className: "picture" }, image);
  const card = element("article", { className: "card" }, heading, verdict, picture, places);
  card.setAttribute("aria-labelledby", heading.id);
  return { card, settled: settle({ file, image, verdict, places, columns }) };
}

function facts({ runtime, precision, device, trained }) {
  const known = [precision, runtime, device].filter(Boolean).join(", ");
  const untrained = trained === false ? " Random weights: the answers mean nothing." : "";
  return element("p", { className: "quiet" }, known + untrained);
}

// One after the other, so that no variant waits for the work of another.
async function settle({ file, image, verdict, places, columns }) {
  const found = [];
  for (const { variant, place } of columns) {
    try {
      const answer = await classify(file, variant);
      found.push({ variant, answer });
      place.append(...bars(answer, { file, image, place }), latency(answer));
    } catch (refusal) {
      if (needsKey(refusal)) throw refusal;
      found.push({ variant, refusal });
      place.append(explained(refusal));
    }
  }
  const { text, kind } = judge(found);
  verdict.textContent = text;
  verdict.classList.add(kind);
  if (kind === "refused") places.replaceChildren(explained(found[0].refusal));
  return text;
}

function judge(found) {
  const refused = found.filter(({ refusal }) => refusal);
  if (refused.length === found.length && new Set(refused.map(({ refusal }) => refusal.message)).size === 1)
    return { kind: "refused", text: found[0].refusal.status ? "Refused" : "No answer" };
  if (refused.length) return { kind: "differ", text: `${refused.length} of ${found.length} gave no answer` };
  const best = found.map(({ variant, answer }) => ({ variant, ...answer.predictions[0] }));
  const labels = new Set(best.map(({ label }) => label));
  if (found.length === 1) return { kind: "agree", text: `${best[0].variant} says ${best[0].label}` };
  const all = found.length === 2 ? "Both" : `All ${found.length}`;
  if (labels.size === 1) return { kind: "agree", text: `${all} variants agree: ${best[0].label}` };
  return { kind: "differ", text: `They differ: ${best.map(({ variant, label }) => `${variant} says ${label}`).join(", ")}` };
}

export function explained({ error, message, found, accepted = [] }) {
  const details = [["Found", found], ["Accepted", accepted.join(", ")]];
  return element(
    "div",
    { className: "refusal" },
    element("p", {}, element("strong", {}, message), error ? ` (${error})` : ""),
    ...details.filter(([, text]) => text && !message.includes(text)).map(([name, text]) => element("p", { className: "quiet" }, `${name}: ${text}`)),
  );
}

// Each bar opens the heat map of its class below them.
function bars({ variant, predictions }, { file, image }) {
  const figure = element("div", { className: "figure" });
  figure.setAttribute("aria-live", "polite");
  const buttons = predictions.map(({ label, index, probability }) => {
    const percent = `${(100 * probability).toFixed(1)} %`;
    const filled = element("span", { className: "filled", ariaHidden: "true" });
    filled.style.setProperty("--share", probability);
    const button = element(
      "button",
      { type: "button", className: "bar", title: `What speaks for ${label}?` },
      filled,
      element("span", { className: "label" }, label),
      element("span", { className: "percent" }, percent),
    );
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => toggle(button, index));
    return button;
  });

  async function toggle(button, index) {
    const opens = button.getAttribute("aria-pressed") === "false";
    for (const each of buttons) each.setAttribute("aria-pressed", String(opens && each === button));
    if (!opens) return figure.replaceChildren();
    try {
      const explanation = await explain(file, variant, index);
      if (button.getAttribute("aria-pressed") === "true") figure.replaceChildren(heatMap(explanation, image));
    } catch (refusal) {
      figure.replaceChildren(explained(refusal));
    }
  }

  const look = element("button", { type: "button", className: "look" }, "What did it look at?");
  look.addEventListener("click", () => buttons[0].click());
  const hint = element("p", { className: "quiet" }, look, " or choose a class");
  return [element("ol", { className: "bars" }, ...buttons.map((button) => element("li", {}, button))), hint, figure];
}

function latency({ timings_ms: timings, round_trip_ms: roundTrip }) {
  const rest = roundTrip - STAGES.reduce((sum, stage) => sum + timings[stage], 0);
  const parts = [...STAGES.map((stage) => [stage, timings[stage]]), ["network, browser", Math.max(rest, 0)]];
  const stack = element("div", { className: "stack", ariaHidden: "true" });
  const list = element("dl", { className: "latency" });
  parts.forEach(([name, ms], place) => {
    const part = element("span", { className: `part-${place}` });
    part.style.flexGrow = ms;
    stack.append(part);
    list.append(element("div", { className: `part-${place}` }, element("dt", {}, name), element("dd", {}, milliseconds(ms))));
  });
  list.append(element("div", {}, element("dt", {}, "round trip"), element("dd", {}, milliseconds(roundTrip))));
  return element("div", {}, stack, list);
}

const milliseconds = (ms) => `${ms.toFixed(ms < 10 ? 2 : 0)} ms`;
