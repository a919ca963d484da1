/** Streams of answers and tasks. */

import type { Event } from "../gen/sluice/chat/v1/event_pb.js";
import { type Task, TaskState, type WatchTaskResponse } from "../gen/sluice/task/v1/task_service_pb.js";
import type { ResumeChatResponse, StreamChatResponse } from "../gen/sluice/gateway/v1/chat_service_pb.js";
import { ErrorReason } from "../gen/sluice/error/v1/error_reason_pb.js";
import { ProtocolError, type SluiceError } from "./errors.js";
import { NumberedStream, type StreamOptions } from "./numbered.js";
import type { RetryPolicy } from "./retry.js";

const LEAVE_MS = 3_000; // how long leaving waits for the gateway to confirm that the response was cancelled

/** One event of an answer and its number, from 1. */
export interface NumberedEvent {
  sequence: number;
  event: Event;
}

/** One event of a task and its number, from 1: the task as it was then. */
export interface NumberedTask {
  sequence: number;
  task: Task;
}

type Batch = StreamChatResponse | ResumeChatResponse;

/** The calls that a stream of an answer makes. */
export interface ChatCalls {
  start: ((signal: AbortSignal, timeoutMs: number | undefined) => AsyncIterable<Batch>) | undefined;
  resume: (response: string, after: number, signal: AbortSignal, timeoutMs: number | undefined) => AsyncIterable<Batch>;
  cancel: (response: string, timeoutMs: number) => Promise<unknown>;
}

/** Options of a stream of an answer that the client fills in. */
export interface ChatStreamOptions extends StreamOptions {
  /** How long the response waits for its watcher, in milliseconds; undefined: broken streams are not resumed. */
  graceMs: number | undefined;
  response?: string;
  after?: number;
}

/**
 * The events of one answer.
 *
 * Heartbeats do not show, and kinds of events that this client does not know are skipped but counted. It ends normally if
 * and only if the last event was the only `completed`; every other end throws a SluiceError. Leaving the `for await` early,
 * or aborting the signal, cancels the response; `detach()` prevents that.
 */
export class ChatStream extends NumberedStream<Batch, NumberedEvent> {
  /** Resource name of the response; undefined before it was accepted. */
  response: string | undefined;
  readonly #calls: ChatCalls;
  readonly #graceMs: number | undefined;
  #detached = false;
  #settled = false;

  constructor(calls: ChatCalls, policy: RetryPolicy, options: ChatStreamOptions, closing?: AbortSignal) {
    super(policy, options, closing);
    this.#calls = calls;
    this.#graceMs = options.graceMs;
    this.response = options.response;
    this.received = this.lastSequence = options.after ?? 0;
    if (this.response !== undefined) this.#bePatient();
  }

  /** Reads to the end and returns the answer's text, without what a restart voided. */
  async text(): Promise<string> {
    const pieces: { sequence: number; text: string }[] = [];
    for await (const { sequence, event } of this) {
      if (event.kind.case === "textDelta") {
        pieces.push({ sequence, text: event.kind.value.text });
      } else if (event.kind.case === "restarted") {
        const from = Number(event.kind.value.discardFrom);
        while (pieces.length > 0 && pieces.at(-1)!.sequence >= from) pieces.pop();
      }
    }
    return pieces.map(({ text }) => text).join("");
  }

  /** Lets the response go on when this stream is left, as long as its grace or `background` allows. */
  detach(): void {
    this.#detached = true;
  }

  /** Ends the response. Whoever reads its stream gets CANCELLED. */
  async cancel(): Promise<void> {
    // A response that was asked for but not named yet is known to the gateway alone, so wait for its name.
    await this.takeUntil(() => this.response !== undefined, AbortSignal.timeout(LEAVE_MS));
    if (this.response !== undefined) await this.#calls.cancel(this.response, LEAVE_MS);
  }

  /** Ends the connection, and cancels the response unless it has ended or was detached. */
  override async close(): Promise<void> {
    if (!this.complete && !this.#settled && !this.#detached) {
      this.#settled = true;
      try {
        await this.cancel();
      } catch {
        // The caller is on the way out, for a reason of its own. The gateway ends the response after its grace anyway.
      }
    }
    await super.close();
  }

  protected override open(signal: AbortSignal, timeoutMs: number | undefined): AsyncIterable<Batch> {
    if (this.response !== undefined) return this.#calls.resume(this.response, this.received, signal, timeoutMs);
    return this.#calls.start!(signal, timeoutMs);
  }

  protected override mayReopen(): boolean {
    // Before `accepted` the request id makes a second try safe; after it only a response with a grace still runs.
    return this.response === undefined || this.#graceMs !== undefined;
  }

  protected override noteEnd(failure: SluiceError, decided: boolean): void {
    // A deadline of the call only detaches this watcher, so the response may still run.
    this.#settled = decided && failure.reason !== ErrorReason.DEADLINE_EXCEEDED;
  }

  protected override take(message: Batch): void {
    let sequence = Number(message.firstSequence);
    for (const event of message.events) {
      this.expect(sequence);
      const { kind } = event;
      if (sequence === 1 && kind.case !== "accepted") throw new ProtocolError("the first event is not `accepted`");
      this.advance(sequence);
      if (kind.case !== undefined) {
        if (kind.case === "accepted" && this.response === undefined) {
          this.response = kind.value.response;
          this.#bePatient();
        }
        this.complete = kind.case === "completed";
        this.ready.push({ sequence, event });
      }
      sequence += 1;
    }
  }

  /** Once accepted, trying as long as the gateway keeps the response is worth it. */
  #bePatient(): void {
    if (this.#graceMs !== undefined) this.backoff.bePatient(this.#graceMs);
  }
}

/** Options of a stream of a task. */
export interface TaskStreamOptions extends StreamOptions {
  /** Events after this number. 0: from the start, or from the oldest that is kept. */
  after?: number;
}

/**
 * The events of one task, ending with the one that ended it, well or not. It goes on by itself when its connection breaks.
 * Leaving it early does not touch the task.
 */
export class TaskStream extends NumberedStream<WatchTaskResponse, NumberedTask> {
  readonly #watch: (after: number, signal: AbortSignal, timeoutMs: number | undefined) => AsyncIterable<WatchTaskResponse>;

  constructor(
    watch: (after: number, signal: AbortSignal, timeoutMs: number | undefined) => AsyncIterable<WatchTaskResponse>,
    policy: RetryPolicy,
    options: TaskStreamOptions,
    closing?: AbortSignal,
  ) {
    super(policy, options, closing);
    this.#watch = watch;
    this.received = this.lastSequence = options.after ?? 0;
  }

  /** Reads to the end and returns the task as it ended, well or not. */
  async result(): Promise<Task> {
    let last: Task | undefined;
    for await (const { task } of this) last = task;
    if (last === undefined) throw new ProtocolError("the task ended before the event asked for");
    return last;
  }

  protected override open(signal: AbortSignal, timeoutMs: number | undefined): AsyncIterable<WatchTaskResponse> {
    return this.#watch(this.received, signal, timeoutMs);
  }

  protected override mayReopen(): boolean {
    return true;
  }

  protected override take(message: WatchTaskResponse): void {
    for (const { sequence: number, task } of message.events) {
      const sequence = Number(number);
      if (this.received === 0) this.received = sequence - 1; // from the start, or from the oldest event that is kept
      this.expect(sequence);
      this.advance(sequence);
      if (task === undefined) throw new ProtocolError(`event ${sequence} has no task`);
      this.complete = ENDED.has(task.state);
      this.ready.push({ sequence, task });
    }
  }
}

const ENDED: ReadonlySet<TaskState> = new Set([TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED]);
