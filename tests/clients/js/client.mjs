// LangChain's unmodified RemoteRunnable against one chain: `node client.mjs <chain URL> <operation>`.
// Prints what it gets as JSON lines; tests/clients/test_remote_runnable_javascript.py judges it.

import { AIMessage, HumanMessage, SystemMessage } from "@langchain/core/messages";
import { RemoteRunnable } from "@langchain/core/runnables/remote";

const [url, operation] = process.argv.slice(2);
const chain = new RemoteRunnable({ url, options: { timeout: 120_000 } });
const exact = { configurable: { temperature: 0, max_tokens: 48 } };

const capital = { messages: [new HumanMessage("Name the capital of France.")] };
const story = { messages: [new HumanMessage("Tell me a story about a lighthouse.")] };

const print = (value) => console.log(JSON.stringify(value));
const text = (chunk) => ({ at: performance.now(), kind: chunk.constructor.name, content: chunk.content });

const operations = {
  async invoke() {
    print(text(await chain.invoke(capital, exact)));
  },

  async conversation() {
    const messages = [
      new SystemMessage("Answer in one short sentence."),
      new HumanMessage("My name is Ada."),
      new AIMessage("Hello Ada."),
      new HumanMessage("What is my name?"),
    ];
    print(text(await chain.invoke({ messages }, exact)));
  },

  async stream() {
    for await (const chunk of await chain.stream(story, exact)) print(text(chunk));
  },

  async batch() {
    for (const answer of await chain.batch([capital, story], exact)) print(text(answer));
  },

  async events() {
    for await (const event of chain.streamEvents(story, { ...exact, version: "v2" })) {
      print({ event: event.event, name: event.name, content: event.data?.chunk?.content ?? null });
    }
  },

  async log() {
    let whole;
    for await (const patch of chain.streamLog(story, exact)) whole = whole ? whole.concat(patch) : patch;
    const state = whole.ops.reduce((found, op) => found + (op.path === "/streamed_output/-" ? op.value.content : ""), "");
    print({ patches: whole.ops.length, content: state });
  },

  async abort() {
    const controller = new AbortController();
    let chunks = 0;
    try {
      const long = { configurable: { temperature: 0, max_tokens: 1500 }, signal: controller.signal };
      for await (const _ of await chain.stream(story, long)) if (++chunks === 3) controller.abort();
      print({ chunks, ended: true });
    } catch (error) {
      print({ chunks, error: error.name });
    }
  },

  async wrong() {
    for (const call of [() => chain.invoke({ messages: 42 }), () => chain.stream({ messages: 42 })]) {
      try {
        for await (const _ of [await call()].flat()) break;
        print({ error: null });
      } catch (error) {
        print({ error: error.message });
      }
    }
  },
};

await operations[operation]();
