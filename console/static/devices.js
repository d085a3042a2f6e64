// What hands say: keyboard and gamepad as velocity in the arm's base frame. Axes: x forward, y left, z up.

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
