// Keeps the home page's states current and copies its snippets. The page reads without this script.
"use strict";

(() => {
  const labels = JSON.parse(document.body.dataset.labels);
  const working = new Set(JSON.parse(document.body.dataset.working));
  const POLL_MS = 3000;
  const RECONNECT_MS = 15000;

  /** Text is only ever set as text, and only where it changed: a live region speaks on every write. */
  function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  /** The same words as amount() and size() in vllm_launcher/view.py. */
  function amount(progress) {
    if (!progress || (!progress.total && !progress.done)) return "";
    const { done, total, unit } = progress;
    const say = unit === "bytes" ? size : String;
    return total ? `${say(done)} of ${say(total)}` : say(done);
  }

  function size(bytes) {
    if (bytes < 1000) return `${bytes} B`;
    let value = bytes;
    for (const unit of ["kB", "MB", "GB"]) {
      value /= 1000;
      if (value < 1000) return `${value.toFixed(1)} ${unit}`;
    }
    return `${(value / 1000).toFixed(1)} TB`;
  }

  function showProgress(bar, progress) {
    if (progress && progress.total) {
      bar.max = 1;
      bar.value = Math.min(progress.done / progress.total, 1);
    } else {
      bar.removeAttribute("value");
    }
  }

  function showModel(card, model) {
    const find = (name) => card.querySelector(`[data-${name}]`);
    const state = model.state in labels ? model.state : "unreachable";
    card.dataset.state = state;
    write(find("label"), labels[state]);
    find("working").hidden = !working.has(state);
    write(find("phase"), model.phase || "");
    write(find("amount"), amount(model.progress));
    showProgress(card.querySelector("progress"), model.progress);
    write(find("reason"), model.reason || "");
    write(find("hint"), model.hint || "");
    find("failure").hidden = state !== "failed";
  }

  /** A model that the page does not have, or that this machine serves only now, is not drawn here. */
  function isAnotherPage(models) {
    const has = (name, id) => document.querySelector(`[data-${name}="${CSS.escape(id)}"]`) !== null;
    return models.some((model) => model.state !== "unreachable" && !has(model.refused ? "refused" : "model", model.id));
  }

  function show(models) {
    if (isAnotherPage(models)) {
      location.reload();
      return;
    }
    const byId = new Map(models.map((model) => [model.id, model]));
    const cards = [...document.querySelectorAll("[data-model]")];
    for (const card of cards) {
      const model = byId.get(card.dataset.model);
      card.hidden = !model;
      if (model) showModel(card, model);
    }
    const states = cards.filter((card) => !card.hidden).map((card) => card.dataset.state);
    const ready = states.filter((state) => state === "ready").length;
    write(document.querySelector("[data-summary]"), `${ready} of ${states.length} ready`);
    document.querySelector("[data-launcher]").hidden = !states.includes("unreachable");
    document.querySelector("[data-offline]").hidden = true;
  }

  function lost() {
    document.querySelector("[data-offline]").hidden = false;
  }

  async function poll() {
    try {
      const response = await fetch("models", { headers: { accept: "application/json" }, cache: "no-store" });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      show(await response.json());
    } catch {
      lost();
    }
  }

  /** Events while they come; between a lost stream and the next one, polling. */
  function follow() {
    const events = new EventSource("models/events");
    let timer = null;
    const stopPolling = () => {
      clearInterval(timer);
      timer = null;
    };
    const receive = (event) => {
      stopPolling();
      show(JSON.parse(event.data));
    };
    events.addEventListener("models", receive);
    events.addEventListener("message", receive);
    events.addEventListener("error", () => {
      if (timer === null) {
        poll();
        timer = setInterval(poll, POLL_MS);
      }
      // A refused stream is closed for good, a broken one the browser opens again by itself.
      if (events.readyState === EventSource.CLOSED) {
        setTimeout(() => {
          stopPolling();
          follow();
        }, RECONNECT_MS);
      }
    });
  }

  /** The clipboard API exists on https and localhost only; elsewhere the text is at least selected. */
  async function copy(button) {
    const code = button.closest("figure").querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      confirmCopy(button, "Copied");
    } catch {
      getSelection().selectAllChildren(code);
      confirmCopy(button, document.execCommand("copy") ? "Copied" : "Selected");
    }
  }

  function confirmCopy(button, word) {
    clearTimeout(Number(button.dataset.timer));
    button.textContent = word;
    button.classList.add("done");
    button.dataset.timer = String(
      setTimeout(() => {
        button.textContent = "Copy";
        button.classList.remove("done");
      }, 2000),
    );
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });
  document.documentElement.classList.add("live");
  follow();
})();
