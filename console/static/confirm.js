// One dialog for all that wants a second look: a box to tick, and a reason where the audit wants one.

const part = (name) => document.getElementById(`confirm-${name}`);

// {reason}, or null if it was called off.
export function confirmed({ title, text, check, needsReason = false }) {
  const dialog = document.getElementById("confirm");
  part("title").textContent = title;
  part("text").textContent = text;
  part("check").textContent = check;
  part("looked").checked = false;
  part("reason").value = "";
  part("why").hidden = !needsReason;
  part("missing").textContent = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const close = (answer) => {
      dialog.oncancel = null;
      dialog.close();
      resolve(answer);
    };
    const confirm = () => {
      const reason = part("reason").value.trim();
      if (!part("looked").checked) part("missing").textContent = "Tick the box first.";
      else if (needsReason && !reason) part("missing").textContent = "Say why; it is written down.";
      else close({ reason });
    };
    part("form").onsubmit = (event) => { event.preventDefault(); confirm(); };
    part("no").onclick = () => close(null);
    dialog.oncancel = () => close(null);
  });
}
