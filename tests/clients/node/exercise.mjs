// What a user of the official SDK for Node does with the gateway, as one JSON object on standard
// output: the name of each step, and what came of it. Usage: node exercise.mjs URL
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText } from "ai";
import OpenAI from "openai";

const url = process.argv[2];
const model = "llama-65b";
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "-", maxRetries: 0, timeout: 120_000 });
const messages = [{ role: "user", content: "Wie viele Äpfel? 苹果 🍎" }];
const exact = { model, messages, ignore_eos: true };

// Its default is the API of responses.
const ai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "-" })(model);
const asked = { model: ai, prompt: "How many?", maxOutputTokens: 6, maxRetries: 0 };

async function stream(options) {
  const chunks = await client.chat.completions.create({ ...exact, ...options, stream: true });
  const seen = { texts: {}, reasons: {}, usage: null };
  for await (const chunk of chunks) {
    for (const choice of chunk.choices) {
      seen.texts[choice.index] = (seen.texts[choice.index] ?? "") + (choice.delta.content ?? "");
      seen.reasons[choice.index] = choice.finish_reason ?? seen.reasons[choice.index];
    }
    seen.usage = chunk.usage ?? seen.usage;
  }
  return seen;
}

async function cancelled() {
  const chunks = await client.chat.completions.create({
    ...exact,
    max_tokens: 1500,
    stream: true,
  });
  let seen = 0;
  for await (const _ of chunks) {
    seen += 1;
    if (seen === 5) chunks.controller.abort();
  }
  return seen;
}

const steps = {
  models: async () => (await client.models.list()).data.map((entry) => entry.id),
  one_model: async () => (await client.models.retrieve(model)).id,
  chat: () => client.chat.completions.create({ ...exact, max_tokens: 5, n: 2 }),
  completion: () => client.completions.create({ model, prompt: ["a", "b"], max_tokens: 3 }),
  stop: async () => {
    const whole = await client.chat.completions.create({ ...exact, max_tokens: 20 });
    const stop = whole.choices[0].message.content.split(" ")[5];
    return { stop, ...(await client.chat.completions.create({ ...exact, max_tokens: 20, stop })) };
  },
  stream: () => stream({ max_tokens: 7, n: 2, stream_options: { include_usage: true } }),
  many: async () => {
    const all = await Promise.all(Array.from({ length: 64 }, () => stream({ max_tokens: 30 })));
    return all.map((one) => one.texts[0].split(" ").filter(Boolean).length);
  },
  headers: async () => {
    const { data, response } = await client.chat.completions
      .create({ ...exact, max_tokens: 2 }, { headers: { "x-request-id": "node-1" } })
      .withResponse();
    const worker = response.headers.get("x-makespan-worker");
    return { worker, id: response.headers.get("x-request-id"), kept: data._request_id };
  },
  slash: async () => {
    const other = new OpenAI({ baseURL: `${url}/v1/`, apiKey: "-", maxRetries: 0 });
    return (await other.models.list()).data.length;
  },
  cancelled,
  bad_request: () => client.chat.completions.create({ model, messages: [] }),
  not_found: () => client.chat.completions.create({ ...exact, model: "gpt" }),
  rate_limit: () =>
    client.chat.completions.create(exact, { headers: { "x-makespan-fault": "status=429" } }),
  server_error: () =>
    client.chat.completions.create(exact, { headers: { "x-makespan-fault": "status=500" } }),
  too_large: () => client.completions.create({ model, prompt: "x".repeat(2_000_000) }),
  timeout: () =>
    client.chat.completions.create({ ...exact, max_tokens: 1900 }, { timeout: 2_000 }),
  ai_text: async () => {
    const { text, usage, finishReason } = await generateText(asked);
    return { words: text.split(" ").length, tokens: usage.outputTokens, finishReason };
  },
  ai_stream: async () => {
    const answer = streamText(asked);
    const words = [];
    for await (const word of answer.textStream) words.push(word);
    return { words: words.length, tokens: (await answer.usage).outputTokens };
  },
  no_such_path: () => client.embeddings.create({ model, input: "a" }),
  broken_stream: () =>
    client.chat.completions
      .create(
        { ...exact, max_tokens: 50, stream: true },
        { headers: { "x-makespan-fault": "crash=5" } },
      )
      .then(async (chunks) => {
        for await (const _ of chunks);
        return "ended";
      }),
};

const results = {};
for (const [name, step] of Object.entries(steps)) {
  try {
    results[name] = { value: await step() };
  } catch (error) {
    const { status, code, param, type } = error;
    const kind = Object.keys(OpenAI).find((key) => error.constructor === OpenAI[key]);
    results[name] = { error: { kind: kind ?? error.name, status, code, param, type } };
  }
}
console.log(JSON.stringify(results));
