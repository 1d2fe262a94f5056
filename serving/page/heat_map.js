// What speaks for a class, laid over the part of a photograph that the network saw.

import { colour } from "./colour_map.js";
import { element } from "./elements.js";

const SIDE = 320;
const OPACITY = 0.6;

export function heatMap(explanation, image) {
  const { label, variant, logit, minimum, maximum } = explanation;
  const canvas = element("canvas", { width: SIDE, height: SIDE, role: "img" });
  canvas.setAttribute("aria-label", describe(explanation));
  const map = pixels(explanation);
  const draw = (opacity) => paint(canvas.getContext("2d"), image, explanation.crop, map, opacity);
  const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: OPACITY });
  slider.addEventListener("input", () => draw(slider.valueAsNumber));
  draw(OPACITY);
  return element(
    "figure",
    { className: "heat-map" },
    canvas,
    element("div", { className: "scale", ariaHidden: "true" }, number(minimum), bar(), number(maximum)),
    element("label", {}, "Opacity ", slider),
    element(
      "figcaption",
      { className: "quiet" },
      `Where ${variant} finds ${label}: light speaks most for it, dark least, below 0 against it. ` +
        `A class activation map over the square that the network sees; its mean, ${number(logit)}, is the score (logit).`,
    ),
  );
}

const number = (value) => value.toFixed(1);

function describe({ label, map }) {
  const cells = map.flat();
  const place = cells.indexOf(Math.max(...cells));
  const third = (index, size, names) => names[Math.min(Math.floor((3 * (index + 0.5)) / size), 2)];
  const row = third(Math.floor(place / map[0].length), map.length, ["top", "middle", "bottom"]);
  const column = third(place % map[0].length, map[0].length, ["left", "centre", "right"]);
  return `Heat map: most speaks for ${label} at the ${row} ${column}`;
}

function pixels({ map, minimum: low, maximum: high }) {
  const canvas = element("canvas", { width: map[0].length, height: map.length });
  const context = canvas.getContext("2d");
  const data = context.createImageData(canvas.width, canvas.height);
  map.flat().forEach((value, index) => {
    data.data.set([...colour(high > low ? (value - low) / (high - low) : 0.5), 255], 4 * index);
  });
  context.putImageData(data, 0, 0);
  return canvas;
}

function paint(context, image, crop, map, opacity) {
  context.clearRect(0, 0, SIDE, SIDE);
  context.globalAlpha = 1;
  if (image.naturalWidth) {
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const side = crop * Math.min(width, height);
    context.drawImage(image, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIDE, SIDE);
  }
  context.globalAlpha = opacity;
  context.imageSmoothingQuality = "high";
  context.drawImage(map, 0, 0, SIDE, SIDE);
}

function bar() {
  const canvas = element("canvas", { width: 256, height: 1 });
  const context = canvas.getContext("2d");
  for (let x = 0; x < 256; x += 1) {
    context.fillStyle = `rgb(${colour(x / 255).join(" ")})`;
    context.fillRect(x, 0, 1, 1);
  }
  return canvas;
}
