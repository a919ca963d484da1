package sluice.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * One streaming call. One message is read ahead, no more: while nobody takes it, flow control holds the gateway.
 *
 * @param <M> its messages
 */
final class StreamCall<M> {
  /** What {@link #take} returns when the caller is to look whether it leaves. */
  static final Object WOKEN = new Object();

  private final ClientCall<?, M> call;
  private final BlockingQueue<Object> queue = new LinkedBlockingQueue<>();

  private record End(Status status, Metadata trailers) {}

  private StreamCall(ClientCall<?, M> call) {
    this.call = call;
  }

  /** Starts a call; {@code nanoseconds} is its time limit, Long.MAX_VALUE for none. */
  static <Q, M> StreamCall<M> start(Channel channel, MethodDescriptor<Q, M> method, Q request, long nanoseconds) {
    CallOptions options = CallOptions.DEFAULT;
    if (nanoseconds != Long.MAX_VALUE) {
      options = options.withDeadlineAfter(nanoseconds, TimeUnit.NANOSECONDS);
    }
    ClientCall<Q, M> call = channel.newCall(method, options);
    StreamCall<M> started = new StreamCall<>(call);
    call.start(
        new ClientCall.Listener<M>() {
          @Override
          public void onMessage(M message) {
            started.queue.add(message);
          }

          @Override
          public void onClose(Status status, Metadata trailers) {
            started.queue.add(new End(status, trailers));
          }
        },
        new Metadata());
    call.request(1);
    call.sendMessage(request);
    call.halfClose();
    return started;
  }

  /**
   * Waits for the next message and returns it; null after the last one of a call that ended well; {@link #WOKEN}.
   *
   * @param nanoseconds how long to wait; after it, {@link #WOKEN} comes as well
   * @throws InterruptedException if this thread was interrupted
   * @throws SluiceException if the call failed
   */
  Object take(long nanoseconds) throws InterruptedException {
    Object next = queue.poll(nanoseconds, TimeUnit.NANOSECONDS);
    if (next == null || next == WOKEN) {
      return WOKEN;
    }
    if (next instanceof End end) {
      queue.add(end); // whoever asks again gets the same
      if (end.status.isOk()) {
        return null;
      }
      throw SluiceException.of(end.status.asRuntimeException(end.trailers));
    }
    call.request(1);
    return next;
  }

  /** Lets the thread that waits look whether it leaves. */
  void wake() {
    queue.add(WOKEN);
  }

  /** Ends the call. */
  void close() {
    call.cancel("the stream was left", null);
  }
}
