// Newest pictures, each with its age; one that gets old turns grey and says so.

import { Link } from "./link.js";

const OLD_MS = 500;
const HEADER_BYTES = 24;

export class Cameras {
  #container;
  #link;
  #tiles = [];

  constructor(container, robot) {
    this.#container = container;
    this.#link = new Link(`/ws/video/${encodeURIComponent(robot)}`);
    this.#link.addEventListener("message", (event) => this.#name(event.detail.cameras));
    this.#link.addEventListener("binary", (event) => this.#show(event.detail));
    this.timer = setInterval(() => this.#age(), 100);
  }

  close() {
    clearInterval(this.timer);
    this.#link.close();
    this.#container.replaceChildren();
  }

  #name(names) {
    if (JSON.stringify(names) === JSON.stringify(this.#tiles.map((tile) => tile.name))) return;
    this.#tiles = names.map((name) => {
      const figure = document.createElement("figure"), canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `camera ${name}`);
      figure.className = "old";
      figure.append(canvas, caption);
      return { name, figure, canvas, caption, capturedMs: null, sequence: 0, times: [] };
    });
    this.#container.replaceChildren(...this.#tiles.map((tile) => tile.figure));
  }

  async #show(data) {
    const header = new DataView(data), receivedMs = performance.now();
    const tile = this.#tiles[header.getUint16(0, true)];
    const wasOldMs = 1000 * (header.getFloat64(16, true) - header.getFloat64(8, true));
    let picture;
    try {
      picture = await createImageBitmap(new Blob([data.slice(HEADER_BYTES)], { type: "image/jpeg" }));
    } finally {
      this.#link.send("shown"); // also for one that cannot be shown, or none would follow
    }
    tile.canvas.width = picture.width;
    tile.canvas.height = picture.height;
    tile.canvas.getContext("2d").drawImage(picture, 0, 0);
    picture.close();
    tile.capturedMs = receivedMs - wasOldMs;
    tile.times = [...tile.times.filter((time) => receivedMs - time < 2000), receivedMs];
  }

  #age() {
    const now = performance.now();
    for (const { name, figure, caption, capturedMs, times } of this.#tiles) {
      const ageMs = capturedMs === null ? Infinity : now - capturedMs;
      const fps = times.filter((time) => now - time < 2000).length / 2;
      figure.classList.toggle("old", ageMs > OLD_MS);
      caption.textContent =
        ageMs === Infinity ? `${name}: no picture` : `${name} · ${ageMs > OLD_MS ? "OLD, " : ""}${ageMs > 9999 ? (ageMs / 1000).toFixed(0) + " s" : Math.round(ageMs / 10) * 10 + " ms"} · ${fps.toFixed(0)}/s`;
    }
  }
}
