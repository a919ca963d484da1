import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonElement;
import com.google.protobuf.util.JsonFormat;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import sluice.client.ChatOptions;
import sluice.client.ChatStream;
import sluice.client.NumberedEvent;
import sluice.client.NumberedTask;
import sluice.client.ProtocolException;
import sluice.client.SluiceClient;
import sluice.client.SluiceException;
import sluice.client.TaskStream;
import sluice.error.v1.ErrorReason;
import sluice.gateway.v1.ChatSpec;

/**
 * Runs the cases of tests/conformance with this client: one JSON object a line on standard input says what to do, one a line
 * on standard output says what came of it. docs/clients.md describes both.
 */
public final class Conformance {
  private static final Gson JSON = new GsonBuilder().serializeNulls().create();
  private static final BufferedReader IN =
      new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  /** What to do, with the names of the driver. */
  private static final class Instruction {
    String go;
    String address;
    String key;
    JsonElement spec;
    String task;
    Long timeout_ms;
    long leave_after;
    boolean leave_told;
    long pause_after;
  }

  /** What came of it. */
  private static final class Outcome {
    /** Runs of events of one kind with numbers that follow on: kind, first number, last number. */
    final List<Object[]> events = new ArrayList<>();

    int bytes;
    String sha256 = "";
    String response = "";
    String finish = "";
    int reconnects;
    boolean left;
    Map<String, Object> error;
    List<String> retryable;
    List<String> permanent;

    void note(String kind, long sequence) {
      Object[] last = events.isEmpty() ? null : events.get(events.size() - 1);
      if (last != null && last[0].equals(kind) && (Long) last[2] == sequence - 1) {
        last[2] = sequence;
      } else {
        events.add(new Object[] {kind, sequence, sequence});
      }
    }

    void text(String text) throws NoSuchAlgorithmException {
      byte[] data = text.getBytes(StandardCharsets.UTF_8);
      bytes = data.length;
      sha256 = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(data));
    }
  }

  public static void main(String[] arguments) throws Exception {
    for (String line = IN.readLine(); line != null; line = IN.readLine()) {
      // `do` is a word of the language.
      Instruction todo = JSON.fromJson(line.replaceFirst("\"do\":", "\"go\":"), Instruction.class);
      Outcome done = new Outcome();
      try (SluiceClient client = SluiceClient.builder(todo.address).key(todo.key).build()) {
        run(client, todo, done);
      } catch (SluiceException failure) {
        if (Thread.interrupted() && failure.reason() == ErrorReason.ERROR_REASON_CANCELLED) {
          done.left = true;
        } else {
          done.error = described(failure);
        }
      }
      OUT.println(JSON.toJson(done));
    }
  }

  private static void run(SluiceClient client, Instruction todo, Outcome done) throws Exception {
    ChatSpec.Builder spec = ChatSpec.newBuilder();
    if (todo.spec != null) {
      JsonFormat.parser().merge(todo.spec.toString(), spec);
    }
    ChatOptions options = ChatOptions.defaults();
    if (todo.timeout_ms != null) {
      options = options.withTimeout(Duration.ofMillis(todo.timeout_ms));
    }
    switch (todo.go) {
      case "chat" -> {
        var answer = client.chat(spec.build(), options);
        done.text(answer.getText());
        done.response = answer.getResponse();
        done.finish = answer.getCompleted().getFinishReason().name().replace("FINISH_REASON_", "");
      }
      case "stream" -> {
        try (ChatStream events = client.streamChat(spec.build(), options)) {
          stream(events, todo, done);
        }
      }
      case "watch" -> {
        try (TaskStream events = client.watchTask(todo.task, 0)) {
          for (NumberedTask item : events) {
            done.finish = item.task().getState().name().replace("TASK_STATE_", "");
            done.note(done.finish, item.sequence());
          }
          done.reconnects = events.reconnects();
        }
      }
      case "reasons" -> {
        done.retryable = reasons(true);
        done.permanent = reasons(false);
      }
      default -> throw new IllegalArgumentException(todo.go);
    }
  }

  private static void stream(ChatStream events, Instruction todo, Outcome done) throws Exception {
    if (todo.leave_told) {
      Thread reader = Thread.currentThread();
      Thread teller =
          new Thread(
              () -> {
                awaitLine();
                reader.interrupt();
                OUT.println("{\"leaving\": true}");
              });
      teller.setDaemon(true);
      teller.start();
    }
    StringBuilder text = new StringBuilder();
    try {
      for (NumberedEvent item : events) {
        var event = item.event();
        done.note(event.getKindCase().name().toLowerCase(), item.sequence());
        if (event.hasTextDelta()) {
          text.append(event.getTextDelta().getText());
        } else if (event.hasCompleted()) {
          done.finish = event.getCompleted().getFinishReason().name().replace("FINISH_REASON_", "");
        }
        if (item.sequence() == todo.pause_after) {
          awaitLine();
        }
        if (item.sequence() == todo.leave_after) {
          done.left = true;
          break;
        }
      }
    } finally {
      events.close();
      done.text(text.toString());
      done.response = events.response().orElse("");
      done.reconnects = events.reconnects();
    }
  }

  private static void awaitLine() {
    try {
      IN.readLine();
    } catch (IOException broken) {
      throw new IllegalStateException("the driver left in the middle of a case", broken);
    }
  }

  private static List<String> reasons(boolean retryable) {
    return Arrays.stream(ErrorReason.values())
        .filter(reason -> SluiceException.isRetryable(reason) == retryable)
        .map(reason -> reason.name().replace("ERROR_REASON_", ""))
        .sorted()
        .toList();
  }

  private static Map<String, Object> described(SluiceException failure) {
    Map<String, Object> told = new LinkedHashMap<>();
    told.put("reason", failure.reasonName());
    told.put("code", failure.code().name());
    told.put("message", failure.getMessage());
    told.put("retryable", failure.retryable());
    told.put("retry_after", failure.retryAfter().orElse(Duration.ZERO).toMillis() / 1000.0);
    told.put("metadata", failure.metadata());
    told.put(
        "violations",
        failure.violations().stream().map(row -> List.of(row.field(), row.description())).toList());
    told.put("protocol", failure instanceof ProtocolException);
    return told;
  }
}
