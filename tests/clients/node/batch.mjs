// A batch by the official SDK for Node: a file of requests up, its answers down, as one JSON object
// on standard output. Usage: node batch.mjs URL FILE
import fs from "node:fs";
import OpenAI from "openai";

const [url, path] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "-", maxRetries: 0, timeout: 120_000 });
const open = ["validating", "in_progress", "finalizing"];

const file = await client.files.create({ file: fs.createReadStream(path), purpose: "batch" });
const made = await client.batches.create({
  input_file_id: file.id,
  endpoint: "/v1/completions",
  completion_window: "24h",
  metadata: { by: "node" },
});
let batch = made;
while (open.includes(batch.status)) {
  await new Promise((resolve) => setTimeout(resolve, 100));
  batch = await client.batches.retrieve(made.id);
}
async function lines(id) {
  if (!id) return [];
  const text = await (await client.files.content(id)).text();
  return text.split("\n").filter(Boolean).map((line) => JSON.parse(line).custom_id);
}
const listed = [];
for await (const one of client.batches.list({ limit: 1 })) listed.push(one.id);
const answers = await lines(batch.output_file_id);
const errors = await lines(batch.error_file_id);
const deleted = (await client.files.delete(file.id)).deleted;
console.log(JSON.stringify({ batch, answers, errors, listed, deleted }));
