package sluice.client;

import java.time.Duration;
import sluice.task.v1.Task;
import sluice.task.v1.TaskEvent;
import sluice.task.v1.TaskServiceGrpc;
import sluice.task.v1.WatchTaskRequest;
import sluice.task.v1.WatchTaskResponse;

/**
 * The events of one task, ending with the one that ended it, well or not. It goes on by itself when its connection breaks.
 * Leaving it early does not touch the task.
 */
public final class TaskStream extends NumberedStream<WatchTaskResponse, NumberedTask> {
  private final SluiceClient client;
  private final String name;

  TaskStream(SluiceClient client, String name, long after, Duration timeout) {
    super(client, timeout, after);
    this.client = client;
    this.name = name;
  }

  /** Reads to the end and returns the task as it ended, well or not. */
  public Task result() {
    Task last = null;
    try (this) {
      for (NumberedTask item : this) {
        last = item.task();
      }
    }
    if (last == null) {
      throw new ProtocolException("the task ended before the event asked for");
    }
    return last;
  }

  /** Ends the connection. */
  @Override
  public void close() {
    super.close();
  }

  @Override
  StreamCall<WatchTaskResponse> open(long nanoseconds) {
    client.connectNow();
    var request = WatchTaskRequest.newBuilder().setName(name).setAfterSequence(received).build();
    return client.call(TaskServiceGrpc.getWatchTaskMethod(), request, nanoseconds);
  }

  @Override
  void take(WatchTaskResponse message) {
    for (TaskEvent event : message.getEventsList()) {
      if (received == 0) {
        received = event.getSequence() - 1; // from the start, or from the oldest event that is kept
      }
      expect(event.getSequence());
      advance(event.getSequence());
      complete =
          switch (event.getTask().getState()) {
            case TASK_STATE_SUCCEEDED, TASK_STATE_FAILED, TASK_STATE_CANCELLED -> true;
            default -> false;
          };
      ready.add(new NumberedTask(event.getSequence(), event.getTask()));
    }
  }

  @Override
  boolean mayReopen() {
    return true;
  }

  @Override
  void noteEnd(SluiceException failure, boolean decided) {}

  @Override
  void abandon() {}
}
