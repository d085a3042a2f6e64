// Signing in: a one-time token in the address's fragment, which no server log sees, or one that is typed.

const NAME_KEY = "operator-name";

export async function signIn() {
  const form = document.getElementById("sign-in"), notice = document.getElementById("notice");
  const token = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  document.getElementById("name").value = localStorage.getItem(NAME_KEY) ?? "";
  if (token) document.getElementById("token").value = token;
  for (;;) {
    const response = await fetch("/session");
    if (response.ok && !token) return response.json();
    form.hidden = false;
    document.getElementById(document.getElementById("name").value ? "token" : "name").focus();
    await new Promise((resolve) => {
      form.onsubmit = (event) => { event.preventDefault(); resolve(); };
    });
    const name = document.getElementById("name").value;
    const answer = await fetch("/session", { method: "POST", body: JSON.stringify({ token: document.getElementById("token").value, name }) });
    if (answer.ok) {
      localStorage.setItem(NAME_KEY, name);
      form.hidden = true;
      notice.textContent = "";
      return (await fetch("/session")).json();
    }
    notice.textContent = (await answer.json()).error;
  }
}
