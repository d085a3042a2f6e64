// What hands say: keyboard, gamepad, SpaceMouse as velocity in the arm's base frame. Axes: x forward, y left, z up.

const KEYS = {
  KeyW: [0, 1], KeyS: [0, -1], KeyA: [1, 1], KeyD: [1, -1], KeyR: [2, 1], KeyV: [2, -1],
  ArrowLeft: [3, -1], ArrowRight: [3, 1], ArrowUp: [4, 1], ArrowDown: [4, -1], KeyQ: [5, 1], KeyE: [5, -1],
};
const DEAD_ZONE = 0.12;
const RB = 5, LB = 4, LT = 6, RT = 7, START = 9;

export class Keyboard {
  #down = new Set();
  gripper = null;

  // Whether the key moves something.
  set(code, isDown) {
    if (code === "KeyO") this.gripper = 1;
    else if (code === "KeyP") this.gripper = 0;
    else if (!(code in KEYS)) return false;
    else if (isDown) this.#down.add(code);
    else this.#down.delete(code);
    return true;
  }

  clear() {
    this.#down.clear();
    this.gripper = null;
  }

  // Six numbers in -1..1.
  axes() {
    const axes = [0, 0, 0, 0, 0, 0];
    for (const code of this.#down) axes[KEYS[code][0]] += KEYS[code][1];
    return axes;
  }
}

// Standard mapping. RB is the hold key, START stops.
export class Gamepad {
  #wasHeld = true; // a button that is down when the page starts to look does not count as pressed
  #wasStop = true;
  gripper = null;

  constructor({ press, release, stop }) {
    const look = () => {
      const pad = this.#pad();
      if (pad) {
        const isHeld = pad.buttons[RB].pressed, isStop = pad.buttons[START].pressed;
        if (isStop && !this.#wasStop) stop();
        if (isHeld && !this.#wasHeld) press();
        if (!isHeld && this.#wasHeld) release();
        this.#wasHeld = isHeld;
        this.#wasStop = isStop;
        if (pad.buttons[RT].pressed) this.gripper = 0;
        else if (pad.buttons[LT].pressed) this.gripper = 1;
      }
      requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  }

  // A fresh press is needed after the page was away.
  clear() {
    this.#wasHeld = true;
    this.gripper = null;
  }

  axes() {
    const pad = this.#pad();
    if (!pad) return [0, 0, 0, 0, 0, 0];
    const [x, y, u, v] = pad.axes.map((value) => (Math.abs(value) < DEAD_ZONE ? 0 : value));
    return pad.buttons[LB].pressed ? [0, 0, 0, -x, -y, -u] : [-y, -x, -v, 0, 0, -u];
  }

  #pad() {
    return navigator.getGamepads().find((pad) => pad && pad.mapping === "standard") ?? null;
  }
}

const MULTI_AXIS_CONTROLLER = { usagePage: 0x01, usage: 0x08 };
const FULL_DEFLECTION = 350;
const SILENT_MS = 250; // it reports all the while that its cap is away from the middle
const BUTTONS_REPORT = 3;
const LEFT_BUTTON = 1;

// A 3Dconnexion cap by WebHID (Chromium). The left button is the hold key. Written from the reports that open drivers document
// (spacenavd, libspnav), tested with a stand-in of the browser's interface.
export class SpaceMouse {
  #calls;
  #raw = [0, 0, 0, 0, 0, 0]; // right, back, down, and turns about them
  #heardMs = -Infinity;
  #isDown = false;
  #device = null;
  gripper = null;

  constructor(calls) {
    this.#calls = calls;
    navigator.hid?.addEventListener("disconnect", ({ device }) => device === this.#device && this.#lose());
  }

  static get isPossible() {
    return "hid" in navigator;
  }

  // Asks the person which one; whether there is one now.
  async open() {
    if (this.#device) return true;
    const [device] = await navigator.hid.requestDevice({ filters: [MULTI_AXIS_CONTROLLER] });
    if (!device) return false;
    if (!device.opened) await device.open();
    device.addEventListener("inputreport", (event) => this.#take(event.reportId, event.data));
    this.#device = device;
    return true;
  }

  clear() {
    this.gripper = null;
  }

  axes() {
    if (performance.now() - this.#heardMs > SILENT_MS) return [0, 0, 0, 0, 0, 0];
    const [right, back, down, aboutRight, aboutBack, aboutDown] = this.#raw.map((value) => Math.max(-1, Math.min(1, value / FULL_DEFLECTION)));
    const axes = [-back, -right, -down, -aboutBack, -aboutRight, -aboutDown];
    return axes.map((value) => (Math.abs(value) < DEAD_ZONE ? 0 : value));
  }

  // Report 1: translation, on newer devices with rotation behind it; 2: rotation; 3: buttons. 16 bits each, little endian.
  #take(report, data) {
    if (report === BUTTONS_REPORT) {
      const isDown = Boolean(data.getUint8(0) & LEFT_BUTTON);
      if (isDown && !this.#isDown) this.#calls.press();
      if (!isDown && this.#isDown) this.#calls.release();
      this.#isDown = isDown;
      return;
    }
    for (let entry = 0; 2 * entry + 1 < data.byteLength && 3 * (report - 1) + entry < 6; entry++) {
      this.#raw[3 * (report - 1) + entry] = data.getInt16(2 * entry, true);
    }
    this.#heardMs = performance.now();
  }

  #lose() {
    this.#device = null;
    this.#isDown = false;
    this.#heardMs = -Infinity;
    this.#calls.release();
  }
}
