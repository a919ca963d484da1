// Indexes a folder through a Sluice gateway, asks a question about it, and prints the cited answer while it streams.
//
//	go run ./quickstart FOLDER QUESTION
//
// SLUICE_ADDRESS is the gateway's address (default 127.0.0.1:7400), SLUICE_API_KEY the key where it wants one.
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/uuid"

	sluice "example.com/sluice"
	chatpb "example.com/sluice/gen/sluice/chat/v1"
	errorpb "example.com/sluice/gen/sluice/error/v1"
	gatewaypb "example.com/sluice/gen/sluice/gateway/v1"
	retrievalpb "example.com/sluice/gen/sluice/retrieval/v1"
	taskpb "example.com/sluice/gen/sluice/task/v1"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go run ./quickstart FOLDER QUESTION")
		os.Exit(2)
	}
	// Ctrl-C ends the answer, here and upstream.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, sluice.ErrorOf(err)) // REASON: message
		os.Exit(1)
	}
}

func run(ctx context.Context, folder, question string) error {
	address := cmp.Or(os.Getenv("SLUICE_ADDRESS"), "127.0.0.1:7400")
	client, err := sluice.New(address, sluice.WithKey(os.Getenv("SLUICE_API_KEY")))
	if err != nil {
		return err
	}
	defer client.Close()
	path, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	corpus, err := createCorpus(ctx, client, "go-"+slug(filepath.Base(path)))
	if err != nil {
		return err
	}
	if err := index(ctx, client, corpus, path); err != nil {
		return err
	}
	return ask(ctx, client, corpus, question)
}

func slug(name string) string {
	return regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(name), "-")
}

func createCorpus(ctx context.Context, client *sluice.Client, id string) (string, error) {
	corpora := retrievalpb.NewCorpusServiceClient(client.Conn())
	_, err := corpora.CreateCorpus(ctx, &retrievalpb.CreateCorpusRequest{CorpusId: id})
	if err != nil && sluice.ErrorOf(err).Reason != errorpb.ErrorReason_ERROR_REASON_ALREADY_EXISTS {
		return "", err
	}
	return "corpora/" + id, nil
}

// index watches the task that indexes a folder: it goes on in the retrieval service meanwhile.
func index(ctx context.Context, client *sluice.Client, corpus, path string) error {
	requestID := uuid.NewString()
	started, err := retrievalpb.NewCorpusServiceClient(client.Conn()).IndexCorpus(ctx, &retrievalpb.IndexCorpusRequest{
		Name:      corpus,
		Source:    &retrievalpb.Source{Kind: &retrievalpb.Source_Local{Local: &retrievalpb.LocalSource{Path: path}}},
		RequestId: &requestID,
	})
	if err != nil {
		return err
	}
	task, err := client.WatchTask(ctx, started.GetTask().GetName(), 0).Result()
	if err != nil {
		return err
	}
	if task.GetState() != taskpb.TaskState_TASK_STATE_SUCCEEDED {
		return sluice.StatusError(task.GetError())
	}
	fmt.Printf("indexed %d files as %s\n", task.GetCounts()["files"], corpus)
	return nil
}

func ask(ctx context.Context, client *sluice.Client, corpus, question string) error {
	spec := &gatewaypb.ChatSpec{
		Messages:  []*chatpb.Message{sluice.UserMessage(question)},
		Grounding: &gatewaypb.Grounding{Corpora: []string{corpus}},
	}
	for event, err := range client.StreamChat(ctx, spec).All() {
		if err != nil {
			return err
		}
		switch kind := event.Kind.(type) {
		case *chatpb.Event_TextDelta:
			fmt.Print(kind.TextDelta.GetText())
		case *chatpb.Event_Citation:
			citation := kind.Citation
			state := strings.TrimPrefix(citation.GetState().String(), "CITATION_STATE_")
			fmt.Printf("%s:%d-%d %s\n", citation.GetPath(), citation.GetStartLine(), citation.GetEndLine(), state)
		case *chatpb.Event_Completed:
			fmt.Printf("completed: %s\n", strings.TrimPrefix(kind.Completed.GetFinishReason().String(), "FINISH_REASON_"))
		}
	}
	return nil
}
