// OpenAI's unmodified client for Node against the product: `node openai.mjs <URL> <operation>`.
// Prints what it gets as JSON lines; tests/clients/test_openai_javascript.py judges it.

import OpenAI from "openai";

const [url, operation] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0, timeout: 120_000 });

const messages = [{ role: "user", content: "What is the capital of France?" }];
const exact = { model: "smollm2", messages, temperature: 0, max_tokens: 12 };
const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris"] } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", strict: true, parameters } }];
const tool_choice = { type: "function", function: { name: "weather" } };

const print = (value) => console.log(JSON.stringify(value));

const operations = {
  async models() {
    for await (const model of client.models.list()) print(model.id);
  },

  async chat() {
    const whole = await client.chat.completions.create(exact);
    print({ content: whole.choices[0].message.content, usage: whole.usage });
    let content = "";
    let usage = null;
    const stream = await client.chat.completions.create({ ...exact, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) {
      content += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    print({ content, usage });
  },

  async tool() {
    const stream = client.chat.completions.stream({ ...exact, max_tokens: 64, tools, tool_choice });
    const message = (await stream.finalChatCompletion()).choices[0].message;
    print(message.tool_calls[0].function);
  },

  async embeddings() {
    const { data } = await client.embeddings.create({ model: "minilm", input: ["a text", "another"] });
    print(data.map((each) => each.embedding.length));
  },

  async images() {
    const drawn = await client.images.generate({ model: "emoji-32", prompt: "a red apple", size: "32x32" });
    print(drawn.data[0].b64_json.slice(0, 8));
  },

  async abort() {
    const stream = await client.chat.completions.create({ ...exact, max_tokens: 1500, ignore_eos: true, stream: true });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === 3) stream.controller.abort();
    print({ chunks });
  },

  async wrong() {
    for (const change of [{ model: "nobody" }, { temperature: 9 }, { surprise: 1, stream: true }]) {
      try {
        await client.chat.completions.create({ ...exact, ...change });
        print({ error: null });
      } catch (error) {
        print({ name: error.constructor.name, status: error.status, code: error.code });
      }
    }
  },
};

await operations[operation]();
