// Draws what is asked for, and shows each picture as it comes, with what it was made from.
"use strict";

(() => {
  const { form, ask, ready } = Playground;
  const shelf = document.querySelector("[data-pictures]");
  const template = document.getElementById("picture");
  const NUMBERS = new Set(["num_inference_steps", "guidance_scale", "true_cfg_scale", "seed", "n"]);
  const SMALL = 256;
  const NAMES = {
    prompt: "Prompt",
    negative_prompt: "Negative prompt",
    size: "Size",
    num_inference_steps: "Steps",
    guidance_scale: "Guidance",
    true_cfg_scale: "True CFG",
    seed: "Seed",
    model: "Model",
  };

  function wanted() {
    const input = {};
    for (const [name, value] of new FormData(form)) {
      if (value !== "") input[name] = NUMBERS.has(name) ? Number(value) : value;
    }
    return input;
  }

  /** The address as this page reaches it, also behind a proxy's path prefix. */
  function reached(path) {
    return `../..${path}`;
  }

  function show(block) {
    const { url, parameters } = block.extras;
    const figure = template.content.cloneNode(true).firstElementChild;
    const image = figure.querySelector("img");
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < SMALL));
    image.alt = parameters.prompt;
    image.src = reached(url);
    figure.querySelector("a").href = reached(url);
    const save = figure.querySelector("[data-save]");
    save.href = reached(url);
    save.download = `${parameters.model}-${parameters.seed}.${block.mime_type.split("/")[1]}`;
    figure.querySelector("dl").append(...Object.entries(NAMES).flatMap(([name, label]) => described(label, parameters[name])));
    figure.querySelector("[data-again]").addEventListener("click", () => refill(parameters));
    shelf.prepend(figure);
  }

  function described(label, value) {
    if (value === undefined) return [];
    const term = document.createElement("dt");
    const detail = document.createElement("dd");
    term.textContent = label;
    detail.textContent = value;
    return [term, detail];
  }

  function refill(parameters) {
    for (const field of form.elements) {
      if (field.name && field.name in parameters) field.value = parameters[field.name];
      else if (field.name) field.value = "";
    }
    form.querySelector("details").open = true;
    form.elements.prompt.focus();
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const input = wanted();
    const all = input.n || 1;
    let drawn = 0;
    await ask(input, {
      tell: () => (all > 1 ? `Drawing ${Math.min(drawn + 1, all)} of ${all}` : "Drawing"),
      take: (chunk) => {
        for (const block of chunk.content) {
          if (block.type === "image") {
            show(block);
            drawn += 1;
          }
        }
      },
    });
  });

  ready();
})();
