// Indexes a folder through a Sluice gateway, asks a question about it, and prints the cited answer while it streams.
//
//	go run . FOLDER QUESTION
//
// SLUICE_ADDRESS is the gateway's address (default 127.0.0.1:7400), SLUICE_API_KEY the key where it wants one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	chatpb "example.com/sluice-quickstart/gen/sluice/chat/v1"
	gatewaypb "example.com/sluice-quickstart/gen/sluice/gateway/v1"
	retrievalpb "example.com/sluice-quickstart/gen/sluice/retrieval/v1"
	taskpb "example.com/sluice-quickstart/gen/sluice/task/v1"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go run . FOLDER QUESTION")
		os.Exit(2)
	}
	// Ctrl-C cancels the call, and with it the answer upstream.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", reasonOf(err), status.Convert(err).Message())
		os.Exit(1)
	}
}

func run(ctx context.Context, folder, question string) error {
	address := os.Getenv("SLUICE_ADDRESS")
	if address == "" {
		address = "127.0.0.1:7400"
	}
	if key := os.Getenv("SLUICE_API_KEY"); key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	connection, err := connect(address)
	if err != nil {
		return err
	}
	defer connection.Close()
	path, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	corpus, err := createCorpus(ctx, connection, "go-"+slug(filepath.Base(path)))
	if err != nil {
		return err
	}
	if err := index(ctx, connection, corpus, path); err != nil {
		return err
	}
	return ask(ctx, connection, corpus, question)
}

func slug(name string) string {
	return regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(name), "-")
}

func createCorpus(ctx context.Context, connection *grpc.ClientConn, id string) (string, error) {
	corpora := retrievalpb.NewCorpusServiceClient(connection)
	_, err := corpora.CreateCorpus(ctx, &retrievalpb.CreateCorpusRequest{CorpusId: id})
	if err != nil && status.Code(err) != codes.AlreadyExists {
		return "", err
	}
	return "corpora/" + id, nil
}

// index watches the task that indexes a folder: it goes on in the retrieval service meanwhile.
func index(ctx context.Context, connection *grpc.ClientConn, corpus, path string) error {
	requestID := uuid.NewString()
	started, err := retrievalpb.NewCorpusServiceClient(connection).IndexCorpus(ctx, &retrievalpb.IndexCorpusRequest{
		Name:      corpus,
		Source:    &retrievalpb.Source{Kind: &retrievalpb.Source_Local{Local: &retrievalpb.LocalSource{Path: path}}},
		RequestId: &requestID,
	})
	if err != nil {
		return err
	}
	task := started.GetTask()
	watch, err := taskpb.NewTaskServiceClient(connection).WatchTask(ctx, &taskpb.WatchTaskRequest{Name: task.GetName()})
	if err != nil {
		return err
	}
	for {
		message, err := watch.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		for _, event := range message.GetEvents() {
			task = event.GetTask()
		}
	}
	if task.GetState() != taskpb.TaskState_TASK_STATE_SUCCEEDED {
		return status.FromProto(task.GetError()).Err()
	}
	fmt.Printf("indexed %d files as %s\n", task.GetCounts()["files"], corpus)
	return nil
}

func ask(ctx context.Context, connection *grpc.ClientConn, corpus, question string) error {
	stream, err := gatewaypb.NewChatServiceClient(connection).StreamChat(ctx, &gatewaypb.StreamChatRequest{
		RequestId: uuid.NewString(),
		Spec: &gatewaypb.ChatSpec{
			Messages: []*chatpb.Message{{
				Role:  chatpb.MessageRole_MESSAGE_ROLE_USER,
				Parts: []*chatpb.Part{{Kind: &chatpb.Part_Text{Text: question}}},
			}},
			Grounding: &gatewaypb.Grounding{Corpora: []string{corpus}},
		},
	})
	if err != nil {
		return err
	}
	for {
		// A batch holds events; the i-th has the number FirstSequence + i. A batch without events is a heartbeat.
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, event := range batch.GetEvents() {
			show(event)
		}
	}
}

func show(event *chatpb.Event) {
	switch kind := event.GetKind().(type) {
	case *chatpb.Event_TextDelta:
		fmt.Print(kind.TextDelta.GetText())
	case *chatpb.Event_Citation:
		citation := kind.Citation
		state := strings.TrimPrefix(citation.GetState().String(), "CITATION_STATE_")
		fmt.Printf("%s:%d-%d %s\n", citation.GetPath(), citation.GetStartLine(), citation.GetEndLine(), state)
	case *chatpb.Event_Completed:
		fmt.Printf("completed: %s\n", strings.TrimPrefix(kind.Completed.GetFinishReason().String(), "FINISH_REASON_"))
	default:
		// Kinds that this program does not know are skipped: new ones may come.
	}
}
