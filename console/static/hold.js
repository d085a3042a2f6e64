// Press-and-hold: one press asks for one lease; input goes out only while the hold lasts; whatever ends it, motion needs a new
// press. The supervisor's lease is what makes it safe, this makes it pleasant.

const PERIOD_MS = 33;

export class Hold extends EventTarget {
  #link;
  #read;
  #request = 1;
  #pending = null; // {id, robot}: pressed, not answered yet
  #lease = null; // {robot, fence, sequence}
  #timer = null;

  // read(): {twist, gripper, phase} of this moment.
  constructor(link, read) {
    super();
    this.#link = link;
    this.#read = read;
    link.addEventListener("message", (event) => this.#take(event.detail));
    link.addEventListener("down", () => this.end("the link is lost"));
    for (const name of ["blur", "pagehide", "freeze"]) window.addEventListener(name, () => this.end("the page lost the keyboard"));
    document.addEventListener("visibilitychange", () => document.hidden && this.end("the page is hidden"));
    document.addEventListener("focusin", (event) => isTyping(event.target) && this.end("a text field has the keyboard"));
    window.addEventListener("gamepaddisconnected", () => this.end("the gamepad is gone"));
  }

  get isHeld() {
    return this.#lease !== null;
  }

  // leaseMs: two frames further apart mean that this computer slept or was stopped, and the lease is over.
  press(robot, phase, leaseMs, { forced = false } = {}) {
    if (this.#pending || this.#lease || !robot) return;
    if (document.hidden || !document.hasFocus()) return;
    const id = this.#request++;
    if (!this.#link.send({ type: "press", id, robot, phase, forced })) return this.#say("not held: no link");
    this.#pending = { id, robot, leaseMs };
    this.#say("asking…");
  }

  end(why) {
    const lease = this.#lease, wasAsked = this.#pending !== null;
    this.#pending = null;
    if (!lease) return wasAsked ? this.#say(`not held: ${why}`) : undefined;
    this.#lease = null;
    clearInterval(this.#timer);
    this.#link.send({ type: "release", robot: lease.robot, fence: lease.fence });
    this.#say(`not held: ${why}`);
  }

  // The supervisor's word: the lease may be over for reasons of its own.
  observe(status) {
    const lease = this.#lease;
    if (!lease || status.robot !== lease.robot) return;
    if (status.fence > lease.fence || (status.fence === lease.fence && lease.wasSeen && status.state !== "human")) {
      this.end(`${status.state}: ${status.reason}; let go and press again`);
    } else if (status.fence === lease.fence && status.state === "human") {
      lease.wasSeen = true;
    }
  }

  // Keys changed: tell it now rather than at the next beat.
  send() {
    const lease = this.#lease;
    if (!lease) return;
    if (document.hidden) return this.end("the page is hidden");
    const now = performance.now();
    if (now - lease.sentMs > lease.leaseMs) return this.end("this computer paused; press again");
    lease.sentMs = now;
    const frame = { type: "input", robot: lease.robot, fence: lease.fence, sequence: lease.sequence++, t: now / 1000 };
    if (!this.#link.send({ ...frame, ...this.#read() })) this.end("the link is lost");
  }

  #take(message) {
    const { robot, fence } = this.#lease ?? {};
    if (message.type === "let_go" && message.robot === robot && message.fence === fence) return this.end(message.reason);
    if (message.type !== "reply" || message.id >= 1e6) return;
    const pending = this.#pending;
    const isAwaited = pending !== null && pending.id === message.id;
    if (isAwaited) this.#pending = null;
    if (!message.ok) {
      this.#say(`not held: ${message.error}`, true);
    } else if (!isAwaited) {
      // Let go before the answer came.
      if (message.fence !== null) this.#link.send({ type: "release", robot: message.robot, fence: message.fence });
    } else {
      this.#lease = { robot: pending.robot, leaseMs: pending.leaseMs, fence: message.fence, sentMs: performance.now(), sequence: 1, wasSeen: false };
      this.#say("held: you have control");
      this.send();
      this.#timer = setInterval(() => this.send(), PERIOD_MS);
    }
  }

  #say(text, isRefusal = false) {
    this.dispatchEvent(new CustomEvent("change", { detail: { text, isHeld: this.isHeld, isRefusal } }));
  }
}

export function isTyping(element) {
  return element?.matches?.("input:not([type=checkbox]), textarea, [contenteditable=true]") ?? false;
}
