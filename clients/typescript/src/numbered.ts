/** What streams of events have in common: reading, opening again, and an orderly end. */

import { left, ProtocolError, SluiceError } from "./errors.js";
import { Backoff, Deadline, type RetryPolicy } from "./retry.js";

/** One call. Nothing is read ahead: while nobody asks for the next message, flow control holds the gateway. */
class Call<M> {
  readonly #own = new AbortController();
  readonly #messages: AsyncIterator<M>;
  #pending: Promise<IteratorResult<M>> | undefined;

  constructor(open: (signal: AbortSignal) => AsyncIterable<M>) {
    this.#messages = open(this.#own.signal)[Symbol.asyncIterator]();
  }

  /** Waits for the next message. Leaving by the signal ends the wait, not the call: the message is the next one's. */
  async next(signal: AbortSignal | undefined): Promise<IteratorResult<M>> {
    signal?.throwIfAborted();
    const pending = (this.#pending ??= this.#messages.next());
    const done = () => {
      if (this.#pending === pending) this.#pending = undefined;
    };
    if (signal === undefined) return pending.finally(done);
    return new Promise((resolve, reject) => {
      const leave = () => reject(left(signal.reason));
      signal.addEventListener("abort", leave, { once: true });
      pending
        .then(
          (message) => {
            if (!signal.aborted) done();
            resolve(message);
          },
          (error: unknown) => {
            done();
            reject(error instanceof Error ? error : new Error(String(error)));
          },
        )
        .finally(() => signal.removeEventListener("abort", leave));
    });
  }

  /** Ends the call. */
  async close(): Promise<void> {
    this.#own.abort();
    // Its failure is known to whoever waited for it; here it is only the end.
    await this.#pending?.catch(() => undefined);
  }
}

/** Common options of streams. */
export interface StreamOptions {
  /** Ends the stream, and an answer with it. */
  signal?: AbortSignal | undefined;
  /** Milliseconds for the whole stream, every try included. Unset: no limit. */
  timeoutMs?: number | undefined;
}

/** A stream of single, numbered events that outlives its connection. Iterate over it once. */
export abstract class NumberedStream<M, E extends { sequence: number }> implements AsyncIterableIterator<E> {
  /** Number of the last event that this stream handed out; 0 before the first. */
  lastSequence = 0;
  /** How often it went on over a new call. */
  reconnects = 0;

  protected received = 0;
  protected complete = false;
  protected readonly ready: E[] = [];
  protected readonly deadline: Deadline;
  protected readonly backoff: Backoff;
  #signal: AbortSignal | undefined;
  #call: Call<M> | undefined;
  #ended = false;

  /** `closing` is the client's end. */
  constructor(policy: RetryPolicy, options: StreamOptions, closing?: AbortSignal) {
    this.deadline = new Deadline(options.timeoutMs);
    this.backoff = new Backoff(policy, this.deadline, options.signal, closing);
    this.#signal = options.signal;
  }

  /** Opens the call that delivers what comes after `received`. */
  protected abstract open(signal: AbortSignal, timeoutMs: number | undefined): AsyncIterable<M>;
  /** Checks a message and queues its events. */
  protected abstract take(message: M): void;
  /** Whether a broken connection is followed by another one. */
  protected abstract mayReopen(): boolean;
  /** Is told of the failure that ends the stream; `decided` if it did not come from the connection. */
  protected noteEnd(_failure: SluiceError, _decided: boolean): void {}

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<E, undefined>> {
    try {
      for (;;) {
        if (!this.#ended) this.#signal?.throwIfAborted();
        const item = this.ready.shift();
        if (item !== undefined) {
          this.lastSequence = item.sequence;
          return { done: false, value: item };
        }
        if (this.#ended) return { done: true, value: undefined };
        await this.#fill();
      }
    } catch (error) {
      this.ready.length = 0;
      await this.close();
      throw this.#signal?.aborted ? left(this.#signal.reason) : SluiceError.from(error);
    }
  }

  /** Leaving a `for await` early comes here. */
  async return(): Promise<IteratorResult<E, undefined>> {
    await this.close();
    return { done: true, value: undefined };
  }

  /** Ends the connection. Closing twice does nothing. */
  async close(): Promise<void> {
    this.#ended = true;
    this.ready.length = 0;
    const call = this.#call;
    this.#call = undefined;
    await call?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  protected expect(sequence: number): void {
    if (sequence !== this.received + 1) throw new ProtocolError(`expected event ${this.received + 1}, but ${sequence} came`);
    if (this.complete) throw new ProtocolError(`event ${sequence} came after the last one`);
  }

  protected advance(sequence: number): void {
    this.received = sequence;
    this.backoff.reset();
  }

  /** Takes messages of the running call until `enough`, or until it ends; for who is on the way out. */
  protected async takeUntil(enough: () => boolean, signal: AbortSignal): Promise<void> {
    while (!enough() && this.#call !== undefined) {
      const message = await this.#call.next(signal);
      if (message.done) return;
      this.take(message.value);
    }
  }

  async #fill(): Promise<void> {
    if (this.#call === undefined) {
      this.backoff.throwIfClosed();
      const timeoutMs = this.deadline.forCall();
      this.#call = new Call((signal) => this.open(signal, timeoutMs));
    }
    let message: IteratorResult<M>;
    try {
      message = await this.#call.next(this.#signal);
    } catch (error) {
      if (this.#signal?.aborted) throw error;
      await this.#leaveCall();
      await this.#recover(SluiceError.from(error));
      return;
    }
    if (!message.done) {
      this.take(message.value);
      return;
    }
    await this.#leaveCall();
    this.#ended = true;
    if (!this.complete) throw new ProtocolError("the stream ended with status OK, but not with its last event");
  }

  async #recover(failure: SluiceError): Promise<void> {
    if (!failure.broken || !this.mayReopen()) {
      this.noteEnd(failure, !failure.broken);
      throw failure;
    }
    try {
      await this.backoff.wait(failure);
    } catch (error) {
      // Out of reach for so long, or for good: what still runs there ends by its own grace.
      if (!this.#signal?.aborted) this.noteEnd(failure, true);
      throw error;
    }
    this.reconnects += 1;
  }

  async #leaveCall(): Promise<void> {
    const call = this.#call;
    this.#call = undefined;
    await call?.close();
  }
}
