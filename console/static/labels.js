// How an episode went, in a person's word; for ten seconds the word before can be had back.

const UNDO_MS = 10000;

export class Labels {
  #act;
  #view;
  #latest = new Map(); // episode -> label, by whomever
  #undoable = null; // {robot, episodeId, before, timer}

  // act(robot, message): whether it was done; view: {undo, state} elements.
  constructor(act, view) {
    this.#act = act;
    this.#view = view;
    view.undo.disabled = true;
  }

  // From the supervisor: anybody's label.
  hear(event) {
    this.#latest.set(event.episode_id, event.label);
  }

  show(episodeId, events) {
    const last = events.filter((event) => event.kind === "label" && event.episode_id === episodeId).at(-1);
    const text = last && last.label !== "none" ? `${last.label}, by ${last.operator}` : "no label";
    if (this.#view.state.textContent !== text) this.#view.state.textContent = text;
  }

  async set(robot, episodeId, label) {
    const before = this.#latest.get(episodeId) ?? "none";
    if (before === label || !(await this.#act(robot, { type: "label", episode_id: episodeId, label }))) return;
    this.#forget();
    this.#undoable = { robot, episodeId, before, timer: setTimeout(() => this.#forget(), UNDO_MS) };
    this.#view.undo.disabled = false;
  }

  async undo() {
    if (!this.#undoable) return;
    const { robot, episodeId, before } = this.#undoable;
    this.#forget();
    await this.#act(robot, { type: "label", episode_id: episodeId, label: before });
  }

  #forget() {
    clearTimeout(this.#undoable?.timer);
    this.#undoable = null;
    this.#view.undo.disabled = true;
  }
}
