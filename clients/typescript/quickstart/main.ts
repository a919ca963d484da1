// Indexes a folder, asks a question about it, and prints the cited answer while it streams.
//
//   node dist/quickstart/main.js FOLDER QUESTION
//
// SLUICE_ADDRESS is the gateway's address (default 127.0.0.1:7400), SLUICE_API_KEY the key where it wants one.

import { randomUUID } from "node:crypto";
import { basename, resolve } from "node:path";
import { MessageRole } from "../gen/sluice/chat/v1/message_pb.js";
import { CitationState } from "../gen/sluice/chat/v1/passage_pb.js";
import { FinishReason } from "../gen/sluice/chat/v1/usage_pb.js";
import { CorpusService } from "../gen/sluice/retrieval/v1/corpus_service_pb.js";
import { TaskState } from "../gen/sluice/task/v1/task_service_pb.js";
import { ErrorReason, SluiceClient, SluiceError } from "../src/index.js";

const [folder, question] = process.argv.slice(2);
if (!folder || !question) {
  console.error("usage: node dist/quickstart/main.js FOLDER QUESTION");
  process.exit(2);
}
using client = new SluiceClient(process.env["SLUICE_ADDRESS"] ?? "127.0.0.1:7400", {
  key: process.env["SLUICE_API_KEY"],
});
// Ctrl-C ends the answer, here and upstream.
const leave = new AbortController();
process.once("SIGINT", () => leave.abort());
try {
  const corpus = await createCorpus(`node-${basename(resolve(folder)).toLowerCase().replace(/[^a-z0-9]+/g, "-")}`);
  await index(corpus, resolve(folder));
  await ask(corpus, question);
} catch (error) {
  const failure = SluiceError.from(error);
  console.error(`${failure.reasonName}: ${failure.message}`);
  process.exitCode = 1;
}

async function createCorpus(corpusId: string): Promise<string> {
  try {
    await client.service(CorpusService).createCorpus({ corpusId });
  } catch (error) {
    if (SluiceError.from(error).reason !== ErrorReason.ALREADY_EXISTS) throw error;
  }
  return `corpora/${corpusId}`;
}

// Indexing is a task: it goes on in the retrieval service while this program watches it.
async function index(name: string, path: string): Promise<void> {
  const source = { kind: { case: "local", value: { path } } } as const;
  const { task } = await client.service(CorpusService).indexCorpus({ name, source, requestId: randomUUID() });
  const last = await client.watchTask(task?.name ?? "").result();
  if (last.state !== TaskState.SUCCEEDED) throw new Error(`indexing: ${TaskState[last.state]} ${last.error?.message ?? ""}`);
  console.log(`indexed ${last.counts["files"]} files as ${name}`);
}

async function ask(corpus: string, text: string): Promise<void> {
  const spec = {
    messages: [{ role: MessageRole.USER, parts: [{ kind: { case: "text", value: text } as const }] }],
    grounding: { corpora: [corpus] },
  };
  for await (const { event } of client.streamChat(spec, { signal: leave.signal })) {
    switch (event.kind.case) {
      case "textDelta":
        process.stdout.write(event.kind.value.text);
        break;
      case "citation": {
        const { path, startLine, endLine, state } = event.kind.value;
        console.log(`${path}:${startLine}-${endLine} ${CitationState[state]}`);
        break;
      }
      case "completed":
        console.log(`completed: ${FinishReason[event.kind.value.finishReason]}`);
    }
  }
}
