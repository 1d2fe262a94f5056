// What is served is asked for first; then every photograph is shown to each variant.

import { answersFor, explained } from "./answers.js";
import { byId } from "./elements.js";
import { takeIn } from "./intake.js";
import { watch } from "./live.js";
import { needsKey, useKey, variants } from "./service.js";

let known = null; // a promise of the variants, kept once it holds
let waiting = []; // photographs that a key is missing for
const live = watch(byId("live"));

async function served() {
  known ??= variants();
  try {
    const found = await known;
    byId("served").textContent = `Served: ${found.map(({ variant, version }) => `${variant} (${version})`).join(", ")}`;
    return found;
  } catch (refusal) {
    known = null;
    throw refusal;
  }
}

async function add(files) {
  for (const file of files) {
    try {
      const { card, settled } = answersFor(file, await served());
      byId("answers").prepend(card);
      const verdict = await settled.catch((refusal) => {
        card.remove();
        throw refusal;
      });
      byId("announcement").textContent = `${file.name}: ${verdict}`;
      live.look();
    } catch (refusal) {
      if (needsKey(refusal)) {
        waiting.push(file);
        askForKey(refusal);
      } else byId("answers").prepend(explained(refusal));
    }
  }
}

function askForKey(refusal) {
  byId("key-form").hidden = false;
  byId("key-note").textContent = `${refusal.message}. A key is forgotten when this page is closed.`;
  byId("key").focus();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  byId("key").value = "";
  byId("key-form").hidden = true;
  live.begin();
  const files = waiting;
  waiting = [];
  if (files.length) add(files);
  else begin();
});

function begin() {
  served().catch((refusal) => {
    if (needsKey(refusal)) askForKey(refusal);
    else byId("served").replaceChildren(explained(refusal));
  });
}

takeIn(add);
begin();
live.begin();
