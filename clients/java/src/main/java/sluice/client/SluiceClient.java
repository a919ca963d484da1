package sluice.client;

import com.google.protobuf.util.Durations;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptors;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import sluice.gateway.v1.Answer;
import sluice.gateway.v1.CancelChatRequest;
import sluice.gateway.v1.ChatRequest;
import sluice.gateway.v1.ChatServiceGrpc;
import sluice.gateway.v1.ChatSpec;
import sluice.gateway.v1.GetResponseRequest;
import sluice.gateway.v1.GetResponseResponse;
import sluice.gateway.v1.ResponseState;
import sluice.gateway.v1.StreamChatRequest;

/**
 * A client of one gateway, on one connection; safe for use by many threads.
 *
 * <p>Who repeats what. A response is identified by its request id, so a stream that breaks before {@code Accepted} is asked
 * for again with the same id. After it, a broken stream goes on by ResumeChat from the next event; for that the client asks
 * for a {@code detach_grace}. A failure that a service decided on is never repeated: it is thrown.
 */
public final class SluiceClient implements AutoCloseable {
  /** How long a response waits for its watcher, where the request says nothing. */
  private static final Duration DETACH_GRACE = Duration.ofSeconds(30);

  private static final Duration CALL = Duration.ofSeconds(60);
  private static final int MAX_MESSAGE_BYTES = 32 * 1024 * 1024;

  /** A stream that is not read holds this much; without a fixed size grpc grows it to 8 MiB. */
  private static final int WINDOW_BYTES = 256 * 1024;

  private final ManagedChannel connection;
  private final Channel channel;
  private final RetryPolicy retry;

  private SluiceClient(Builder builder) {
    connection =
        NettyChannelBuilder.forTarget(builder.address, builder.credentials)
            // The gateway permits a ping every 20 seconds and drops who sends more.
            .keepAliveTime(60, TimeUnit.SECONDS)
            .keepAliveTimeout(20, TimeUnit.SECONDS)
            .keepAliveWithoutCalls(true)
            .flowControlWindow(WINDOW_BYTES)
            .maxInboundMessageSize(MAX_MESSAGE_BYTES)
            .disableRetry() // who repeats what is decided here
            .build();
    Metadata headers = new Metadata();
    if (builder.key != null) {
      headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + builder.key);
    }
    channel = ClientInterceptors.intercept(connection, MetadataUtils.newAttachHeadersInterceptor(headers));
    retry = builder.retry;
  }

  /** Begins a client of the gateway at an address such as {@code 127.0.0.1:7400}. */
  public static Builder builder(String address) {
    return new Builder(address);
  }

  /** A client without a key and without TLS. It connects when it is first used. */
  public static SluiceClient connect(String address) {
    return builder(address).build();
  }

  /** The connection, with the key, for generated stubs. {@link SluiceException#of} reads their failures. */
  public Channel channel() {
    return channel;
  }

  /** Asks for an answer and returns its stream; the call is made when the stream is first read. Close it. */
  public ChatStream streamChat(ChatSpec spec) {
    return streamChat(spec, ChatOptions.defaults());
  }

  /** Asks for an answer and returns its stream; the call is made when the stream is first read. Close it. */
  public ChatStream streamChat(ChatSpec spec, ChatOptions options) {
    ChatSpec.Builder wanted = spec.toBuilder();
    if (options.resume() && !spec.hasDetachGrace() && !spec.getBackground()) {
      wanted.setDetachGrace(Durations.fromMillis(DETACH_GRACE.toMillis()));
    }
    if (options.timeout() != null && !spec.hasMaxDuration()) {
      // With a grace, the call's own deadline would only detach the watcher.
      wanted.setMaxDuration(Durations.fromMillis(Math.max(1, options.timeout().toMillis())));
    }
    Duration grace = Duration.ofMillis(Durations.toMillis(wanted.getDetachGrace()));
    if (spec.getBackground() && grace.compareTo(DETACH_GRACE) < 0) {
      grace = DETACH_GRACE;
    }
    var request = StreamChatRequest.newBuilder().setRequestId(options.requestId()).setSpec(wanted).build();
    return new ChatStream(this, request, null, 0, options.resume() ? grace : null, options.timeout());
  }

  /**
   * Returns the stream of a response that was asked for earlier, from the event after a number on: the same events, numbers
   * and end as the first stream. It fails with RESUME_WINDOW_EXPIRED where they are no longer kept.
   */
  public ChatStream resumeChat(String response, long after) {
    return new ChatStream(this, null, response, after, DETACH_GRACE, null);
  }

  /** Asks for an answer in one piece. Repeated with the same request id if the connection breaks. */
  public Answer chat(ChatSpec spec) {
    return chat(spec, ChatOptions.defaults());
  }

  /** Asks for an answer in one piece. Repeated with the same request id if the connection breaks. */
  public Answer chat(ChatSpec spec, ChatOptions options) {
    var request = ChatRequest.newBuilder().setRequestId(options.requestId()).setSpec(spec).build();
    return repeat(ChatServiceGrpc.newBlockingStub(channel), options.timeout(), stub -> stub.chat(request)).getAnswer();
  }

  /** Ends a response and returns where it stands. One that has ended stays as it is. */
  public ResponseState cancelChat(String response) {
    return cancelChat(response, CALL);
  }

  /** Returns a response as far as it is. */
  public GetResponseResponse getResponse(String response) {
    var request = GetResponseRequest.newBuilder().setResponse(response).build();
    return repeat(ChatServiceGrpc.newBlockingStub(channel), CALL, stub -> stub.getResponse(request));
  }

  /** Returns the stream of a task's events after a number; 0: from the start, or from the oldest that is kept. Close it. */
  public TaskStream watchTask(String name, long after) {
    return new TaskStream(this, name, after, null);
  }

  /**
   * Makes a call again as long as its connection breaks and the client's policy has patience. Only for calls that are safe to
   * repeat: reads, and changes that carry a request id.
   *
   * @param stub a stub on {@link #channel}
   * @param timeout the time for all tries together; null: no limit
   * @throws SluiceException what the call failed with
   */
  public <S extends AbstractStub<S>, R> R repeat(S stub, Duration timeout, Function<S, R> call) {
    Backoff backoff = new Backoff(retry, timeout, new CountDownLatch(1));
    while (true) {
      long left = backoff.left();
      if (left == 0) {
        throw SluiceException.timedOut();
      }
      try {
        return call.apply(left == Long.MAX_VALUE ? stub : stub.withDeadlineAfter(left, TimeUnit.NANOSECONDS));
      } catch (StatusRuntimeException failed) {
        if (Thread.currentThread().isInterrupted()) {
          throw SluiceException.left(failed);
        }
        SluiceException failure = SluiceException.of(failed);
        if (isClosed()) {
          throw SluiceException.closed(failed);
        }
        if (!failure.broken()) {
          throw failure;
        }
        backoff.await(failure);
        connectNow();
      }
    }
  }

  /**
   * Ends every call and every stream, with CANCELLED, and closes the connection. Responses that were streamed are ended by
   * the gateway after their grace. Closing twice does nothing.
   */
  @Override
  public void close() {
    connection.shutdownNow();
  }

  boolean isClosed() {
    return connection.isShutdown();
  }

  RetryPolicy retry() {
    return retry;
  }

  ResponseState cancelChat(String response, Duration timeout) {
    var request = CancelChatRequest.newBuilder().setResponse(response).build();
    return repeat(ChatServiceGrpc.newBlockingStub(channel), timeout, stub -> stub.cancelChat(request)).getState();
  }

  /** A gateway that restarts is back within seconds; grpc would wait up to two minutes before it connects again. */
  void connectNow() {
    connection.resetConnectBackoff();
  }

  @SuppressWarnings("unchecked") // a stream reads messages of the method that it called
  <Q, M, N> StreamCall<N> call(MethodDescriptor<Q, M> method, Q request, long nanoseconds) {
    return (StreamCall<N>) StreamCall.start(channel, method, request, nanoseconds);
  }

  /** How a client is made. */
  public static final class Builder {
    private final String address;
    private String key;
    private ChannelCredentials credentials = InsecureChannelCredentials.create();
    private RetryPolicy retry = RetryPolicy.DEFAULT;

    private Builder(String address) {
      this.address = address;
    }

    /** Sends an API key with every call; null: none. Without TLS the network has to encrypt. */
    public Builder key(String value) {
      key = value;
      return this;
    }

    /** Encrypts the connection, e.g. {@code TlsChannelCredentials.create()} for the system's certificates. */
    public Builder tls(ChannelCredentials value) {
      credentials = value;
      return this;
    }

    /** Sets how long broken connections are tried again. */
    public Builder retry(RetryPolicy value) {
      retry = value;
      return this;
    }

    /** Makes the client. It connects when it is first used. */
    public SluiceClient build() {
      return new SluiceClient(this);
    }
  }
}
