/** The client: one object, one connection, every service of the gateway. */

import { randomUUID } from "node:crypto";
import type { SecureClientSessionOptions } from "node:http2";
import { clone, create, type DescService, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import { type Client, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import {
  type Answer,
  AnswerSchema,
  ChatService,
  ChatSpecSchema,
  type GetResponseResponse,
  type ResponseState,
} from "../gen/sluice/gateway/v1/chat_service_pb.js";
import { TaskService } from "../gen/sluice/task/v1/task_service_pb.js";
import { left, SluiceError } from "./errors.js";
import type { StreamOptions } from "./numbered.js";
import { Backoff, Deadline, DEFAULT_RETRY, type RetryPolicy } from "./retry.js";
import { ChatStream, TaskStream, type TaskStreamOptions } from "./streams.js";

const DETACH_GRACE_MS = 30_000; // how long a response waits for its watcher, where the request says nothing
const MAX_MESSAGE_BYTES = 32 * 1024 * 1024; // what a gateway sends at most
const CALL_MS = 60_000; // time limit of a single call where the caller sets none

/** What a question looks like: a ChatSpec, of which only what differs is given. */
export type ChatSpec = MessageInitShape<typeof ChatSpecSchema>;

/** How a client is made. */
export interface ClientOptions {
  /** Sent as `authorization: Bearer …` with every call. Without TLS the network has to encrypt. */
  key?: string | undefined;
  /** True for the system's certificates, or options of node:tls. Unset: plain text. */
  tls?: boolean | SecureClientSessionOptions;
  /** How long broken connections are tried again. */
  retry?: RetryPolicy;
}

/** How a single call is made. */
export interface CallOptions extends StreamOptions {
  /** A UUID that makes the request idempotent for 24 hours. Unset: the client makes one. */
  requestId?: string;
}

/** How an answer is streamed. */
export interface StreamChatOptions extends CallOptions {
  /** False: a stream that breaks after `accepted` fails, and the response is cancelled with it. */
  resume?: boolean;
}

/**
 * A client of the gateway at an address such as `127.0.0.1:7400`. It connects when it is first used.
 *
 * Who repeats what. A response is identified by its request id, so a stream that breaks before `accepted` is asked for
 * again with the same id. After it, a broken stream goes on by ResumeChat from the next event; for that the client asks for
 * a `detach_grace`. A failure that a service decided on is never repeated: it is thrown.
 */
export class SluiceClient implements Disposable {
  /** For further clients of your own: it has the connection and the key. */
  readonly transport: Transport;
  readonly #sessions: Http2SessionManager;
  readonly #retry: RetryPolicy;
  readonly #closing = new AbortController();
  readonly #chat: Client<typeof ChatService>;
  readonly #tasks: Client<typeof TaskService>;

  constructor(address: string, options: ClientOptions = {}) {
    const baseUrl = `${options.tls ? "https" : "http"}://${address}`;
    this.#retry = options.retry ?? DEFAULT_RETRY;
    this.#sessions = new Http2SessionManager(
      baseUrl,
      // The gateway permits a ping every 20 seconds and drops who sends more.
      { pingIntervalMs: 60_000, pingTimeoutMs: 20_000, pingIdleConnection: true },
      typeof options.tls === "object" ? options.tls : undefined,
    );
    this.transport = createGrpcTransport({
      baseUrl,
      sessionManager: this.#sessions,
      interceptors: options.key ? [bearer(options.key)] : [],
      readMaxBytes: MAX_MESSAGE_BYTES,
      writeMaxBytes: MAX_MESSAGE_BYTES,
    });
    this.#chat = createClient(ChatService, this.transport);
    this.#tasks = createClient(TaskService, this.transport);
  }

  /** Returns a generated client of another service of the gateway. `SluiceError.from` reads its errors. */
  service<S extends DescService>(service: S): Client<S> {
    return createClient(service, this.transport);
  }

  /** Asks for an answer and returns its stream; the call is made when the stream is first read. */
  streamChat(spec: ChatSpec, options: StreamChatOptions = {}): ChatStream {
    const { requestId = randomUUID(), resume = true, ...rest } = options;
    const wanted = clone(ChatSpecSchema, create(ChatSpecSchema, spec));
    if (resume && wanted.detachGrace === undefined && !wanted.background) {
      wanted.detachGrace = durationFromMs(DETACH_GRACE_MS);
    }
    if (rest.timeoutMs !== undefined && wanted.maxDuration === undefined) {
      // With a grace, the call's own deadline would only detach the watcher.
      wanted.maxDuration = durationFromMs(Math.max(1, Math.round(rest.timeoutMs)));
    }
    const grace = wanted.detachGrace ? durationMs(wanted.detachGrace) : 0;
    return new ChatStream(
      {
        ...this.#calls,
        start: (signal, timeoutMs) => this.#chat.streamChat({ requestId, spec: wanted }, callOptions(signal, timeoutMs)),
      },
      this.#retry,
      { ...rest, graceMs: resume ? Math.max(grace, wanted.background ? DETACH_GRACE_MS : 0) : undefined },
      this.#closing.signal,
    );
  }

  /**
   * Returns the stream of a response that was asked for earlier, from the event after a number on: the same events, numbers
   * and end as the first stream. It throws RESUME_WINDOW_EXPIRED where they are no longer kept.
   */
  resumeChat(response: string, after = 0, options: StreamOptions = {}): ChatStream {
    const found = { ...options, graceMs: DETACH_GRACE_MS, response, after };
    return new ChatStream({ ...this.#calls, start: undefined }, this.#retry, found, this.#closing.signal);
  }

  /** Asks for an answer in one piece. Repeated with the same request id if the connection breaks. No limit of time. */
  async chat(spec: ChatSpec, options: CallOptions = {}): Promise<Answer> {
    const { requestId = randomUUID(), ...rest } = options;
    const request = { requestId, spec };
    const { answer } = await this.repeat((call) => this.#chat.chat(request, call), { timeoutMs: undefined, ...rest });
    return answer ?? create(AnswerSchema);
  }

  /** Ends a response and returns where it stands. One that has ended stays as it is. */
  async cancelChat(response: string, options: StreamOptions = {}): Promise<ResponseState> {
    return (await this.repeat((call) => this.#chat.cancelChat({ response }, call), options)).state;
  }

  /** Returns a response as far as it is. */
  async getResponse(response: string, options: StreamOptions = {}): Promise<GetResponseResponse> {
    return this.repeat((call) => this.#chat.getResponse({ response }, call), options);
  }

  /** Returns the stream of a task's events; it goes on by itself when its connection breaks. */
  watchTask(name: string, options: TaskStreamOptions = {}): TaskStream {
    return new TaskStream(
      (after, signal, timeoutMs) =>
        this.#tasks.watchTask({ name, afterSequence: BigInt(after) }, callOptions(signal, timeoutMs)),
      this.#retry,
      options,
      this.#closing.signal,
    );
  }

  /**
   * Makes a call of a generated client again as long as its connection breaks and the client's policy has patience. Only
   * for calls that are safe to repeat: reads, and changes that carry a request id. Throws SluiceErrors.
   */
  async repeat<R>(call: (options: CallSettings) => Promise<R>, options: StreamOptions = {}): Promise<R> {
    const deadline = new Deadline("timeoutMs" in options ? options.timeoutMs : CALL_MS);
    const backoff = new Backoff(this.#retry, deadline, options.signal, this.#closing.signal);
    for (;;) {
      backoff.throwIfClosed();
      try {
        return await call(callOptions(options.signal, deadline.forCall()));
      } catch (error) {
        if (options.signal?.aborted) throw left(options.signal.reason);
        const failure = SluiceError.from(error);
        if (!failure.broken) throw failure;
        await backoff.wait(failure);
      }
    }
  }

  /**
   * Ends every call and every stream, with CANCELLED, and closes the connection. Responses that were streamed are ended by
   * the gateway after their grace. Clients that `service` made would connect anew: call nothing with them afterwards.
   */
  close(): void {
    this.#closing.abort(); // first, so that nobody takes it for a connection that broke
    this.#sessions.abort();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  get #calls() {
    return {
      resume: (response: string, after: number, signal: AbortSignal, timeoutMs: number | undefined) =>
        this.#chat.resumeChat({ response, afterSequence: BigInt(after) }, callOptions(signal, timeoutMs)),
      cancel: (response: string, timeoutMs: number) => this.cancelChat(response, { timeoutMs }),
    };
  }
}

/** What a generated client takes beside the request. */
export interface CallSettings {
  signal?: AbortSignal;
  timeoutMs?: number;
}

function callOptions(signal: AbortSignal | undefined, timeoutMs: number | undefined): CallSettings {
  return { ...(signal && { signal }), ...(timeoutMs !== undefined && { timeoutMs }) };
}

function bearer(key: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${key}`);
    return next(request);
  };
}
