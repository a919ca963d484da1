package sluice.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.util.Durations;
import com.google.rpc.Code;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Help;
import com.google.rpc.RetryInfo;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import sluice.chat.v1.Accepted;
import sluice.chat.v1.Completed;
import sluice.chat.v1.Event;
import sluice.chat.v1.Restarted;
import sluice.chat.v1.TextDelta;
import sluice.error.v1.ErrorReason;
import sluice.gateway.v1.CancelChatRequest;
import sluice.gateway.v1.CancelChatResponse;
import sluice.gateway.v1.ChatServiceGrpc;
import sluice.gateway.v1.ChatSpec;
import sluice.gateway.v1.ResumeChatRequest;
import sluice.gateway.v1.ResumeChatResponse;
import sluice.gateway.v1.StreamChatRequest;
import sluice.gateway.v1.StreamChatResponse;

@Timeout(60)
class SluiceClientTest {
  private static final Event ACCEPTED =
      Event.newBuilder().setAccepted(Accepted.newBuilder().setResponse("responses/r1")).build();
  private static final Event COMPLETED = Event.newBuilder().setCompleted(Completed.getDefaultInstance()).build();

  private final Gateway gateway = new Gateway();
  private Server server;
  private SluiceClient client;

  /** Sends its first events and breaks, or waits; resumed, it sends the rest. It notes what it was asked. */
  private static final class Gateway extends ChatServiceGrpc.ChatServiceImplBase {
    final List<Long> resumed = new CopyOnWriteArrayList<>();
    final List<String> cancelled = new CopyOnWriteArrayList<>();
    volatile boolean waits;

    @Override
    public void streamChat(StreamChatRequest request, StreamObserver<StreamChatResponse> answer) {
      answer.onNext(
          StreamChatResponse.newBuilder().setFirstSequence(1).addEvents(ACCEPTED).addEvents(text("low ")).build());
      if (!waits) {
        answer.onError(Status.UNAVAILABLE.withDescription("reset").asRuntimeException());
      }
    }

    @Override
    public void resumeChat(ResumeChatRequest request, StreamObserver<ResumeChatResponse> answer) {
      resumed.add(request.getAfterSequence());
      answer.onNext(
          ResumeChatResponse.newBuilder()
              .setFirstSequence(3)
              .addEvents(text("water"))
              .addEvents(Event.newBuilder().setRestarted(Restarted.newBuilder().setDiscardFrom(3)))
              .addEvents(text("tide"))
              .addEvents(COMPLETED)
              .build());
      answer.onCompleted();
    }

    @Override
    public void cancelChat(CancelChatRequest request, StreamObserver<CancelChatResponse> answer) {
      cancelled.add(request.getResponse());
      answer.onNext(CancelChatResponse.getDefaultInstance());
      answer.onCompleted();
    }
  }

  private static Event text(String words) {
    return Event.newBuilder().setTextDelta(TextDelta.newBuilder().setText(words)).build();
  }

  @BeforeEach
  void serve() throws IOException {
    server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create()).addService(gateway).build().start();
    client = SluiceClient.connect("127.0.0.1:" + server.getPort());
  }

  @AfterEach
  void stop() {
    client.close();
    server.shutdownNow();
  }

  @Test
  void aStreamGoesOnWhereItBroke() {
    ChatStream stream = client.streamChat(ChatSpec.getDefaultInstance());
    assertEquals("low tide", stream.text()); // what the restart voids is no part of it
    assertEquals(1, stream.reconnects());
    assertEquals(List.of(2L), gateway.resumed);
    assertFalse(stream.hasNext());
    assertEquals(List.of(), gateway.cancelled);
  }

  @Test
  void withoutResumingABreakIsTheEnd() {
    ChatStream stream = client.streamChat(ChatSpec.getDefaultInstance(), ChatOptions.defaults().withoutResume());
    SluiceException failure = assertThrows(SluiceException.class, stream::text);
    assertEquals(ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE, failure.reason());
    assertEquals(List.of(), gateway.resumed);
  }

  @Test
  void leavingEarlyCancelsUnlessDetached() {
    gateway.waits = true;
    try (ChatStream stream = client.streamChat(ChatSpec.getDefaultInstance())) {
      assertEquals(1, stream.next().sequence());
      stream.detach();
    }
    assertEquals(List.of(), gateway.cancelled);
    try (ChatStream stream = client.streamChat(ChatSpec.getDefaultInstance())) {
      assertEquals(1, stream.next().sequence());
    }
    assertEquals(List.of("responses/r1"), gateway.cancelled);
  }

  @Test
  void anotherThreadMayCloseAStreamThatWaits() throws InterruptedException {
    gateway.waits = true;
    ChatStream stream = client.streamChat(ChatSpec.getDefaultInstance());
    CountDownLatch reads = new CountDownLatch(1);
    AtomicReference<SluiceException> seen = new AtomicReference<>();
    Thread reader =
        new Thread(
            () -> {
              try {
                for (NumberedEvent item : stream) {
                  if (item.sequence() == 2) {
                    reads.countDown();
                  }
                }
              } catch (SluiceException failure) {
                seen.set(failure);
              }
            });
    reader.start();
    reads.await();
    stream.close();
    reader.join();
    assertEquals(List.of("responses/r1"), gateway.cancelled);
    assertTrue(seen.get() == null || seen.get().reason() == ErrorReason.ERROR_REASON_CANCELLED);
  }

  @Test
  void anErrorHasWhatTheStatusSays() {
    var status =
        com.google.rpc.Status.newBuilder()
            .setCode(Code.RESOURCE_EXHAUSTED_VALUE)
            .setMessage("slow down")
            .addDetails(info("UPSTREAM_RATE_LIMITED"))
            .addDetails(Any.pack(RetryInfo.newBuilder().setRetryDelay(Durations.fromMillis(3500)).build()))
            .addDetails(
                Any.pack(
                    Help.newBuilder()
                        .addLinks(Help.Link.newBuilder().setUrl("https://example.com/limits"))
                        .build()))
            .build();
    SluiceException failure = SluiceException.of(StatusProto.toStatusRuntimeException(status));
    assertEquals("UPSTREAM_RATE_LIMITED", failure.reasonName());
    assertEquals("slow down", failure.getMessage());
    assertTrue(failure.retryable());
    assertFalse(failure.broken());
    assertEquals(Duration.ofMillis(3500), failure.retryAfter().orElseThrow());
    assertEquals("x", failure.metadata().get("provider"));
    assertEquals("https://example.com/limits", failure.helpUrl());
    var future =
        com.google.rpc.Status.newBuilder()
            .setCode(Code.NOT_FOUND_VALUE)
            .addDetails(info("FROM_THE_FUTURE"))
            .build();
    assertEquals("NOT_FOUND", SluiceException.of(StatusProto.toStatusRuntimeException(future)).reasonName());
  }

  private static Any info(String reason) {
    return Any.pack(
        ErrorInfo.newBuilder().setDomain("sluice").setReason(reason).putMetadata("provider", "x").build());
  }

  @Test
  void patienceDeadlineAndLeavingEndTheTries() {
    SluiceException failure = SluiceException.of(Status.UNAVAILABLE.asRuntimeException());
    Duration hour = Duration.ofHours(1);
    CountDownLatch stays = new CountDownLatch(1);
    Backoff impatient =
        new Backoff(new RetryPolicy(Duration.ofMillis(1), 2, Duration.ofSeconds(1), Duration.ZERO), null, stays);
    assertSame(failure, assertThrows(SluiceException.class, () -> impatient.await(failure)));
    RetryPolicy slow = new RetryPolicy(hour, 2, hour, Duration.ofDays(1));
    Backoff late = new Backoff(slow, Duration.ofSeconds(1), stays);
    assertSame(failure, assertThrows(SluiceException.class, () -> late.await(failure)));
    Backoff left = new Backoff(slow, null, new CountDownLatch(0));
    SluiceException end = assertThrows(SluiceException.class, () -> left.await(failure));
    assertEquals(ErrorReason.ERROR_REASON_CANCELLED, end.reason());
  }

  @Test
  void closingTheClientEndsWhatRuns() throws InterruptedException {
    gateway.waits = true;
    ChatStream stream = client.streamChat(ChatSpec.getDefaultInstance());
    stream.next();
    stream.next();
    AtomicReference<SluiceException> end = new AtomicReference<>();
    Thread reader = new Thread(() -> end.set(assertThrows(SluiceException.class, stream::hasNext)));
    reader.start();
    client.close();
    reader.join();
    assertEquals("the client is closed", end.get().getMessage());
    assertEquals(ErrorReason.ERROR_REASON_CANCELLED, end.get().reason());
    assertEquals(0, stream.reconnects());
    assertEquals(List.of(), gateway.resumed);
    var call = assertThrows(SluiceException.class, () -> client.getResponse("responses/r1"));
    assertEquals("the client is closed", call.getMessage());
  }
}
