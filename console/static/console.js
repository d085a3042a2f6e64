// The page: what is shown comes from the supervisor's telemetry, never from what was clicked.

import { drawCurve, drawTimeline, makeBars, showBars, spansOf } from "./charts.js";
import { Gamepad, Keyboard } from "./devices.js";
import { Hold, isTyping } from "./hold.js";
import { Link } from "./link.js";
import { signIn } from "./session.js";
import { Cameras } from "./video.js";

const UNDO_MS = 10000;
const KEPT_S = 70;
const WORDS = {
  disconnected: ["○", "Disconnected: no arm"], disarmed: ["□", "Disarmed: nothing moves"], armed_idle: ["◇", "Armed, idle"],
  policy: ["▶", "Policy acts"], human: ["✋", "Person acts"], homing: ["◆", "Homing"], hold: ["⏸", "Hold: waits for a person"],
  fault: ["⚠", "Fault, latched"], estop: ["⬣", "STOPPED, latched"],
};
const $ = (id) => document.getElementById(id);
const robots = new Map(); // name -> {welcome, status, steps, points, events, error, hasVideo}
let person, command, watch, hold, cameras, chosen = null;
let nextId = 1e6;
const answers = new Map();
const keyboard = new Keyboard();
let label = null; // {episodeId, timer}: what undo takes back

// --- asking --------------------------------------------------------------------------------------------------------------

function ask(message) {
  const id = nextId++;
  if (!command.send({ ...message, id, robot: chosen })) return Promise.resolve(notice("not sent: no link"));
  return new Promise((resolve) => answers.set(id, resolve));
}

async function act(message) {
  const reply = await ask(message);
  if (reply) notice(reply.ok ? "" : `Refused: ${reply.error}`);
  return reply?.ok ?? false;
}

async function stop() {
  hold?.end("stopped");
  if (command?.send({ type: "stop" })) return;
  try {
    const response = await fetch("/stop", { method: "POST", keepalive: true });
    notice(JSON.stringify(await response.json()));
  } catch {
    notice("STOP COULD NOT BE SENT: use the emergency stop at the robot");
  }
}

function confirmed(title, text, check, needsReason) {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-check").textContent = check;
  $("confirm-looked").checked = false;
  $("confirm-reason").value = "";
  $("confirm-why").hidden = !needsReason;
  hold.end("a question is open");
  dialog.showModal();
  return new Promise((resolve) => {
    const finish = (isYes) => {
      if (isYes && (!$("confirm-looked").checked || (needsReason && !$("confirm-reason").value.trim()))) return;
      const reason = $("confirm-reason").value.trim();
      dialog.close();
      resolve(isYes ? { reason } : null);
    };
    $("confirm-yes").onclick = () => finish(true);
    $("confirm-no").onclick = () => finish(false);
    dialog.oncancel = () => resolve(null);
  });
}

const ACTS = {
  async arm() {
    const text = "From now on the arm can move. Look at the scene: objects are back, nobody is within reach.";
    if (await confirmed("Arm", text, "The scene is reset and clear", false)) await act({ type: "do", act: "arm" });
  },
  hand_back: () => act({ type: "do", act: "hand_back" }),
  home: () => act({ type: "do", act: "home" }),
  disarm: () => act({ type: "do", act: "disarm" }),
  async clear() {
    const isFault = robots.get(chosen)?.status?.state === "fault";
    const answer = await confirmed(
      isFault ? "Acknowledge the fault" : "Reset the stop",
      `${$("reason").textContent} It becomes disarmed; nothing moves until it is armed again.`,
      "I have looked at the robot, and know why it stopped", true,
    );
    if (answer) await act({ type: "clear", act: isFault ? "acknowledge" : "reset", reason: answer.reason, confirmed: true });
  },
  async force() {
    const holder = robots.get(chosen)?.status?.holder;
    const text = `${holder ?? "Nobody"} has control. Taking it by force is recorded. Hold the key after confirming.`;
    if (await confirmed("Take control by force", text, "They know, or cannot be reached", false)) isForced = true;
  },
};
let isForced = false;

function press() {
  const { welcome } = robots.get(chosen) ?? {};
  if (!welcome) return notice("no supervisor: nothing to take over");
  hold.press(chosen, $("phase").value, 1000 * welcome.lease_ttl_s, { forced: isForced });
  isForced = false;
}

function read() {
  const { welcome } = robots.get(chosen);
  const device = $("device").value === "gamepad" ? gamepad : keyboard;
  const scale = $("fine").checked ? 0.25 : 1;
  const arm = Number($("arm").value);
  const twist = welcome.arms.map((_, index) => {
    if (index !== arm) return [0, 0, 0, 0, 0, 0];
    return device.axes().map((axis, entry) => scale * axis * welcome.action_high[7 * index + entry] * welcome.control_hz);
  });
  return { twist, gripper: welcome.arms.map((_, index) => (index === arm ? device.gripper : null)), phase: $("phase").value };
}

async function setLabel(name) {
  const episodeId = robots.get(chosen)?.status?.episode_id ?? robots.get(chosen)?.lastEpisodeId;
  if (!episodeId) return notice("no episode to label");
  if (!(await act({ type: "label", episode_id: episodeId, label: name }))) return;
  clearTimeout(label?.timer);
  $("label-undo").disabled = false;
  label = { episodeId, timer: setTimeout(() => { label = null; $("label-undo").disabled = true; }, UNDO_MS) };
}

async function undoLabel() {
  if (!label) return;
  const { episodeId, timer } = label;
  clearTimeout(timer);
  label = null;
  $("label-undo").disabled = true;
  await act({ type: "label", episode_id: episodeId, label: "none" });
}

// --- showing -------------------------------------------------------------------------------------------------------------

function notice(text) {
  $("notice").textContent = text;
}

function choose(name) {
  if (chosen === name) return;
  hold.end("another robot is shown");
  chosen = name;
  cameras?.close();
  const robot = robots.get(name);
  cameras = robot.hasVideo ? new Cameras($("cameras"), name) : null;
  $("robot-name").textContent = name;
  $("work").hidden = false;
  showWelcome(robot);
  if (robot.status) showStatus(robot.status);
  if (robot.steps.length) showStep(robot, robot.steps.at(-1));
  showEvents(robot);
  showFleet();
}

function showWelcome({ welcome }) {
  if (!welcome) return;
  makeBars($("bars"), welcome);
  $("arm").replaceChildren(...welcome.arms.map((name, index) => new Option(name, index)));
}

function showFleet() {
  const fleet = $("fleet");
  fleet.hidden = robots.size < 2;
  const order = [...robots].sort(([, a], [, b]) => Boolean(b.status?.needs_help ?? b.error) - Boolean(a.status?.needs_help ?? a.error));
  const text = order.map(([name, robot]) => {
    const [mark, word] = WORDS[robot.status?.state] ?? ["○", robot.error ?? "not connected"];
    const value = robot.status?.value;
    return [name, `${name}: ${mark} ${word}${value === null || value === undefined ? "" : ` · value ${value.toFixed(2)}`}`, robot.status?.needs_help ? " ⚑ help" : ""];
  });
  if (JSON.stringify(text) + chosen === fleet.dataset.shown) return;
  fleet.dataset.shown = JSON.stringify(text) + chosen;
  const focused = document.activeElement?.dataset?.robot;
  fleet.replaceChildren(...text.map(([name, line, help]) => {
    const tile = document.createElement("button");
    tile.type = "button";
    tile.dataset.robot = name;
    tile.setAttribute("aria-pressed", String(name === chosen));
    const flag = document.createElement("span");
    flag.className = "help";
    flag.textContent = help;
    tile.append(line, flag);
    tile.onclick = () => choose(name);
    return tile;
  }));
  if (focused) fleet.querySelector(`[data-robot="${CSS.escape(focused)}"]`)?.focus();
}

function set(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function showStatus(status) {
  const [mark, word] = WORDS[status.state];
  $("state").dataset.state = status.state;
  document.body.dataset.state = status.state;
  set("state-mark", mark);
  set("state-word", status.holder ? `${word}: ${status.holder}` : word);
  set("reason", status.reason);
  set("badge", status.checkpoint ? `checkpoint ${status.checkpoint}` : "no checkpoint");
  set("value-now", status.value === null ? "" : `${status.value.toFixed(2)}${status.advantage === null ? "" : `, advantage ${status.advantage.toFixed(2)}`}`);
  set("episode-id", status.episode_id ?? "none");
  set("instruction", status.instruction);
  set("counters", `${status.clipped_ticks} ticks at a limit · ${status.dropped_actions} actions dropped · ${status.late_ticks} of ${status.ticks} ticks late, p99 ${status.tick_late_p99_ms.toFixed(1)} ms`);
  set("help-wanted", status.needs_help ? `⚑ Help wanted: ${status.needs_help}` : "");
  $("help-wanted").hidden = !status.needs_help;
  const isLatched = status.state === "fault" || status.state === "estop";
  $("do-clear").disabled = !isLatched;
  set("do-clear", status.state === "fault" ? "Acknowledge…" : "Reset…");
  $("do-arm").disabled = status.state !== "disarmed";
  $("do-hand_back").disabled = $("do-home").disabled = !["armed_idle", "hold"].includes(status.state);
  $("do-disarm").disabled = isLatched || ["disarmed", "disconnected"].includes(status.state);
  $("do-force").hidden = person.role !== "supervise" || !status.holder || status.holder === person.name;
}

function showStep(robot, step) {
  if (robot.welcome) showBars($("bars"), robot.welcome, step);
  $("clips").classList.toggle("hit", step.clips.length > 0);
  set("clips", step.clips.length ? `⚠ limited by: ${step.clips.join(", ").toLowerCase().replaceAll("_", " ")}` : "no limits hit");
}

function showEvents(robot) {
  $("events").replaceChildren(...robot.events.slice(-40).reverse().map((event) => {
    const item = document.createElement("li");
    item.textContent = `${event.kind}: ${event.label ? `${event.label} ` : ""}${event.text}${event.operator ? ` (${event.operator})` : ""}`;
    return item;
  }));
  const last = robot.events.filter((event) => event.kind === "label").at(-1);
  set("label-state", last && last.label !== "none" ? `${last.label}, by ${last.operator}` : "no label");
}

function draw() {
  const robot = robots.get(chosen);
  if (robot?.status) {
    const spans = spansOf(robot.steps), now = robot.status.time_monotonic_s;
    drawCurve($("curve"), robot.points, spans, now);
    drawTimeline($("timeline"), spans, now);
  }
  if (command?.roundTripsMs.length) {
    const sorted = [...command.roundTripsMs].sort((a, b) => a - b);
    const at = (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))].toFixed(0);
    set("rtt", `${at(0.5)} / ${at(0.95)} ms`);
  }
}

function take(message) {
  if (message.type === "robots") {
    for (const [name, { has_video: hasVideo }] of Object.entries(message.robots)) {
      if (!robots.has(name)) robots.set(name, { hasVideo, steps: [], points: [], events: [], status: null, welcome: null });
    }
    if (chosen === null) choose(robots.keys().next().value);
    return;
  }
  const robot = robots.get(message.robot), isShown = message.robot === chosen;
  if (message.type === "link") {
    robot.welcome = message.welcome;
    robot.error = message.error;
    if (message.error) {
      robot.status = null;
      hold.end("the supervisor is gone");
    }
    if (isShown) {
      showWelcome(robot);
      if (message.error) {
        set("state-word", "No supervisor");
        set("reason", message.error);
        document.body.dataset.state = $("state").dataset.state = "disconnected";
      }
    }
  } else if (message.type === "history") {
    robot.steps = message.steps;
    robot.events = message.events;
    if (isShown) showEvents(robot);
  } else if (message.type === "status") {
    robot.status = message;
    robot.lastEpisodeId = message.episode_id ?? robot.lastEpisodeId;
    robot.points.push({ time_s: message.time_monotonic_s, value: message.value, advantage: message.advantage, threshold: message.threshold });
    robot.points = robot.points.filter((point) => message.time_monotonic_s - point.time_s < KEPT_S);
    hold.observe(message);
    if (isShown) showStatus(message);
  } else if (message.type === "step") {
    robot.steps.push(message);
    if (robot.steps.length > 600) robot.steps.shift();
    if (isShown) showStep(robot, message);
  } else if (message.type === "event") {
    robot.events.push(message);
    if (robot.events.length > 100) robot.events.shift();
    if (isShown) showEvents(robot);
    if (isShown && message.kind === "request") notice(message.text);
  }
  showFleet();
}

// --- hands ---------------------------------------------------------------------------------------------------------------

let gamepad;

function wireKeys() {
  const letters = {
    KeyC: () => { $("phase").value = $("phase").value === "recovery" ? "correction" : "recovery"; },
    KeyF: () => $("fine").click(),
    KeyH: ACTS.hand_back,
    Digit1: () => setLabel("success"), Digit2: () => setLabel("failure"), Digit3: () => setLabel("abort"), KeyU: undoLabel,
  };
  window.addEventListener("keydown", (event) => {
    if (event.code === "Escape") {
      if (!event.repeat) stop();
      return;
    }
    if (isTyping(event.target) || event.target.matches?.("select, summary, [type=checkbox]") || event.ctrlKey || event.altKey || event.metaKey || $("confirm").open) return;
    if (event.code === "Space") {
      event.preventDefault();
      if (!event.repeat) press();
    } else if (keyboard.set(event.code, true)) {
      if (hold.isHeld) event.preventDefault();
      if (!event.repeat) hold.send();
    } else if (!event.repeat) letters[event.code]?.();
  });
  window.addEventListener("keyup", (event) => {
    if (event.code === "Space") {
      hold.end("let go");
      if (!isTyping(event.target) && !event.target.matches?.("select, summary, [type=checkbox]")) event.preventDefault();
    } else if (keyboard.set(event.code, false)) hold.send();
  });
  for (const name of ["blur", "pagehide"]) window.addEventListener(name, clearHands);
  document.addEventListener("visibilitychange", clearHands);
}

function clearHands() {
  keyboard.clear();
  gamepad.clear();
}

function wireButtons() {
  $("hold").addEventListener("pointerdown", (event) => { $("hold").setPointerCapture(event.pointerId); press(); });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) $("hold").addEventListener(name, () => hold.end("let go"));
  $("hold").addEventListener("contextmenu", (event) => event.preventDefault());
  for (const [name, handler] of Object.entries(ACTS)) $(`do-${name}`).onclick = handler;
  for (const name of ["success", "failure", "abort"]) $(`label-${name}`).onclick = () => setLabel(name);
  $("label-undo").onclick = undoLabel;
  $("sign-out").onclick = async () => { await fetch("/session", { method: "DELETE" }); location.reload(); };
  hold.addEventListener("change", ({ detail }) => {
    $("hold").setAttribute("aria-pressed", String(detail.isHeld));
    set("hold-state", detail.text);
    if (!detail.isHeld) clearHands();
    if (detail.isRefusal) notice(detail.text);
  });
}

// --- start ---------------------------------------------------------------------------------------------------------------

$("stop").onclick = stop;
person = await signIn();
$("person").textContent = `${person.name} (${person.role})`;
$("recordings-link").hidden = !person.has_recordings;
command = new Link("/ws/command", { heartbeat: true });
hold = new Hold(command, read);
gamepad = new Gamepad({ press: () => $("device").value === "gamepad" && press(), release: () => $("device").value === "gamepad" && hold.end("let go"), stop });
command.addEventListener("up", () => { $("link-lost").hidden = true; });
command.addEventListener("down", ({ detail }) => { $("link-lost").hidden = false; if (detail === 4401) location.reload(); });
command.addEventListener("message", ({ detail }) => {
  if (detail.type === "reply") {
    answers.get(detail.id)?.(detail);
    answers.delete(detail.id);
  } else if (detail.type === "stopped") {
    notice(Object.entries(detail.robots).map(([name, outcome]) => `${name}: ${outcome}`).join("; "));
  }
});
watch = new Link("/ws/watch");
watch.addEventListener("message", ({ detail }) => take(detail));
wireButtons();
wireKeys();
setInterval(draw, matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 150);
document.body.dataset.ready = "yes";
