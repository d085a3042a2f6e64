// Requests that are answered, and the stop, which is tried on every way there is.

const STOP_ANSWER_MS = 1200;
const FIRST_ID = 1e6; // below are the hold's own

export class Asker {
  #link;
  #notice;
  #nextId = FIRST_ID;
  #answers = new Map();
  #stopped = [];

  constructor(link, notice) {
    this.#link = link;
    this.#notice = notice;
    link.addEventListener("message", ({ detail }) => this.#take(detail));
    link.addEventListener("down", () => {
      for (const resolve of this.#answers.values()) resolve({ ok: false, error: "the link was lost before the answer came; look, then ask again" });
      this.#answers.clear();
    });
  }

  // Whether it was done; if not, the notice says why.
  async act(robot, message) {
    const id = this.#nextId++;
    const answer = new Promise((resolve) => this.#answers.set(id, resolve));
    if (!this.#link.send({ ...message, id, robot })) {
      this.#answers.delete(id);
      this.#notice("Not sent: no link");
      return false;
    }
    const reply = await answer;
    this.#notice(reply.ok ? "" : `Refused: ${reply.error}`);
    return reply.ok;
  }

  async stop() {
    this.#notice("Stopping…");
    if (this.#link.send({ type: "stop" })) {
      const outcome = await Promise.race([
        new Promise((resolve) => this.#stopped.push(resolve)),
        new Promise((resolve) => setTimeout(resolve, STOP_ANSWER_MS, null)),
      ]);
      if (outcome) return this.#tell(outcome);
    }
    try {
      const response = await fetch("/stop", { method: "POST", keepalive: true, signal: AbortSignal.timeout(3000) });
      const outcome = await response.json();
      if (!response.ok) throw new Error(outcome.error);
      this.#tell(outcome);
    } catch (error) {
      this.#notice(`STOP IS NOT CONFIRMED (${error.message}): use the emergency stop at the robot`);
    }
  }

  #tell(outcome) {
    this.#notice(Object.entries(outcome).map(([robot, text]) => `${robot}: ${text}`).join("; "));
  }

  #take(message) {
    if (message.type === "stopped") {
      for (const resolve of this.#stopped.splice(0)) resolve(message.robots);
    } else if (message.type === "reply" && message.id >= FIRST_ID) {
      this.#answers.get(message.id)?.(message);
      this.#answers.delete(message.id);
    }
  }
}
