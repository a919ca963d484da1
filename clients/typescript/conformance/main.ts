// Runs the cases of tests/conformance with this client: one JSON object a line on standard input says what to do, one a
// line on standard output says what came of it. docs/clients.md describes both.

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { fromJson, type JsonValue } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { FinishReason } from "../gen/sluice/chat/v1/usage_pb.js";
import { type ChatSpec as Spec, ChatSpecSchema } from "../gen/sluice/gateway/v1/chat_service_pb.js";
import { TaskState } from "../gen/sluice/task/v1/task_service_pb.js";
import { ErrorReason, isRetryable, ProtocolError, SluiceClient, SluiceError } from "../src/index.js";

interface Instruction {
  do: "chat" | "stream" | "watch" | "reasons";
  address: string;
  key?: string;
  spec?: JsonValue;
  task?: string;
  timeout_ms?: number;
  leave_after?: number;
  leave_told?: boolean;
  pause_after?: number;
}

class Outcome {
  // Runs of events of one kind with numbers that follow on: kind, first number, last number.
  events: [string, number, number][] = [];
  bytes = 0;
  sha256 = "";
  response = "";
  finish = "";
  reconnects = 0;
  left = false;
  error: object | null = null;
  retryable?: string[];
  permanent?: string[];

  note(kind: string, sequence: number): void {
    const last = this.events.at(-1);
    if (last !== undefined && last[0] === kind && last[2] === sequence - 1) last[2] = sequence;
    else this.events.push([kind, sequence, sequence]);
  }

  text(text: string): void {
    this.bytes = Buffer.byteLength(text);
    this.sha256 = createHash("sha256").update(text).digest("hex");
  }
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

for (let line = await lines.next(); !line.done; line = await lines.next()) {
  const todo = JSON.parse(line.value) as Instruction;
  using client = new SluiceClient(todo.address, { key: todo.key });
  const done = new Outcome();
  try {
    await run(client, todo, done);
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error;
    if (error.reason === ErrorReason.CANCELLED && todo.leave_told) done.left = true;
    else done.error = described(error);
  }
  say(done);
}

function say(what: object): void {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

async function run(client: SluiceClient, todo: Instruction, done: Outcome): Promise<void> {
  const spec = fromJson(ChatSpecSchema, todo.spec ?? {});
  switch (todo.do) {
    case "chat": {
      const answer = await client.chat(spec, { timeoutMs: todo.timeout_ms });
      done.response = answer.response;
      done.finish = answer.completed ? FinishReason[answer.completed.finishReason] : "";
      done.text(answer.text);
      return;
    }
    case "stream":
      return stream(client, spec, todo, done);
    case "watch": {
      const tasks = client.watchTask(todo.task ?? "");
      for await (const { sequence, task } of tasks) {
        done.finish = TaskState[task.state];
        done.note(done.finish, sequence);
      }
      done.reconnects = tasks.reconnects;
      return;
    }
    case "reasons": {
      const reasons = Object.values(ErrorReason).filter((value) => typeof value === "number");
      done.retryable = reasons.filter(isRetryable).map((reason) => ErrorReason[reason]).sort();
      done.permanent = reasons.filter((reason) => !isRetryable(reason)).map((reason) => ErrorReason[reason]).sort();
    }
  }
}

async function stream(client: SluiceClient, spec: Spec, todo: Instruction, done: Outcome): Promise<void> {
  const leave = new AbortController();
  const events = client.streamChat(spec, { signal: leave.signal, timeoutMs: todo.timeout_ms });
  if (todo.leave_told) {
    void lines.next().then(() => {
      leave.abort();
      say({ leaving: true });
    });
  }
  const words: string[] = [];
  try {
    for await (const { sequence, event } of events) {
      done.note(event.kind.case!.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), sequence);
      if (event.kind.case === "textDelta") words.push(event.kind.value.text);
      else if (event.kind.case === "completed") done.finish = FinishReason[event.kind.value.finishReason];
      if (sequence === todo.pause_after) await lines.next();
      if (sequence === todo.leave_after) {
        done.left = true;
        break;
      }
    }
  } finally {
    done.text(words.join(""));
    done.response = events.response ?? "";
    done.reconnects = events.reconnects;
  }
}

function described(error: SluiceError): object {
  return {
    reason: error.reasonName,
    code: Code[error.code].replace(/(?!^)[A-Z]/g, "_$&").toUpperCase().replace("CANCELED", "CANCELLED"),
    message: error.message,
    retryable: error.retryable,
    retry_after: (error.retryAfterMs ?? 0) / 1000,
    metadata: error.metadata,
    violations: error.violations.map(({ field, description }) => [field, description]),
    protocol: error instanceof ProtocolError,
  };
}
