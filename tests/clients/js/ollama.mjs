// Ollama's unmodified client for JavaScript against the product: `node ollama.mjs <URL> <operation>`.
// Prints what it gets as JSON lines; tests/clients/test_ollama_javascript.py judges it.

import { Ollama } from "ollama";

const [url, operation] = process.argv.slice(2);
const client = new Ollama({ host: url });

const messages = [{ role: "user", content: "What is the capital of France?" }];
const exact = { model: "smollm2", messages, options: { temperature: 0, num_predict: 12 } };

const print = (value) => console.log(JSON.stringify(value));

const operations = {
  async models() {
    for (const model of (await client.list()).models) print(model.name);
    for (const model of (await client.ps()).models) print(model.name);
    print((await client.show({ model: "smollm2" })).capabilities);
  },

  async chat() {
    print((await client.chat(exact)).message.content);
    let content = "";
    let last = null;
    for await (const part of await client.chat({ ...exact, stream: true })) {
      content += part.message.content;
      last = part;
    }
    print({ content, done: last.done, count: last.eval_count });
  },

  async generate() {
    const raw = { model: "smollm2", prompt: "The capital of France is", raw: true, options: exact.options };
    print((await client.generate(raw)).response);
  },

  async embed() {
    const { embeddings } = await client.embed({ model: "minilm", input: ["a text", "another"] });
    print(embeddings.map((each) => each.length));
  },

  async abort() {
    const stream = await client.chat({ ...exact, options: { num_predict: 1500 }, stream: true });
    let parts = 0;
    try {
      for await (const _ of stream) if (++parts === 3) stream.abort();
      print({ parts, error: null });
    } catch (error) {
      print({ parts, error: error.name });
    }
  },

  async wrong() {
    for (const change of [{ model: "nobody" }, { options: { mirostat: 1 } }, { model: "nobody", stream: true }]) {
      try {
        await client.chat({ ...exact, ...change });
        print({ error: null });
      } catch (error) {
        print({ name: error.constructor.name, status: error.status_code, error: error.message });
      }
    }
  },
};

await operations[operation]();
