// Files that are dropped anywhere on the page.

import { embedded } from "./api.js";

export function listenForFiles(send) {
  const veil = document.getElementById("dropping");
  let depth = 0;
  if (embedded) return;
  const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => {
    if (files(event)) {
      depth += 1;
      veil.classList.add("shown");
    }
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) veil.classList.remove("shown");
  });
  addEventListener("dragover", (event) => {
    if (files(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    depth = 0;
    veil.classList.remove("shown");
    const [file] = event.dataTransfer?.files ?? [];
    if (!file) return;
    event.preventDefault();
    send(file.name, file);
  });
}
