package sluice.client;

import java.time.Duration;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/** The failures in a row of one operation, and the time that it has. */
final class Backoff {
  private final RetryPolicy policy;
  private final CountDownLatch leaving;
  private final long deadline;
  private long patience;
  private double limit;
  private long since;
  private boolean failing;

  /**
   * @param timeout the time for the whole operation; null: no limit
   * @param leaving counted down when the caller leaves
   */
  Backoff(RetryPolicy policy, Duration timeout, CountDownLatch leaving) {
    this.policy = policy;
    this.leaving = leaving;
    this.deadline = timeout == null ? Long.MAX_VALUE : System.nanoTime() + timeout.toNanos();
    this.patience = policy.patience().toNanos();
  }

  /** Nanoseconds left, at least 0; Long.MAX_VALUE without a limit. */
  long left() {
    return deadline == Long.MAX_VALUE ? Long.MAX_VALUE : Math.max(0, deadline - System.nanoTime());
  }

  /** Notes progress: the next failure is the first one again. */
  void reset() {
    failing = false;
  }

  void bePatient(Duration atLeast) {
    patience = Math.max(patience, atLeast.toNanos());
  }

  /**
   * Waits before the next try, at least as long as the server asked for. Throws the failure if patience or deadline do not
   * reach that far, and CANCELLED if the caller leaves first.
   */
  void await(SluiceException failure) {
    long now = System.nanoTime();
    if (!failing) {
      failing = true;
      since = now;
      limit = policy.initial().toNanos();
    }
    double most = Math.min(limit, policy.maximum().toNanos());
    limit = Math.min(most * policy.multiplier(), policy.maximum().toNanos());
    long drawn = (long) (most * ThreadLocalRandom.current().nextDouble(0.5, 1.0));
    long delay = Math.max(drawn, failure.retryAfter().orElse(Duration.ZERO).toNanos());
    if (now + delay - since > patience || delay >= left()) {
      throw failure;
    }
    try {
      if (leaving.await(delay, TimeUnit.NANOSECONDS)) {
        throw SluiceException.left(null);
      }
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw SluiceException.left(interrupted);
    }
  }
}
