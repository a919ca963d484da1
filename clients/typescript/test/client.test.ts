import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { ErrorInfoSchema, HelpSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { type Event, EventSchema } from "../gen/sluice/chat/v1/event_pb.js";
import {
  ChatService,
  ResumeChatResponseSchema,
  type StreamChatResponse,
  StreamChatResponseSchema,
} from "../gen/sluice/gateway/v1/chat_service_pb.js";
import { ChatStream, DEFAULT_RETRY, ErrorReason, ProtocolError, SluiceClient, SluiceError } from "../src/index.js";
import { Backoff, Deadline } from "../src/retry.js";

const ACCEPTED = create(EventSchema, { kind: { case: "accepted", value: { response: "responses/r1" } } });
const COMPLETED = create(EventSchema, { kind: { case: "completed", value: {} } });

function text(words: string): Event {
  return create(EventSchema, { kind: { case: "textDelta", value: { text: words } } });
}

/** A gateway that sends `first`, then fails; resumed, it sends `rest` behind it. It notes what it was asked. */
function gateway(first: Event[], failure: Error | undefined, rest: Event[] = []) {
  const seen = { resumed: [] as number[], cancelled: [] as string[] };
  const calls = {
    async *start(): AsyncGenerator<StreamChatResponse> {
      yield create(StreamChatResponseSchema, { firstSequence: 1n, events: first });
      if (failure) throw failure;
    },
    async *resume(_response: string, after: number) {
      seen.resumed.push(after);
      yield create(ResumeChatResponseSchema, { firstSequence: BigInt(after + 1), events: rest });
    },
    async cancel(response: string) {
      seen.cancelled.push(response);
    },
  };
  return { seen, calls };
}

test("a stream goes on where it broke", async () => {
  const { seen, calls } = gateway([ACCEPTED, text("low ")], new ConnectError("reset", Code.Unavailable), [
    text("tide"),
    COMPLETED,
  ]);
  const stream = new ChatStream(calls, DEFAULT_RETRY, { graceMs: 30_000 });
  assert.equal(await stream.text(), "low tide");
  assert.deepEqual(seen, { resumed: [2], cancelled: [] });
  assert.deepEqual([stream.reconnects, stream.lastSequence], [1, 4]);
});

test("without resuming, a break is the end", async () => {
  const { seen, calls } = gateway([ACCEPTED], new ConnectError("reset", Code.Unavailable));
  const stream = new ChatStream(calls, DEFAULT_RETRY, { graceMs: undefined });
  await assert.rejects(stream.text(), { reason: ErrorReason.SERVICE_UNREACHABLE });
  assert.deepEqual(seen.resumed, []);
});

test("status OK without its last event is a failure", async () => {
  const { calls } = gateway([ACCEPTED], undefined);
  await assert.rejects(new ChatStream(calls, DEFAULT_RETRY, { graceMs: 0 }).text(), ProtocolError);
});

test("what a restart voids is no part of the text", async () => {
  const restarted = create(EventSchema, { kind: { case: "restarted", value: { discardFrom: 2n } } });
  const { calls } = gateway([ACCEPTED, text("wrong"), restarted, text("right"), COMPLETED], undefined);
  assert.equal(await new ChatStream(calls, DEFAULT_RETRY, { graceMs: 0 }).text(), "right");
});

test("leaving early cancels the response, unless it was detached", async () => {
  for (const detach of [false, true]) {
    const { seen, calls } = gateway([ACCEPTED, text("low")], undefined);
    const stream = new ChatStream(calls, DEFAULT_RETRY, { graceMs: 30_000 });
    for await (const { sequence } of stream) {
      assert.equal(sequence, 1);
      if (detach) stream.detach();
      break;
    }
    assert.deepEqual(seen.cancelled, detach ? [] : ["responses/r1"]);
  }
});

test("an error has what the status says", () => {
  const limited = SluiceError.from(
    new ConnectError("slow down", Code.ResourceExhausted, undefined, [
      { desc: ErrorInfoSchema, value: { domain: "sluice", reason: "UPSTREAM_RATE_LIMITED", metadata: { provider: "x" } } },
      { desc: RetryInfoSchema, value: { retryDelay: durationFromMs(3_500) } },
      { desc: HelpSchema, value: { links: [{ url: "https://example.com/limits" }] } },
    ]),
  );
  assert.equal(limited.reasonName, "UPSTREAM_RATE_LIMITED");
  assert.deepEqual([limited.retryable, limited.broken, limited.retryAfterMs], [true, false, 3_500]);
  assert.deepEqual(limited.metadata, { provider: "x" });
  assert.equal(limited.helpUrl, "https://example.com/limits");
  const future = SluiceError.from(
    new ConnectError("gone", Code.NotFound, undefined, [
      { desc: ErrorInfoSchema, value: { domain: "sluice", reason: "FROM_THE_FUTURE" } },
    ]),
  );
  assert.equal(future.reason, ErrorReason.NOT_FOUND);
});

test("patience, deadline and signal end the tries", async () => {
  const failure = new SluiceError("gone", ErrorReason.SERVICE_UNREACHABLE, { code: Code.Unavailable });
  const impatient = new Backoff({ ...DEFAULT_RETRY, patience: 0 }, new Deadline(undefined));
  await assert.rejects(impatient.wait(failure), failure);
  const late = new Backoff({ ...DEFAULT_RETRY, initial: 60_000, maximum: 60_000, patience: Infinity }, new Deadline(1_000));
  await assert.rejects(late.wait(failure), failure);
  const left = new Backoff(DEFAULT_RETRY, new Deadline(undefined), AbortSignal.abort());
  await assert.rejects(left.wait(failure), { reason: ErrorReason.CANCELLED });
});

test("closing the client ends what runs, and nothing connects anew", async () => {
  const { calls, seen } = gateway([ACCEPTED, text("low ")], undefined);
  const server = createServer(
    connectNodeAdapter({
      routes: (router) =>
        router.service(ChatService, {
          async *streamChat(_request, context) {
            yield* calls.start();
            await once(context.signal, "abort");
          },
          async *resumeChat({ response, afterSequence }) {
            yield* calls.resume(response, Number(afterSequence));
          },
          cancelChat: ({ response }) => calls.cancel(response).then(() => ({})),
        }),
    }),
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  let sessions = 0;
  server.on("session", () => (sessions += 1));
  try {
    const client = new SluiceClient(`127.0.0.1:${(server.address() as AddressInfo).port}`);
    const stream = client.streamChat({});
    await stream.next();
    await stream.next();
    const third = stream.next();
    client.close();
    await assert.rejects(third, { reason: ErrorReason.CANCELLED, message: "the client is closed" });
    await assert.rejects(client.getResponse("responses/r1"), { message: "the client is closed" });
    assert.deepEqual(seen, { resumed: [], cancelled: [] });
    assert.equal(sessions, 1);
  } finally {
    server.close();
  }
});
