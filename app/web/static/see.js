// Shows a model pictures and asks about them; the answer appears as it comes.
"use strict";

(() => {
  const { form, find, ask, fail, busy, ready } = Playground;
  const log = document.querySelector("[data-turns]");
  const template = document.getElementById("turn");
  const thumbnails = find("thumbnails");
  const picker = document.getElementById("files");
  const most = Number(form.dataset.most);
  let chosen = [];
  let conversation = [];

  // --- pictures to show ----------------------------------------------------------------

  function add(files) {
    fail(null);
    for (const file of files) {
      if (!file.type.startsWith("image/")) fail({ message: `${file.name} is no picture.`, hint: "" });
      else if (chosen.length >= most) fail({ message: `This model takes ${most} at most.`, hint: "" });
      else chosen.push({ file, url: URL.createObjectURL(file) });
    }
    draw();
  }

  function draw() {
    thumbnails.replaceChildren(...chosen.map((picture) => {
      const item = document.createElement("li");
      const remove = document.createElement("button");
      remove.type = "button";
      remove.textContent = "×";
      remove.setAttribute("aria-label", `Remove ${picture.file.name}`);
      remove.addEventListener("click", () => {
        chosen = chosen.filter((other) => other !== picture);
        URL.revokeObjectURL(picture.url);
        draw();
      });
      item.append(image(picture), remove);
      return item;
    }));
  }

  function image(picture) {
    const element = document.createElement("img");
    element.src = picture.url;
    element.alt = picture.file.name;
    return element;
  }

  function read(file) {
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.addEventListener("load", () => resolve(reader.result));
      reader.addEventListener("error", () => reject(reader.error));
      reader.readAsDataURL(file);
    });
  }

  picker.addEventListener("change", () => {
    add(picker.files);
    picker.value = "";
  });
  form.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) {
      event.preventDefault();
      add(event.clipboardData.files);
    }
  });
  for (const [name, dropping] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    form.addEventListener(name, (event) => {
      event.preventDefault();
      form.classList.toggle("dropping", dropping);
      if (name === "drop") add(event.dataTransfer.files);
    });
  }

  // --- the conversation ----------------------------------------------------------------

  function turn(who, text, pictures = []) {
    const article = template.content.cloneNode(true).firstElementChild;
    article.querySelector("h2").textContent = who;
    article.querySelector(".said").textContent = text;
    article.querySelector(".shown").append(...pictures.map(image));
    log.append(article);
    return article;
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy()) return;
    const text = form.elements.question.value.trim();
    if (!text && !chosen.length) return;
    const shown = chosen;
    const images = await Promise.all(shown.map(({ file }) => read(file)));
    const content = [
      ...(text ? [{ type: "text", text }] : []),
      ...images.map((url) => ({ type: "image_url", image_url: { url } })),
    ];
    const asked = turn("You", text, shown);
    const answer = turn("{model}", "");
    answer.querySelector("h2").textContent = document.querySelector("h1").textContent;
    const said = answer.querySelector(".said");
    const thought = answer.querySelector(".reasoning");
    form.elements.question.value = "";
    chosen = [];
    draw();
    const messages = [...conversation, { role: "user", content }];
    const whole = await ask({ messages }, {
      tell: () => (said.textContent ? "Answering" : "Looking"),
      take: (chunk) => {
        const reasoning = (chunk.additional_kwargs || {}).reasoning_content;
        if (reasoning) {
          thought.hidden = false;
          thought.querySelector("p").append(reasoning);
        }
        if (typeof chunk.content === "string") said.append(chunk.content);
      },
    });
    if (whole || said.textContent) {
      conversation = [...messages, { role: "assistant", content: said.textContent }];
      find("anew").hidden = false;
    } else {
      asked.remove();
      answer.remove();
      form.elements.question.value = text;
      chosen = shown;
      draw();
    }
    form.elements.question.focus();
  });

  find("anew").addEventListener("click", () => {
    conversation = [];
    log.replaceChildren();
    find("anew").hidden = true;
    fail(null);
    form.elements.question.focus();
  });

  ready();
})();
