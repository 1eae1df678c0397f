// The token of the link is read once and taken out of the address, so that it stays in no history.
const token = new URLSearchParams(location.search).get("token");
if (token) history.replaceState(null, "", location.pathname);

const ask = document.getElementById("ask");
const set = document.getElementById("set");
if (ask && set) (token ? set : ask).hidden = false;
const setUp = document.getElementById("set-up");
if (setUp) (token ? setUp : document.getElementById("missing")).hidden = false;

for (const form of document.forms) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const alert = form.querySelector("[role=alert]");
    const status = form.querySelector("[role=status]");
    const button = form.querySelector("button");
    alert.textContent = status.textContent = "";
    button.disabled = true;
    const body = Object.fromEntries(new FormData(form));
    if (token) body.token = token;
    try {
      const answer = await fetch(form.dataset.action, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      if (answer.ok) {
        status.textContent = form.dataset.done;
        form.reset();
        return;
      }
      const problem = await answer.json();
      alert.textContent = (problem.errors || []).map((e) => e.detail).join(" ") || problem.detail;
    } catch {
      alert.textContent = "The server cannot be reached. Try again.";
    } finally {
      button.disabled = false;
    }
  });
}
