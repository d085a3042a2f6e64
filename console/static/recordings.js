// Plays an episode of the replay store: pictures, value, who acted.

import { drawCurve, drawTimeline } from "./charts.js";
import { signIn } from "./session.js";

const $ = (id) => document.getElementById(id);
const ENDS = { success: "✓ success", failure: "✗ failure" };
let episode = null, at = 0, timer = null;

async function get(path) {
  const response = await fetch(path), answer = await response.json();
  if (!response.ok) {
    $("notice").textContent = answer.error;
    throw new Error(answer.error);
  }
  $("notice").textContent = "";
  return answer;
}

function seconds(value) {
  return `${value.toFixed(1)} s`;
}

async function open(info, button) {
  const loaded = await get(`/recordings/${encodeURIComponent(info.id)}`);
  pause();
  episode = { ...loaded, id: info.id };
  for (const other of $("list").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
  $("title").textContent = `${info.instruction || info.id}: ${ENDS[info.end] ?? info.end}`;
  $("version").textContent = episode.value === null ? "no value model has labelled it" : `value version ${episode.value_version}`;
  $("cameras").replaceChildren(...episode.cameras.map((camera) => {
    const figure = document.createElement("figure"), image = document.createElement("img"), caption = document.createElement("figcaption");
    image.alt = `camera ${camera}`;
    caption.textContent = camera;
    figure.append(image, caption);
    return figure;
  }));
  $("step").max = episode.time_s.length - 1;
  for (const id of ["step", "play", "back", "on"]) $(id).disabled = false;
  show(0);
}

function show(step) {
  at = Math.max(0, Math.min(episode.time_s.length - 1, step));
  $("step").value = at;
  [...$("cameras").querySelectorAll("img")].forEach((image, index) => {
    image.src = `/recordings/${encodeURIComponent(episode.id)}/${encodeURIComponent(episode.cameras[index])}/${at}.jpg`;
  });
  const value = episode.value === null ? "" : `, value ${episode.value[at].toFixed(2)}`;
  const who = at < episode.source.length ? episode.source[at] : "end";
  $("now").textContent = `step ${at} of ${episode.time_s.length - 1}, ${seconds(episode.time_s[at])}, ${who}${value}`;
  draw();
}

function draw() {
  const { time_s: times, source, value, advantage } = episode, last = times.at(-1);
  const spans = source.map((name, t) => ({ start_s: times[t], end_s: times[t + 1], source: name }));
  const points = value === null ? [] : times.map((time_s, t) => ({ time_s, value: value[t], advantage: advantage[t] ?? null, threshold: null }));
  drawCurve($("curve"), points, spans, last, { windowS: last, cursorS: times[at] });
  drawTimeline($("timeline"), spans, last, { windowS: last, cursorS: times[at] });
}

function pause() {
  clearTimeout(timer);
  timer = null;
  $("play").textContent = "▶ Play";
}

function play() {
  if (timer !== null) return pause();
  if (at === episode.time_s.length - 1) show(0);
  $("play").textContent = "‖ Pause";
  const step = () => {
    if (at >= episode.time_s.length - 1) return pause();
    show(at + 1);
    timer = setTimeout(step, at + 1 < episode.time_s.length ? 1000 * (episode.time_s[at + 1] - episode.time_s[at]) : 0);
  };
  timer = setTimeout(step, 0);
}

const person = await signIn();
$("person").textContent = `${person.name} (${person.role})`;
const infos = await get("/recordings/list");
$("player").hidden = false;
$("list").replaceChildren(...infos.map((info) => {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  const human = info.num_human_steps ? `, ${info.num_human_steps} by a person` : "";
  button.textContent = `${info.instruction || info.id} · ${ENDS[info.end] ?? info.end} · ${info.num_steps} steps${human}`;
  button.onclick = () => open(info, button);
  item.append(button);
  return item;
}));
if (infos.length === 0) $("title").textContent = "Nothing is recorded yet";
$("play").onclick = play;
$("back").onclick = () => { pause(); show(at - 1); };
$("on").onclick = () => { pause(); show(at + 1); };
$("step").oninput = () => { pause(); show(Number($("step").value)); };
window.addEventListener("resize", () => episode && draw());
document.body.dataset.live = "yes";
