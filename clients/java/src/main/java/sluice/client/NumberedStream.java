package sluice.client;

import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Queue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.locks.ReentrantLock;

/**
 * A stream of single, numbered events that outlives its connection. Iterate over it once, in one thread; any thread may
 * close it.
 *
 * @param <M> messages of its calls
 * @param <E> events
 */
abstract sealed class NumberedStream<M, E> implements Iterator<E>, Iterable<E>, AutoCloseable
    permits ChatStream, TaskStream {
  final Backoff backoff;
  final Queue<E> ready = new ArrayDeque<>();
  long received;
  boolean complete;
  private final SluiceClient client;
  private final CountDownLatch leaving;
  private final ReentrantLock reading = new ReentrantLock();
  private volatile StreamCall<M> call;
  private volatile int reconnects;
  private boolean ended;

  NumberedStream(SluiceClient client, Duration timeout, long after) {
    this.client = client;
    leaving = new CountDownLatch(1);
    backoff = new Backoff(client.retry(), timeout, leaving);
    received = after;
  }

  /** Opens the call that delivers what comes after {@code received}. */
  abstract StreamCall<M> open(long nanoseconds);

  /** Checks a message and queues its events. */
  abstract void take(M message);

  /** Whether a broken connection is followed by another one. */
  abstract boolean mayReopen();

  /** Is told of the failure that ends the stream; {@code decided} if it did not come from the connection. */
  abstract void noteEnd(SluiceException failure, boolean decided);

  /** Ends what the stream stands for, when it is left early. */
  abstract void abandon();

  /** How often the stream went on over a new call. */
  public int reconnects() {
    return reconnects;
  }

  @Override
  public Iterator<E> iterator() {
    return this;
  }

  /**
   * Waits for the next event.
   *
   * @throws SluiceException if the stream ends in any other way than it should; CANCELLED if it is closed meanwhile or the
   *     thread is interrupted
   */
  @Override
  public boolean hasNext() {
    reading.lock();
    try {
      if (!ended) {
        checkInterrupted();
      }
      while (ready.isEmpty() && !ended) {
        fill();
        checkInterrupted(); // a message that came at the same moment wakes first
      }
      return !ready.isEmpty();
    } catch (SluiceException failure) {
      finish();
      throw failure;
    } finally {
      reading.unlock();
    }
  }

  @Override
  public E next() {
    reading.lock();
    try {
      if (!hasNext()) {
        throw new NoSuchElementException();
      }
      return ready.remove();
    } finally {
      reading.unlock();
    }
  }

  /** Ends the connection. Closing twice does nothing. */
  @Override
  public void close() {
    leaving.countDown();
    StreamCall<M> current = call;
    if (current != null) {
      current.wake();
    }
    reading.lock(); // whoever waits for an event has just been told to leave
    try {
      finish();
    } finally {
      reading.unlock();
    }
  }

  final void expect(long sequence) {
    if (sequence != received + 1) {
      throw new ProtocolException("expected event " + (received + 1) + ", but " + sequence + " came");
    }
    if (complete) {
      throw new ProtocolException("event " + sequence + " came after the last one");
    }
  }

  final void advance(long sequence) {
    received = sequence;
    backoff.reset();
  }

  /** Takes one more message of the running call, for who is on the way out. False if there is none in time. */
  final boolean takeOne(long nanoseconds) throws InterruptedException {
    if (call == null) {
      return false;
    }
    long until = System.nanoTime() + nanoseconds;
    Object message = StreamCall.WOKEN;
    while (message == StreamCall.WOKEN && until - System.nanoTime() > 0) {
      message = call.take(until - System.nanoTime());
    }
    return message != StreamCall.WOKEN && taken(message);
  }

  private void finish() {
    if (!ended) {
      ended = true;
      ready.clear();
      abandon();
    }
    leaveCall();
  }

  private void fill() {
    checkLeaving();
    if (call == null) {
      if (backoff.left() == 0) {
        throw SluiceException.timedOut();
      }
      call = open(backoff.left());
      checkLeaving();
    }
    Object message;
    try {
      message = call.take(Long.MAX_VALUE);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw SluiceException.left(interrupted);
    } catch (SluiceException failure) {
      leaveCall();
      recover(failure);
      return;
    }
    if (message == StreamCall.WOKEN || taken(message)) {
      return;
    }
    leaveCall();
    if (!complete) {
      throw new ProtocolException("the stream ended with status OK, but not with its last event");
    }
    ended = true;
  }

  @SuppressWarnings("unchecked") // what a call hands out, but for null and WOKEN, is its messages
  private boolean taken(Object message) {
    if (message != null) {
      take((M) message);
    }
    return message != null;
  }

  private void recover(SluiceException failure) {
    if (client.isClosed()) {
      SluiceException end = SluiceException.closed(failure);
      noteEnd(end, true); // nothing can be called any more
      throw end;
    }
    if (!failure.broken() || !mayReopen()) {
      noteEnd(failure, !failure.broken());
      throw failure;
    }
    try {
      backoff.await(failure);
    } catch (SluiceException end) {
      if (end == failure) {
        // Out of reach for so long: what still runs there ends by its own grace.
        noteEnd(failure, true);
      }
      throw end;
    }
    reconnects += 1;
  }

  private static void checkInterrupted() {
    if (Thread.currentThread().isInterrupted()) {
      throw SluiceException.left(new InterruptedException());
    }
  }

  private void checkLeaving() {
    if (leaving.getCount() == 0) {
      throw SluiceException.left(null);
    }
  }

  private void leaveCall() {
    StreamCall<M> current = call;
    call = null;
    if (current != null) {
      current.close();
    }
  }
}
