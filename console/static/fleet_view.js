// Several robots as tiles, those that want help first.

import { WORDS } from "./robot_view.js";

export class FleetView {
  #container;
  #choose;
  #shown = "";

  constructor(container, choose) {
    this.#container = container;
    this.#choose = choose;
  }

  show(robots, chosen) {
    this.#container.hidden = robots.size < 2;
    const wantsHelp = ([, robot]) => Number(Boolean(robot.status?.needs_help ?? robot.error));
    const tiles = [...robots].sort((a, b) => wantsHelp(b) - wantsHelp(a)).map(([name, robot]) => this.#words(name, robot));
    const shown = JSON.stringify([tiles, chosen]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const focused = document.activeElement?.dataset?.robot;
    this.#container.replaceChildren(...tiles.map((words) => this.#tile(words, words.name === chosen)));
    if (focused) this.#container.querySelector(`[data-robot="${CSS.escape(focused)}"]`)?.focus();
  }

  #words(name, { status, error }) {
    const [mark, word] = WORDS[status?.state] ?? WORDS.disconnected;
    const value = typeof status?.value === "number" ? `, value ${status.value.toFixed(2)}` : "";
    return { name, line: `${mark} ${error ? "No supervisor" : word}${value}`, help: status?.needs_help ?? error ?? "" };
  }

  #tile({ name, line, help }, isChosen) {
    const tile = document.createElement("button");
    tile.type = "button";
    tile.dataset.robot = name;
    tile.setAttribute("aria-pressed", String(isChosen));
    for (const [tag, text] of [["strong", name], ["span", line], ["em", help && `⚑ ${help}`]]) {
      const part = document.createElement(tag);
      part.textContent = text;
      if (text) tile.append(part);
    }
    tile.onclick = () => this.#choose(name);
    return tile;
  }
}
