// Which checkpoint the robot should run and does run; moving it is for role supervise and needs a reason.

const $ = (id) => document.getElementById(id);
const PERIOD_MS = 3000;
const short = (id) => (id ? id.slice(0, 12) : "none");

export class PromotionView {
  #person;
  #ask;
  #robot = null;
  #state = null; // the server's answer for this robot

  // ask(question): {reason}, or null if called off.
  constructor(person, ask) {
    this.#person = person;
    this.#ask = ask;
    $("promotion").hidden = false;
    $("promotion-acts").hidden = person.role !== "supervise";
    $("promotion-choice").onchange = () => this.#showRefusals();
    $("promotion-promote").onclick = () => this.#promote();
    $("promotion-rollback").onclick = () => this.#rollback();
    setInterval(() => !document.hidden && this.#refresh(), PERIOD_MS);
  }

  choose(robot) {
    this.#robot = robot;
    this.#state = null;
    this.#refresh();
  }

  async #refresh() {
    const robot = this.#robot;
    if (robot === null) return;
    let state;
    try {
      const response = await fetch(`/checkpoints/${encodeURIComponent(robot)}`);
      state = await response.json();
      if (!response.ok) throw new Error(state.error);
    } catch (error) {
      return this.#note(`The checkpoint store does not answer: ${error.message}`);
    }
    if (robot === this.#robot) this.#show(state);
  }

  #show(state) {
    const { robot, choices } = state, chosen = $("promotion-choice").value;
    this.#state = state;
    $("promotion-desired").textContent = short(robot.desired);
    const canary = robot.canary ? `, canary ${robot.canary} at ${Math.round(100 * robot.speed_fraction)} % speed` : "";
    const when = robot.reported_unix_s === null ? "never reported" : `reported ${new Date(1000 * robot.reported_unix_s).toLocaleTimeString()}`;
    $("promotion-actual").textContent = `${short(robot.actual)}${canary} (${when})`;
    this.#note([
      robot.desired !== robot.actual && robot.refused_because && `Not what is wanted: ${robot.refused_because}`,
      robot.frozen && `Frozen: ${robot.frozen}`,
      robot.is_pinned && `Pinned by ${robot.pinned_by}: ${robot.pinned_because}`,
    ].filter(Boolean).join(" "));
    $("promotion-choice").replaceChildren(...choices.map((choice) => {
      const mark = choice.refusals.length ? "✗" : "✓";
      return new Option(`${mark} ${short(choice.checkpoint_id)} ${choice.family} version ${choice.version}`, choice.checkpoint_id);
    }));
    if (choices.some((choice) => choice.checkpoint_id === chosen)) $("promotion-choice").value = chosen;
    this.#showRefusals();
    $("promotion-rollback").disabled = state.rollback_refusals.length > 0;
  }

  #showRefusals() {
    const choice = this.#choice();
    $("promotion-promote").disabled = !choice || choice.refusals.length > 0;
    $("promotion-refusals").replaceChildren(...(choice?.refusals ?? []).map(({ text }) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
  }

  #choice() {
    return this.#state?.choices.find((choice) => choice.checkpoint_id === $("promotion-choice").value);
  }

  async #promote() {
    const { checkpoint_id: id } = this.#choice(), { robot } = this.#state;
    const text = `${robot.robot} is to run ${short(id)} instead of ${short(robot.desired)}, from its next episode on.`;
    const answer = await this.#ask({ title: "Promote", text, check: "I have read what the gates found", needsReason: true });
    if (answer) await this.#move("promote", { checkpoint_id: id, reason: answer.reason, expected_serial: robot.serial });
  }

  async #rollback() {
    const { robot } = this.#state;
    const text = `${robot.robot} is to return from ${short(robot.desired)} to ${short(robot.previous)}, from its next episode on.`;
    const answer = await this.#ask({ title: "Roll back", text, check: "This is the robot and the checkpoint I mean", needsReason: true });
    if (answer) await this.#move("rollback", { reason: answer.reason, expected_serial: robot.serial });
  }

  async #move(how, fields) {
    try {
      const response = await fetch(`/checkpoints/${encodeURIComponent(this.#robot)}/${how}`, { method: "POST", body: JSON.stringify(fields) });
      const outcome = await response.json();
      await this.#refresh();
      if (!response.ok) this.#note(`Refused: ${outcome.error}`);
      else this.#note(how === "promote" ? "Promoted: its agent swaps before the next episode." : "Rolled back: its agent swaps before the next episode.");
    } catch (error) {
      this.#note(`Not known whether it was done: ${error.message}`);
    }
  }

  #note(text) {
    if ($("promotion-note").textContent !== text) $("promotion-note").textContent = text;
  }
}
