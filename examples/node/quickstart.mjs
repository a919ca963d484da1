// Indexes a folder, asks a question about it, and prints the cited answer while it streams.
//
//   node quickstart.mjs FOLDER QUESTION
//
// SLUICE_ADDRESS is the gateway's address (default 127.0.0.1:7400), SLUICE_API_KEY the key where it wants one.

import { randomUUID } from "node:crypto";
import { basename, resolve } from "node:path";
import { call, connect, reasonOf } from "./sluice.mjs";

const [folder, question] = process.argv.slice(2);
if (!folder || !question) {
  console.error("usage: node quickstart.mjs FOLDER QUESTION");
  process.exit(2);
}
const mesh = connect(process.env.SLUICE_ADDRESS, process.env.SLUICE_API_KEY);
try {
  const corpus = await createCorpus(`node-${basename(resolve(folder)).toLowerCase().replace(/[^a-z0-9]+/g, "-")}`);
  await index(corpus, resolve(folder));
  await ask(corpus, question);
} catch (error) {
  console.error(`${reasonOf(error) ?? "no answer"}: ${error.details ?? error.message}`);
  process.exitCode = 1;
} finally {
  mesh.close();
}

async function createCorpus(id) {
  try {
    await call(mesh.corpora, "createCorpus", { corpus_id: id });
  } catch (error) {
    if (reasonOf(error) !== "ALREADY_EXISTS") throw error;
  }
  return `corpora/${id}`;
}

// Indexing is a task: it goes on in the retrieval service while this program watches it.
async function index(name, path) {
  const { task } = await call(mesh.corpora, "indexCorpus", { name, source: { local: { path } }, request_id: randomUUID() });
  let last = task;
  for await (const { events } of mesh.tasks.watchTask({ name: task.name })) {
    if (events.length > 0) last = events.at(-1).task;
  }
  if (last.state !== "TASK_STATE_SUCCEEDED") throw new Error(`indexing: ${last.state} ${last.error?.message ?? ""}`);
  console.log(`indexed ${last.counts.files} files as ${name}`);
}

async function ask(corpus, text) {
  const stream = mesh.chat.streamChat({
    request_id: randomUUID(),
    spec: {
      messages: [{ role: "MESSAGE_ROLE_USER", parts: [{ text }] }],
      grounding: { corpora: [corpus] },
    },
  });
  // A batch holds events; the i-th has the number first_sequence + i. A batch without events is a heartbeat.
  for await (const { events } of stream) {
    for (const event of events) {
      switch (event.kind) {
        case "text_delta":
          process.stdout.write(event.text_delta.text);
          break;
        case "citation": {
          const { path, start_line: from, end_line: to, state } = event.citation;
          console.log(`${path}:${from}-${to} ${state.replace("CITATION_STATE_", "")}`);
          break;
        }
        case "completed":
          console.log(`completed: ${event.completed.finish_reason.replace("FINISH_REASON_", "")}`);
          break;
        // Kinds that this program does not know are skipped: new ones may come.
      }
    }
  }
}
