package sluice.client;

import java.time.Duration;
import java.util.UUID;

/**
 * How an answer is asked for.
 *
 * @param requestId a UUID that makes the request idempotent for 24 hours
 * @param timeout the time for the whole answer, every try included; null: no limit but the route's
 * @param resume false: a stream that breaks after {@code Accepted} fails, and the response is cancelled with it
 */
public record ChatOptions(String requestId, Duration timeout, boolean resume) {
  /** A request id of its own, no limit of time, and streams that resume. */
  public static ChatOptions defaults() {
    return new ChatOptions(UUID.randomUUID().toString(), null, true);
  }

  /** The same with another request id. */
  public ChatOptions withRequestId(String id) {
    return new ChatOptions(id, timeout, resume);
  }

  /** The same with another limit of time. */
  public ChatOptions withTimeout(Duration limit) {
    return new ChatOptions(requestId, limit, resume);
  }

  /** The same without resuming. */
  public ChatOptions withoutResume() {
    return new ChatOptions(requestId, timeout, false);
  }
}
