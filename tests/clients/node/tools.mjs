// Tools by Vercel's SDK in its default mode, that of responses, as one JSON object on standard output:
// what was called, in one piece and as a stream. Usage: node tools.mjs URL
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, streamText, tool } from "ai";

const model = createOpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "-" })("m");
const weather = tool({
  description: "The weather of a city",
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
});
const asked = { model, prompt: "How is it in Rome?", tools: { weather }, maxRetries: 0 };
const called = (calls) => calls.map(({ toolName, input }) => [toolName, input]);

const text = await generateText(asked);
const stream = streamText(asked);
const parts = [];
for await (const part of stream.fullStream) parts.push(part.type);
console.log(JSON.stringify({
  text: called(text.toolCalls),
  why: text.finishReason,
  stream: called(await stream.toolCalls),
  parts,
}));
