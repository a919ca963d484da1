import io.grpc.StatusRuntimeException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.UUID;
import sluice.chat.v1.Citation;
import sluice.chat.v1.Event;
import sluice.chat.v1.Message;
import sluice.chat.v1.MessageRole;
import sluice.chat.v1.Part;
import sluice.client.ChatStream;
import sluice.client.NumberedEvent;
import sluice.client.SluiceClient;
import sluice.client.SluiceException;
import sluice.client.TaskStream;
import sluice.error.v1.ErrorReason;
import sluice.gateway.v1.ChatSpec;
import sluice.gateway.v1.Grounding;
import sluice.retrieval.v1.CorpusServiceGrpc;
import sluice.retrieval.v1.CreateCorpusRequest;
import sluice.retrieval.v1.IndexCorpusRequest;
import sluice.retrieval.v1.LocalSource;
import sluice.retrieval.v1.Source;
import sluice.task.v1.Task;
import sluice.task.v1.TaskState;

/**
 * Indexes a folder, asks a question about it, and prints the cited answer while it streams.
 *
 * <pre>java -cp "target/classes:target/lib/*" quickstart/Quickstart.java FOLDER QUESTION</pre>
 *
 * SLUICE_ADDRESS is the gateway's address (default 127.0.0.1:7400), SLUICE_API_KEY the key where it wants one.
 */
public final class Quickstart {
  private final SluiceClient client;
  private final CorpusServiceGrpc.CorpusServiceBlockingStub corpora;

  private Quickstart(SluiceClient client) {
    this.client = client;
    this.corpora = CorpusServiceGrpc.newBlockingStub(client.channel());
  }

  public static void main(String[] arguments) {
    if (arguments.length != 2) {
      System.err.println("usage: java -cp … quickstart/Quickstart.java FOLDER QUESTION");
      System.exit(2);
    }
    String address = System.getenv().getOrDefault("SLUICE_ADDRESS", "127.0.0.1:7400");
    try (SluiceClient client = SluiceClient.builder(address).key(System.getenv("SLUICE_API_KEY")).build()) {
      Path folder = Path.of(arguments[0]).toAbsolutePath().normalize();
      Quickstart quickstart = new Quickstart(client);
      String corpus = quickstart.createCorpus("java-" + slug(folder.getFileName().toString()));
      quickstart.index(corpus, folder);
      quickstart.ask(corpus, arguments[1]);
    } catch (SluiceException | StatusRuntimeException failed) {
      SluiceException failure = SluiceException.of(failed);
      System.err.println(failure.reasonName() + ": " + failure.getMessage());
      System.exit(1);
    }
  }

  private static String slug(String name) {
    return name.toLowerCase().replaceAll("[^a-z0-9]+", "-");
  }

  private String createCorpus(String id) {
    try {
      corpora.createCorpus(CreateCorpusRequest.newBuilder().setCorpusId(id).build());
    } catch (StatusRuntimeException failed) {
      if (SluiceException.of(failed).reason() != ErrorReason.ERROR_REASON_ALREADY_EXISTS) {
        throw failed;
      }
    }
    return "corpora/" + id;
  }

  /** Indexing is a task: it goes on in the retrieval service while this program watches it. */
  private void index(String corpus, Path folder) {
    Source source = Source.newBuilder().setLocal(LocalSource.newBuilder().setPath(folder.toString())).build();
    IndexCorpusRequest request =
        IndexCorpusRequest.newBuilder()
            .setName(corpus)
            .setSource(source)
            .setRequestId(UUID.randomUUID().toString())
            .build();
    // It carries a request id, so it is safe to repeat where the connection breaks.
    String name = client.repeat(corpora, Duration.ofMinutes(1), stub -> stub.indexCorpus(request)).getTask().getName();
    try (TaskStream watch = client.watchTask(name, 0)) {
      Task task = watch.result();
      if (task.getState() != TaskState.TASK_STATE_SUCCEEDED) {
        throw new IllegalStateException("indexing: " + task.getState() + " " + task.getError().getMessage());
      }
      System.out.println("indexed " + task.getCountsOrDefault("files", 0) + " files as " + corpus);
    }
  }

  private void ask(String corpus, String question) {
    ChatSpec spec =
        ChatSpec.newBuilder()
            .addMessages(
                Message.newBuilder()
                    .setRole(MessageRole.MESSAGE_ROLE_USER)
                    .addParts(Part.newBuilder().setText(question)))
            .setGrounding(Grounding.newBuilder().addCorpora(corpus))
            .build();
    // Leaving the block early, also by an exception, cancels the response.
    try (ChatStream stream = client.streamChat(spec)) {
      for (NumberedEvent item : stream) {
        Event event = item.event();
        switch (event.getKindCase()) {
          case TEXT_DELTA -> System.out.print(event.getTextDelta().getText());
          case CITATION -> {
            Citation citation = event.getCitation();
            System.out.printf(
                "%s:%d-%d %s%n",
                citation.getPath(),
                citation.getStartLine(),
                citation.getEndLine(),
                citation.getState().name().replace("CITATION_STATE_", ""));
          }
          case COMPLETED ->
              System.out.println(
                  "completed: " + event.getCompleted().getFinishReason().name().replace("FINISH_REASON_", ""));
          default -> {}
        }
      }
    }
  }
}
