// The page: puts links, hands, and what is shown together.

import { Asker } from "./asking.js";
import { confirmed } from "./confirm.js";
import { Gamepad, Keyboard, SpaceMouse } from "./devices.js";
import { FleetView } from "./fleet_view.js";
import { Hold, isTyping } from "./hold.js";
import { Labels } from "./labels.js";
import { Link } from "./link.js";
import { PromotionView } from "./promotion_view.js";
import { draw, set, showEvents, showNoSupervisor, showStatus, showStep, showWelcome } from "./robot_view.js";
import { signIn } from "./session.js";
import { Cameras } from "./video.js";

const KEPT_S = 70;
const SILENT_MS = 1000;
const FINE = 0.25;
const JOG = [0.1, 0.1, 0.1, 0.5, 0.5, 0.5]; // m/s and rad/s at most, however fast the robot may be
const $ = (id) => document.getElementById(id);
const notice = (text) => set("notice", text);
const robots = new Map(); // name -> {welcome, status, heardMs, steps, points, events, error, hasVideo}
let chosen = null, cameras = null, isForced = false;

// Before anybody is signed in: whoever has a session may stop.
let stop = () => new Asker({ send: () => false, addEventListener() {} }, notice).stop();
$("stop").onclick = () => stop();
$("confirm-stop").onclick = () => stop(); // the page's own is out of reach while a question is open
window.addEventListener("keydown", (event) => event.code === "Escape" && !event.repeat && stop());

const person = await signIn();
$("person").textContent = `${person.name} (${person.role})`;
$("recordings-link").hidden = !person.has_recordings;
const command = new Link("/ws/command", { heartbeat: true });
const asker = new Asker(command, notice);
const hold = new Hold(command, read);
const keyboard = new Keyboard();
const callsOf = (name) => ({
  press: () => $("device").value === name && press(),
  release: () => $("device").value === name && hold.end("let go"),
  stop: () => stop(),
});
const devices = { keyboard, gamepad: new Gamepad(callsOf("gamepad")), spacemouse: new SpaceMouse(callsOf("spacemouse")) };
const fleet = new FleetView($("fleet"), choose);
const labels = new Labels((robot, message) => asker.act(robot, message), { undo: $("label-undo"), state: $("label-state") });
const promotion = person.has_checkpoints ? new PromotionView(person, ask) : null;
stop = () => {
  hold.end("stopped");
  asker.stop();
};

// --- acts ----------------------------------------------------------------------------------------------------------------

function ask(question) {
  hold.end("a question is open");
  return confirmed(question);
}

const act = (message) => asker.act(chosen, message);
const ACTS = {
  async arm() {
    const text = "From now on the arm can move. Look at the scene: objects are back in place, nobody is within reach.";
    if (await ask({ title: "Arm", text, check: "The scene is reset and clear" })) await act({ type: "do", act: "arm" });
  },
  hand_back: () => act({ type: "do", act: "hand_back" }),
  home: () => act({ type: "do", act: "home" }),
  disarm: () => act({ type: "do", act: "disarm" }),
  async clear() {
    const { state, reason } = robots.get(chosen).status;
    const answer = await ask({
      title: state === "fault" ? "Acknowledge the fault" : "Reset the stop",
      text: `Last: ${reason}. It becomes disarmed; nothing moves until it is armed again.`,
      check: "I have looked at the robot, and know why it stopped",
      needsReason: true,
    });
    const how = state === "fault" ? "acknowledge" : "reset";
    if (answer) await act({ type: "clear", act: how, reason: answer.reason, confirmed: true });
  },
  async force() {
    const text = `${robots.get(chosen).status?.holder ?? "Nobody"} has control. That you take it is written down. Then press the hold key.`;
    isForced = (await ask({ title: "Take control by force", text, check: "They know, or cannot be reached" })) !== null;
    if (isForced) notice("The next press takes control by force");
  },
};

function label(name) {
  const { status, lastEpisodeId } = robots.get(chosen);
  const episodeId = status?.episode_id ?? lastEpisodeId;
  if (episodeId) labels.set(chosen, episodeId, name);
  else notice("No episode to label");
}

function press() {
  const { welcome } = robots.get(chosen) ?? {};
  if (!welcome) return notice("No supervisor: nothing to take over");
  hold.press(chosen, $("phase").value, 1000 * welcome.lease_ttl_s, { forced: isForced });
  isForced = false;
}

// What hands say now, for every arm of the robot; a leader arm is read by the server.
function read() {
  const { welcome } = robots.get(chosen), arm = Number($("arm").value), scale = $("fine").checked ? FINE : 1;
  if ($("device").value === "leader") return { type: "lead", arm, scale, phase: $("phase").value };
  const device = devices[$("device").value];
  const fastest = (entry) => Math.min(JOG[entry], welcome.action_high[7 * arm + entry] * welcome.control_hz);
  return {
    twist: welcome.arms.map((_, index) => device.axes().map((axis, entry) => (index === arm ? scale * axis * fastest(entry) : 0))),
    gripper: welcome.arms.map((_, index) => (index === arm ? device.gripper : null)),
    phase: $("phase").value,
  };
}

// --- telemetry -----------------------------------------------------------------------------------------------------------

function choose(name) {
  if (chosen === name) return;
  hold.end("another robot is shown");
  chosen = name;
  const robot = robots.get(name);
  cameras?.close();
  cameras = robot.hasVideo ? new Cameras($("cameras"), name) : null;
  $("robot-name").textContent = name;
  $("work").hidden = false;
  showWelcome(robot.welcome);
  if (robot.status) showStatus(robot.status, person);
  else showNoSupervisor(robot.error ?? "");
  if (robot.steps.length) showStep(robot.welcome, robot.steps.at(-1));
  showEvents(robot.events);
  fleet.show(robots, chosen);
  promotion?.choose(name);
}

const TAKE = {
  robots(message) {
    for (const [name, { has_video: hasVideo }] of Object.entries(message.robots)) {
      if (!robots.has(name)) robots.set(name, { hasVideo, steps: [], points: [], events: [], status: null, welcome: null, heardMs: 0 });
    }
    if (chosen === null) choose(robots.keys().next().value);
  },
  link(message, robot, isShown) {
    Object.assign(robot, { welcome: message.welcome, error: message.error });
    if (isShown) showWelcome(robot.welcome);
    if (!message.error) return;
    robot.status = null;
    if (isShown) {
      hold.end("the supervisor is gone");
      showNoSupervisor(message.error);
    }
  },
  history(message, robot, isShown) {
    Object.assign(robot, { steps: message.steps, events: message.events });
    robot.lastEpisodeId = message.events.findLast((event) => event.episode_id)?.episode_id;
    for (const event of message.events) if (event.kind === "label") labels.hear(event);
    if (isShown) showEvents(robot.events);
  },
  status(message, robot, isShown) {
    const { value, advantage, threshold, time_monotonic_s: time_s } = message;
    robot.status = message;
    robot.heardMs = performance.now();
    robot.lastEpisodeId = message.episode_id ?? robot.lastEpisodeId;
    robot.points.push({ time_s, value, advantage, threshold });
    robot.points = robot.points.filter((point) => time_s - point.time_s < KEPT_S);
    hold.observe(message);
    if (isShown) showStatus(message, person);
    if (isShown) labels.show(robot.lastEpisodeId, robot.events);
  },
  step(message, robot, isShown) {
    robot.steps.push(message);
    if (robot.steps.length > 600) robot.steps.shift();
    if (isShown) showStep(robot.welcome, message);
  },
  event(message, robot, isShown) {
    robot.events.push(message);
    if (robot.events.length > 100) robot.events.shift();
    if (message.kind === "label") labels.hear(message);
    if (isShown) showEvents(robot.events);
    // Whoever asked is told why not, by the answer.
    if (isShown && message.kind === "request" && message.operator !== person.name) notice(message.text);
  },
};

function showLiveness() {
  const robot = robots.get(chosen), silentMs = performance.now() - (robot?.heardMs ?? 0);
  const isSilent = Boolean(robot?.status) && silentMs > SILENT_MS;
  let text = "";
  if (!command.isOpen) text = "Link lost: nothing here is live. STOP still tries to reach the server.";
  else if (isSilent) text = `The supervisor has said nothing for ${Math.floor(silentMs / 1000)} s: what is shown is old.`;
  set("not-live", text);
  $("not-live").hidden = !text;
  document.body.classList.toggle("old", Boolean(text));
  document.body.dataset.live = !text && robot?.status ? "yes" : "no";
  if (text) hold.end("what is shown is not live");
  if (command.roundTripsMs.length) {
    const sorted = [...command.roundTripsMs].sort((a, b) => a - b);
    const at = (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))].toFixed(0);
    set("rtt", command.isOpen ? `${at(0.5)} / ${at(0.95)} ms` : "lost");
  }
}

// --- hands ---------------------------------------------------------------------------------------------------------------

const LETTERS = {
  KeyC: () => { $("phase").value = $("phase").value === "recovery" ? "correction" : "recovery"; },
  KeyF: () => $("fine").click(),
  KeyH: ACTS.hand_back,
  Digit1: () => label("success"), Digit2: () => label("failure"), Digit3: () => label("abort"), KeyU: () => labels.undo(),
};
const hasKeysOfItsOwn = (element) => isTyping(element) || element.matches?.("select, summary, [type=checkbox]");

function wireKeys() {
  window.addEventListener("keydown", (event) => {
    if (hasKeysOfItsOwn(event.target) || event.ctrlKey || event.altKey || event.metaKey || $("confirm").open) return;
    if (event.code === "Space") {
      event.preventDefault();
      if (!event.repeat) press();
    } else if (keyboard.set(event.code, true)) {
      if (hold.isHeld) event.preventDefault();
      if (!event.repeat) hold.send();
    } else if (!event.repeat) LETTERS[event.code]?.();
  });
  window.addEventListener("keyup", (event) => {
    if (event.code === "Space") {
      hold.end("let go");
      if (!hasKeysOfItsOwn(event.target) && !$("confirm").open) event.preventDefault(); // or a focused button would be pressed
    } else if (keyboard.set(event.code, false)) hold.send();
  });
  for (const name of ["blur", "pagehide"]) window.addEventListener(name, clearHands);
  document.addEventListener("visibilitychange", clearHands);
}

function clearHands() {
  for (const device of Object.values(devices)) device.clear();
}

async function chooseDevice() {
  hold.end("another device was chosen");
  clearHands(); // a button that is down when its device is chosen does not count as pressed
  if ($("device").value !== "spacemouse") return;
  const isThere = await devices.spacemouse.open().catch((error) => notice(`No SpaceMouse: ${error.message}`));
  if (!isThere) $("device").value = "keyboard";
}

function wireButtons() {
  $("hold").addEventListener("pointerdown", (event) => { $("hold").setPointerCapture(event.pointerId); press(); });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) $("hold").addEventListener(name, () => hold.end("let go"));
  $("hold").addEventListener("contextmenu", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("[data-move]")) wireMove(button, button.dataset.move);
  for (const [name, handler] of Object.entries(ACTS)) $(`do-${name}`).onclick = handler;
  for (const name of ["success", "failure", "abort"]) $(`label-${name}`).onclick = () => label(name);
  $("label-undo").onclick = () => labels.undo();
  $("device").onchange = chooseDevice;
  $("device-spacemouse").disabled = !SpaceMouse.isPossible;
  $("device-leader").disabled = !person.has_leader;
  $("sign-out").onclick = async () => { await fetch("/session", { method: "DELETE" }); location.reload(); };
  hold.addEventListener("change", ({ detail }) => {
    $("hold").setAttribute("aria-pressed", String(detail.isHeld));
    set("hold-state", detail.text);
    if (!detail.isHeld) clearHands();
    if (detail.isRefusal) notice(detail.text);
  });
}

// A direction under a finger: it moves only while the hold key or button is down too.
function wireMove(button, code) {
  const say = (isDown) => { keyboard.set(code, isDown); hold.send(); };
  button.addEventListener("pointerdown", (event) => { button.setPointerCapture(event.pointerId); say(true); });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(name, () => say(false));
  button.addEventListener("contextmenu", (event) => event.preventDefault());
}

// --- start ---------------------------------------------------------------------------------------------------------------

command.addEventListener("down", ({ detail }) => {
  showLiveness();
  if (detail === 4401) location.reload();
});
command.addEventListener("up", showLiveness);
new Link("/ws/watch").addEventListener("message", ({ detail }) => {
  TAKE[detail.type](detail, robots.get(detail.robot), detail.robot === chosen);
  fleet.show(robots, chosen);
});
wireButtons();
wireKeys();
setInterval(showLiveness, 150);
setInterval(() => chosen && draw(robots.get(chosen)), matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 150);
