/** How long the client tries again: jittered exponential backoff within a patience and a deadline. */

import { closed, left, SluiceError, timedOut } from "./errors.js";

/** How often and how long a failure of the transport is answered by another try. All figures are milliseconds. */
export interface RetryPolicy {
  /** Longest wait before the second try. Each wait is drawn between half of the limit and the limit. */
  initial: number;
  /** How much the limit grows with each failure in a row. */
  multiplier: number;
  /** The limit stops growing here. */
  maximum: number;
  /** Failures in a row are thrown once they lasted so long. 0: the first one is. */
  patience: number;
}

/** Waits of 0.1 to 2 seconds, for 10 seconds. */
export const DEFAULT_RETRY: RetryPolicy = { initial: 100, multiplier: 2, maximum: 2_000, patience: 10_000 };

/** A point in time; without milliseconds, none. */
export class Deadline {
  readonly #at: number;

  constructor(milliseconds: number | undefined) {
    this.#at = milliseconds === undefined ? Infinity : performance.now() + milliseconds;
  }

  /** Milliseconds left, at least 0; Infinity without a limit. */
  left(): number {
    return Math.max(0, this.#at - performance.now());
  }

  /** What a call may take; undefined without a limit. Throws if no time is left. */
  forCall(): number | undefined {
    const milliseconds = this.left();
    if (milliseconds === 0) throw timedOut();
    return milliseconds === Infinity ? undefined : Math.max(1, Math.round(milliseconds));
  }
}

/** The failures in a row of one operation. */
export class Backoff {
  readonly #deadline: Deadline;
  readonly #signal: AbortSignal | undefined;
  readonly #closing: AbortSignal | undefined;
  #policy: RetryPolicy;
  #limit = 0;
  #since: number | undefined;

  /** `signal` is the caller's, `closing` the client's. */
  constructor(policy: RetryPolicy, deadline: Deadline, signal?: AbortSignal, closing?: AbortSignal) {
    this.#policy = policy;
    this.#deadline = deadline;
    this.#signal = signal;
    this.#closing = closing;
  }

  /** Throws if the client was closed: a call would connect anew. */
  throwIfClosed(): void {
    if (this.#closing?.aborted) throw closed();
  }

  /** Notes progress: the next failure is the first one again. */
  reset(): void {
    this.#since = undefined;
  }

  /** Has at least so much patience from now on, in milliseconds. */
  bePatient(patience: number): void {
    this.#policy = { ...this.#policy, patience: Math.max(this.#policy.patience, patience) };
  }

  /**
   * Waits before the next try, at least as long as the server asked for. Throws the failure if patience or deadline do not
   * reach that far, and CANCELLED if the signal comes first or the client is closed.
   */
  async wait(failure: SluiceError): Promise<void> {
    this.throwIfClosed();
    const now = performance.now();
    if (this.#since === undefined) {
      this.#since = now;
      this.#limit = this.#policy.initial;
    }
    const limit = Math.min(this.#limit, this.#policy.maximum);
    this.#limit = Math.min(limit * this.#policy.multiplier, this.#policy.maximum);
    const delay = Math.max(limit * (0.5 + Math.random() / 2), failure.retryAfterMs ?? 0);
    if (now + delay - this.#since > this.#policy.patience || delay >= this.#deadline.left()) throw failure;
    await sleep(delay, [this.#signal, this.#closing]);
    if (this.#signal?.aborted) throw left(this.#signal.reason);
    this.throwIfClosed();
  }
}

/** Waits so long, or until one of the signals comes. */
function sleep(milliseconds: number, signals: readonly (AbortSignal | undefined)[]): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      for (const signal of signals) signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    if (signals.some((signal) => signal?.aborted)) end();
    else for (const signal of signals) signal?.addEventListener("abort", end, { once: true });
  });
}
