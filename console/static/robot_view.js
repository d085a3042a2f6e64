// What the page says about the robot that is chosen. All of it comes from the supervisor's telemetry, nothing from what was clicked.

import { drawCurve, drawTimeline, makeBars, showBars, spansOf } from "./charts.js";

export const WORDS = {
  disconnected: ["○", "Disconnected: no arm"], disarmed: ["□", "Disarmed: nothing moves"], armed_idle: ["◇", "Armed, idle"],
  policy: ["▶", "Policy acts"], human: ["▨", "Person acts"], homing: ["◆", "Homing"], hold: ["‖", "Hold: waits for a person"],
  fault: ["⚠", "Fault, latched"], estop: ["⬣", "STOPPED, latched"],
};
const $ = (id) => document.getElementById(id);

export function set(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

export function showWelcome(welcome) {
  if (!welcome) return;
  makeBars($("bars"), welcome);
  $("arm").replaceChildren(...welcome.arms.map((name, index) => new Option(name, index)));
  $("which-arm").hidden = welcome.arms.length < 2;
}

export function showNoSupervisor(error) {
  document.body.dataset.state = $("state").dataset.state = "disconnected";
  set("state-mark", "○");
  set("state-word", "No supervisor");
  set("waiting", "");
  set("reason", error);
  for (const name of ["arm", "hand_back", "home", "disarm", "clear"]) $(`do-${name}`).disabled = true;
}

export function showStatus(status, person) {
  const [mark, word] = WORDS[status.state];
  document.body.dataset.state = $("state").dataset.state = status.state;
  set("state-mark", mark);
  set("state-word", status.holder ? `${word}: ${status.holder}` : word);
  set("waiting", status.waiting_for && `The robot's worker waits for ${status.waiting_for}`);
  set("reason", status.reason);
  set("badge", status.checkpoint && status.checkpoint !== "none" ? `checkpoint ${status.checkpoint}` : "no checkpoint");
  set("value-now", [["", status.value], ["advantage ", status.advantage], ["threshold ", status.threshold]]
    .filter(([, number]) => number !== null).map(([name, number]) => name + number.toFixed(2)).join(", "));
  set("episode-id", status.episode_id ?? "none");
  set("instruction", status.instruction);
  set("counters", `${status.clipped_ticks} ticks at a limit · ${status.dropped_actions} actions dropped · ` +
    `${status.late_ticks} of ${status.ticks} ticks late, p99 ${status.tick_late_p99_ms.toFixed(1)} ms`);
  set("help-wanted", status.needs_help ? `⚑ Help wanted: ${status.needs_help}` : "");
  $("help-wanted").hidden = !status.needs_help;
  showActs(status, person);
}

function showActs(status, person) {
  const mayAct = person.role !== "view", isLatched = status.state === "fault" || status.state === "estop";
  const allowed = {
    arm: status.state === "disarmed",
    hand_back: ["armed_idle", "hold"].includes(status.state),
    home: ["armed_idle", "hold"].includes(status.state),
    disarm: !isLatched && !["disarmed", "disconnected"].includes(status.state),
    clear: isLatched,
  };
  for (const [name, isAllowed] of Object.entries(allowed)) $(`do-${name}`).disabled = !(mayAct && isAllowed);
  set("do-clear", status.state === "fault" ? "Acknowledge…" : "Reset…");
  $("do-force").hidden = person.role !== "supervise" || !status.holder || status.holder === person.name;
}

export function showStep(welcome, step) {
  if (welcome) showBars($("bars"), welcome, step);
  $("clips").classList.toggle("hit", step.clips.length > 0);
  set("clips", step.clips.length ? `⚠ limited by: ${step.clips.join(", ").toLowerCase().replaceAll("_", " ")}` : "no limits hit");
}

export function showEvents(events) {
  $("events").replaceChildren(...events.slice(-40).reverse().map((event) => {
    const item = document.createElement("li");
    const by = event.operator ? ` (${event.operator})` : "";
    item.textContent = `${event.kind}: ${event.label ? `${event.label} ` : ""}${event.text}${by}`;
    return item;
  }));
}

export function draw(robot) {
  if (!robot.status) return;
  const spans = spansOf(robot.steps), nowS = robot.status.time_monotonic_s;
  drawCurve($("curve"), robot.points, spans, nowS);
  drawTimeline($("timeline"), spans, nowS);
}
