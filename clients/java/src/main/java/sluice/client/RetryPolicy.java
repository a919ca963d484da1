package sluice.client;

import java.time.Duration;

/**
 * How often and how long a failure of the transport is answered by another try.
 *
 * @param initial longest wait before the second try; each wait is drawn between half of the limit and the limit
 * @param multiplier how much the limit grows with each failure in a row
 * @param maximum where the limit stops growing
 * @param patience how long failures in a row may last before they are thrown; zero: the first one is
 */
public record RetryPolicy(Duration initial, double multiplier, Duration maximum, Duration patience) {
  /** Waits of 0.1 to 2 seconds, for 10 seconds. */
  public static final RetryPolicy DEFAULT =
      new RetryPolicy(Duration.ofMillis(100), 2, Duration.ofSeconds(2), Duration.ofSeconds(10));
}
