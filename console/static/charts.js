// Curve of the value, bars of the action, timeline of who acted. Pattern and shape as well as colour.

const WINDOW_S = 60;
const INK = { text: "#e8eaed", faint: "#8a9099", value: "#8ab4f8", advantage: "#fdd663", threshold: "#f28b82", human: "#c58af9", policy: "#81c995", home: "#fcad70" };

function fitted(canvas) {
  const ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function hatched(context, x, y, width, height) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.globalAlpha = 0.25;
  context.fillStyle = INK.human;
  context.fillRect(x, y, width, height);
  context.globalAlpha = 1;
  context.strokeStyle = INK.human;
  context.beginPath();
  for (let at = x - height; at < x + width; at += 6) {
    context.moveTo(at, y + height);
    context.lineTo(at + height, y);
  }
  context.stroke();
  context.restore();
}

function drawCursor(context, x, height) {
  context.strokeStyle = INK.text;
  context.lineWidth = 1;
  context.strokeRect(x, 0, 0, height);
}

// points: [{time_s, value, advantage, threshold}]; spans: [{start_s, end_s, source}]; cursorS: a time to mark.
export function drawCurve(canvas, points, spans, nowS, { windowS = WINDOW_S, cursorS = null } = {}) {
  const { context, width, height } = fitted(canvas);
  const shown = points.filter((point) => point.value !== null && nowS - point.time_s <= windowS);
  const numbers = shown.flatMap((p) => [p.value, p.advantage, p.threshold]).filter((v) => v !== null);
  const low = Math.min(-1, ...numbers), high = Math.max(0.1, ...numbers);
  const x = (timeS) => width * (1 - (nowS - timeS) / windowS);
  const y = (value) => 4 + (height - 8) * (1 - (value - low) / (high - low));
  for (const span of spans) {
    if (span.source === "human") hatched(context, Math.max(0, x(span.start_s)), 0, x(span.end_s) - Math.max(0, x(span.start_s)), height);
  }
  context.font = "12px system-ui";
  context.fillStyle = context.strokeStyle = INK.faint;
  context.lineWidth = 1;
  for (const level of [0, -0.5, -1]) {
    context.fillText(level.toFixed(1), 2, y(level) - 2);
    context.beginPath();
    context.moveTo(0, y(level));
    context.lineTo(width, y(level));
    context.globalAlpha = 0.4;
    context.stroke();
    context.globalAlpha = 1;
  }
  for (const [name, dash] of [["threshold", [2, 4]], ["advantage", [8, 5]], ["value", []]]) {
    context.setLineDash(dash);
    context.strokeStyle = INK[name];
    context.lineWidth = name === "value" ? 2.5 : 1.5;
    context.beginPath();
    let before = null;
    for (const point of shown) {
      if (point[name] === null) continue;
      if (before === null || point.time_s - before > 2) context.moveTo(x(point.time_s), y(point[name]));
      else context.lineTo(x(point.time_s), y(point[name]));
      before = point.time_s;
    }
    context.stroke();
  }
  context.setLineDash([]);
  context.fillStyle = INK.faint;
  if (shown.length === 0) context.fillText("no values", 40, height / 2);
  if (cursorS !== null) drawCursor(context, x(cursorS), height);
}

export function drawTimeline(canvas, spans, nowS, { windowS = WINDOW_S, cursorS = null } = {}) {
  const { context, width, height } = fitted(canvas);
  const x = (timeS) => Math.max(0, width * (1 - (nowS - timeS) / windowS));
  for (const { start_s, end_s, source } of spans) {
    if (nowS - end_s > windowS) continue;
    const left = x(start_s), span = Math.max(1, x(end_s) - left);
    if (source === "human") hatched(context, left, 2, span, height - 4);
    else if (source === "hold") {
      context.strokeStyle = INK.faint;
      context.strokeRect(left, 6, span, height - 12);
    } else {
      context.fillStyle = INK[source] ?? INK.faint;
      context.fillRect(left, source === "home" ? height / 2 - 4 : 6, span, source === "home" ? 8 : height - 12);
    }
  }
  if (cursorS !== null) drawCursor(context, x(cursorS), height);
}

// Neighbouring steps of one source become one span.
export function spansOf(steps) {
  const spans = [];
  for (const step of steps) {
    const end = step.start_monotonic_s + step.duration_s, last = spans.at(-1);
    if (last && last.source === step.source && last.id === step.intervention_id && step.start_monotonic_s - last.end_s < 0.1) last.end_s = end;
    else spans.push({ start_s: step.start_monotonic_s, end_s: end, source: step.source, id: step.intervention_id });
  }
  return spans;
}

export function makeBars(container, welcome) {
  container.replaceChildren(
    ...welcome.action_names.map((name) => {
      const row = document.createElement("div");
      row.className = "bar";
      const label = document.createElement("span");
      label.textContent = name;
      const meters = ["asked", "done"].map((kind) => {
        const meter = document.createElement("i");
        meter.className = kind;
        return meter;
      });
      const track = document.createElement("span");
      track.className = "track";
      track.append(...meters);
      const number = document.createElement("span");
      number.className = "number";
      row.append(label, track, number);
      return row;
    }),
  );
}

export function showBars(container, welcome, step) {
  [...container.children].forEach((row, index) => {
    const low = welcome.action_low[index], high = welcome.action_high[index];
    const place = (value) => 100 * Math.min(1, Math.max(0, (value - low) / (high - low)));
    const zero = place(Math.max(low, 0));
    const values = [step.requested_action[index], step.executed_action[index]];
    row.querySelectorAll("i").forEach((meter, kind) => {
      const at = place(values[kind]);
      meter.style.left = `${Math.min(zero, at)}%`;
      meter.style.width = `${Math.max(0.5, Math.abs(at - zero))}%`;
    });
    row.lastChild.textContent = values[1].toFixed(3);
  });
}
