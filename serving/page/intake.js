// How photographs come in: picked, dropped, pasted, or drawn here.

import { byId } from "./elements.js";

export function takeIn(add) {
  const files = byId("files");
  files.addEventListener("change", () => {
    add([...files.files]);
    files.value = ""; // so that the same one may be picked again
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) add([...event.clipboardData.files]);
  });
  for (const kind of ["dragenter", "dragover"])
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      document.body.classList.add("dropping");
    });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    add([...event.dataTransfer.files]);
  });
  byId("example").addEventListener("click", async () => add([await drawing()]));
}

// A ship at sea.
function drawing() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 256, height: 256 });
  const context = canvas.getContext("2d");
  const shape = (colour, ...points) => {
    context.fillStyle = colour;
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x, y);
    context.fill();
  };
  const sky = context.createLinearGradient(0, 0, 0, 170);
  sky.addColorStop(0, "#8fb9dd");
  sky.addColorStop(1, "#dbe7ee");
  context.fillStyle = sky;
  context.fillRect(0, 0, 256, 170);
  const sea = context.createLinearGradient(0, 165, 0, 256);
  sea.addColorStop(0, "#4d7c99");
  sea.addColorStop(1, "#1f4662");
  context.fillStyle = sea;
  context.fillRect(0, 165, 256, 91);
  shape("#f4f4f0", [84, 130], [84, 96], [168, 96], [178, 130]);
  shape("#e3e3dd", [104, 96], [104, 72], [150, 72], [154, 96]);
  shape("#b8412f", [116, 72], [118, 44], [138, 44], [138, 72]);
  shape("#2b3a4a", [26, 130], [232, 126], [206, 184], [52, 184]);
  shape("#8c2f26", [45, 170], [212, 170], [206, 184], [52, 184]);
  context.fillStyle = "#31475a";
  for (let x = 96; x < 164; x += 16) context.fillRect(x, 106, 8, 8);
  context.strokeStyle = "#ffffff66";
  context.lineWidth = 3;
  for (const [x, y] of [[10, 200], [70, 214], [150, 204], [196, 226], [40, 238]]) {
    context.beginPath();
    context.moveTo(x, y);
    context.quadraticCurveTo(x + 20, y - 7, x + 40, y);
    context.stroke();
  }
  return new Promise((resolve) => {
    canvas.toBlob((blob) => resolve(new File([blob], "drawing of a ship.png", { type: blob.type })));
  });
}
