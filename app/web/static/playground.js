// What the pages that draw and see share: one request at a time, streamed from the routes beside the page.
"use strict";

const Playground = (() => {
  const form = document.getElementById("ask");
  const find = (name) => form.querySelector(`[data-${name}]`);
  const button = form.querySelector("[type=submit]");
  let running = null;

  /** Yield the events of an answer, and its comments as events named "progress" (docs/http-api.md). */
  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const frames = (rest + value).split(/\r\n\r\n|\n\n/);
      rest = frames.pop();
      for (const frame of frames) yield parse(frame);
    }
  }

  function parse(frame) {
    const event = { name: "message", data: "" };
    for (const line of frame.split(/\r\n|\n/)) {
      if (line.startsWith("event: ")) event.name = line.slice(7);
      else if (line.startsWith("data: ")) event.data += line.slice(6);
      else if (line.startsWith(":")) {
        event.name = "progress";
        event.data += line.slice(1).trim();
      }
    }
    return event;
  }

  class Failure extends Error {
    constructor(error) {
      super(error.message || "The service gave no reason.");
      this.hint = error.hint || "";
    }
  }

  async function refusal(response) {
    try {
      return new Failure((await response.json()).error);
    } catch {
      return new Failure({ message: `The service answered with ${response.status}.` });
    }
  }

  /**
   * Stream one input. `take` gets each chunk; `tell` says what is going on, and is asked again every 100 ms.
   * Resolves to whether the answer is whole.
   */
  async function ask(input, { take, tell }) {
    const begun = performance.now();
    let loading = "";
    const show = () => {
      write(find("phase"), loading || tell());
      write(find("amount"), `${((performance.now() - begun) / 1000).toFixed(1)} s`);
    };
    running = new AbortController();
    set(true);
    fail(null);
    show();
    const clock = setInterval(show, 100);
    try {
      const response = await fetch("../stream", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ input }),
        signal: running.signal,
      });
      if (!response.ok) throw await refusal(response);
      for await (const event of events(response)) {
        if (event.name === "progress") loading = phase(event.data, loading);
        if (event.name === "error") throw new Failure(JSON.parse(event.data));
        if (event.name === "end") return true;
        if (event.name === "data") {
          loading = "";
          take(JSON.parse(event.data));
        }
      }
      throw new Failure({ message: "The connection was cut before the answer was whole." });
    } catch (error) {
      if (error.name !== "AbortError") {
        fail(error instanceof Failure ? error : new Failure({ message: "The service cannot be reached." }));
      }
      return false;
    } finally {
      clearInterval(clock);
      running = null;
      set(false);
    }
  }

  function phase(data, before) {
    try {
      const told = JSON.parse(data);
      return told.state === "ready" ? "" : `The model is getting ready: ${told.phase || told.state}`;
    } catch {
      return before; // a comment that only keeps the connection open
    }
  }

  function set(working) {
    find("working").hidden = !working;
    find("stop").hidden = !working;
    button.disabled = working;
  }

  /** Take questions from now on. Before, a press would send the form as an address, with the prompt in it. */
  function ready() {
    set(false);
  }

  function fail(error) {
    find("failure").hidden = error === null;
    write(find("reason"), error ? error.message : "");
    write(find("hint"), error ? error.hint : "");
  }

  function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  find("stop").addEventListener("click", () => running && running.abort());
  form.querySelector("textarea").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!button.disabled) form.requestSubmit();
    }
  });

  return { form, find, ask, fail, write, ready, busy: () => running !== null };
})();
