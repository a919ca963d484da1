package sluice.client;

import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.Optional;
import sluice.chat.v1.Event;
import sluice.error.v1.ErrorReason;
import sluice.gateway.v1.ChatServiceGrpc;
import sluice.gateway.v1.ResumeChatRequest;
import sluice.gateway.v1.ResumeChatResponse;
import sluice.gateway.v1.StreamChatRequest;
import sluice.gateway.v1.StreamChatResponse;

/**
 * The events of one answer.
 *
 * <p>Heartbeats do not show, and kinds of events that this client does not know are skipped but counted. It ends normally if
 * and only if the last event was the only {@code Completed}; every other end is a {@link SluiceException}. Closing it early
 * cancels the response; {@link #detach} prevents that.
 */
public final class ChatStream extends NumberedStream<Object, NumberedEvent> {
  /** How long leaving waits for the gateway to confirm that the response was cancelled. */
  private static final Duration LEAVE = Duration.ofSeconds(3);

  private final SluiceClient client;
  private final StreamChatRequest request;
  private final Duration grace;
  private volatile String response;
  private volatile boolean detached;
  private boolean settled;

  /** {@code grace} is how long the response waits for its watcher; null: broken streams are not resumed. */
  ChatStream(
      SluiceClient client, StreamChatRequest request, String response, long after, Duration grace, Duration timeout) {
    super(client, timeout, after);
    this.client = client;
    this.request = request;
    this.response = response;
    this.grace = grace;
    if (response != null) {
      bePatient();
    }
  }

  /** Resource name of the response; empty before it was accepted. */
  public Optional<String> response() {
    return Optional.ofNullable(response);
  }

  /** Reads to the end and returns the answer's text, without what a restart voided. */
  public String text() {
    record Piece(long sequence, String text) {}
    Deque<Piece> pieces = new ArrayDeque<>();
    try (this) {
      for (NumberedEvent item : this) {
        Event event = item.event();
        if (event.hasTextDelta()) {
          pieces.add(new Piece(item.sequence(), event.getTextDelta().getText()));
        } else if (event.hasRestarted()) {
          while (!pieces.isEmpty() && pieces.getLast().sequence >= event.getRestarted().getDiscardFrom()) {
            pieces.removeLast();
          }
        }
      }
    }
    StringBuilder text = new StringBuilder();
    pieces.forEach(piece -> text.append(piece.text));
    return text.toString();
  }

  /** Lets the response go on when this stream is left, as long as its grace or {@code background} allows. */
  public void detach() {
    detached = true;
  }

  /** Ends the connection, and cancels the response unless it has ended or was detached. */
  @Override
  public void close() {
    super.close();
  }

  @Override
  StreamCall<Object> open(long nanoseconds) {
    client.connectNow();
    return response == null
        ? client.call(ChatServiceGrpc.getStreamChatMethod(), request, nanoseconds)
        : client.call(
            ChatServiceGrpc.getResumeChatMethod(),
            ResumeChatRequest.newBuilder().setResponse(response).setAfterSequence(received).build(),
            nanoseconds);
  }

  @Override
  void take(Object message) {
    if (message instanceof StreamChatResponse batch) {
      take(batch.getFirstSequence(), batch.getEventsList());
    } else if (message instanceof ResumeChatResponse batch) {
      take(batch.getFirstSequence(), batch.getEventsList());
    }
  }

  @Override
  boolean mayReopen() {
    // Before `Accepted` the request id makes a second try safe; after it only a response with a grace still runs.
    return response == null || grace != null;
  }

  @Override
  void noteEnd(SluiceException failure, boolean decided) {
    // A deadline of the call only detaches this watcher, so the response may still run.
    settled = decided && failure.reason() != ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED;
  }

  @Override
  void abandon() {
    if (complete || settled || detached) {
      return;
    }
    settled = true;
    boolean interrupted = Thread.interrupted(); // what follows waits, but not for long
    long until = System.nanoTime() + LEAVE.toNanos();
    try {
      // A response that was asked for but not named yet is known to the gateway alone, so wait for its name.
      while (response == null && takeOne(until - System.nanoTime())) {
        ready.clear();
      }
      if (response != null) {
        client.cancelChat(response, LEAVE);
      }
    } catch (SluiceException failure) {
      // The caller is on the way out, for a reason of its own. The gateway ends the response after its grace anyway.
      System.getLogger(ChatStream.class.getName())
          .log(System.Logger.Level.DEBUG, "could not cancel " + response + ": " + failure.reasonName());
    } catch (InterruptedException again) {
      interrupted = true;
    } finally {
      ready.clear();
      if (interrupted) {
        Thread.currentThread().interrupt();
      }
    }
  }

  private void take(long first, List<Event> events) {
    long sequence = first;
    for (Event event : events) {
      expect(sequence);
      if (sequence == 1 && !event.hasAccepted()) {
        throw new ProtocolException("the first event is not `Accepted`");
      }
      advance(sequence);
      if (event.getKindCase() != Event.KindCase.KIND_NOT_SET) {
        if (event.hasAccepted() && response == null) {
          response = event.getAccepted().getResponse();
          bePatient();
        }
        complete = event.hasCompleted();
        ready.add(new NumberedEvent(sequence, event));
      }
      sequence += 1;
    }
  }

  /** Once accepted, trying as long as the gateway keeps the response is worth it. */
  private void bePatient() {
    if (grace != null) {
      backoff.bePatient(grace);
    }
  }
}
