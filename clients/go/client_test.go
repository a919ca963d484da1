package sluice

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	chatpb "example.com/sluice/gen/sluice/chat/v1"
	errorpb "example.com/sluice/gen/sluice/error/v1"
	gatewaypb "example.com/sluice/gen/sluice/gateway/v1"
)

// gateway breaks after two events, and goes on where it is asked to. It notes what it was asked.
type gateway struct {
	gatewaypb.UnimplementedChatServiceServer
	mutex     sync.Mutex
	keys      []string
	resumed   []uint64
	cancelled []string
	broken    error
	hold      chan struct{}
}

func (g *gateway) StreamChat(_ *gatewaypb.StreamChatRequest, stream grpc.ServerStreamingServer[gatewaypb.StreamChatResponse]) error {
	accepted := &chatpb.Event{Kind: &chatpb.Event_Accepted{Accepted: &chatpb.Accepted{Response: "responses/r1"}}}
	text := &chatpb.Event{Kind: &chatpb.Event_TextDelta{TextDelta: &chatpb.TextDelta{Text: "low "}}}
	if err := stream.Send(&gatewaypb.StreamChatResponse{FirstSequence: 1, Events: []*chatpb.Event{accepted, text}}); err != nil {
		return err
	}
	if g.hold != nil {
		<-g.hold
	}
	return g.broken
}

func (g *gateway) ResumeChat(request *gatewaypb.ResumeChatRequest, stream grpc.ServerStreamingServer[gatewaypb.ResumeChatResponse]) error {
	g.mutex.Lock()
	g.resumed = append(g.resumed, request.GetAfterSequence())
	g.mutex.Unlock()
	text := &chatpb.Event{Kind: &chatpb.Event_TextDelta{TextDelta: &chatpb.TextDelta{Text: "tide"}}}
	completed := &chatpb.Event{Kind: &chatpb.Event_Completed{Completed: &chatpb.Completed{}}}
	return stream.Send(&gatewaypb.ResumeChatResponse{FirstSequence: 3, Events: []*chatpb.Event{text, completed}})
}

func (g *gateway) CancelChat(_ context.Context, request *gatewaypb.CancelChatRequest) (*gatewaypb.CancelChatResponse, error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.cancelled = append(g.cancelled, request.GetResponse())
	return &gatewaypb.CancelChatResponse{State: gatewaypb.ResponseState_RESPONSE_STATE_CANCELLED}, nil
}

func serve(t *testing.T, g *gateway) *Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	gatewaypb.RegisterChatServiceServer(server, g)
	go server.Serve(listener) //nolint:errcheck // it ends with the test
	t.Cleanup(server.Stop)
	client, err := New(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestAStreamGoesOnWhereItBroke(t *testing.T) {
	g := &gateway{broken: status.Error(codes.Unavailable, "reset")}
	stream := serve(t, g).StreamChat(t.Context(), &gatewaypb.ChatSpec{})
	text, err := stream.Text()
	if err != nil || text != "low tide" {
		t.Fatalf("%q, %v", text, err)
	}
	if stream.Reconnects() != 1 || stream.LastSequence() != 4 || len(g.resumed) != 1 || g.resumed[0] != 2 {
		t.Fatalf("%d reconnects, last %d, resumed after %v", stream.Reconnects(), stream.LastSequence(), g.resumed)
	}
	if _, err := stream.Next(); err != io.EOF {
		t.Fatalf("after the end: %v", err)
	}
	if len(g.cancelled) != 0 {
		t.Fatal("a response that had ended was cancelled")
	}
}

func TestWithoutResumeABreakIsTheEnd(t *testing.T) {
	g := &gateway{broken: status.Error(codes.Unavailable, "reset")}
	_, err := serve(t, g).StreamChat(t.Context(), &gatewaypb.ChatSpec{}, WithoutResume()).Text()
	if ErrorOf(err).Reason != errorpb.ErrorReason_ERROR_REASON_SERVICE_UNREACHABLE || len(g.resumed) != 0 {
		t.Fatalf("%v, resumed after %v", err, g.resumed)
	}
}

func TestADetachedStreamIsLeftWithoutCancelling(t *testing.T) {
	g := &gateway{hold: make(chan struct{})}
	defer close(g.hold)
	client := serve(t, g)
	for _, detach := range []bool{true, false} {
		stream := client.StreamChat(t.Context(), &gatewaypb.ChatSpec{})
		if _, err := stream.Next(); err != nil {
			t.Fatal(err)
		}
		if detach {
			stream.Detach()
		}
		if err := stream.Close(); err != nil {
			t.Fatal(err)
		}
		if cancelled := len(g.cancelled) > 0; cancelled == detach {
			t.Fatalf("detached: %v, cancelled: %v", detach, g.cancelled)
		}
	}
}

func TestAnErrorHasWhatTheStatusSays(t *testing.T) {
	made, err := status.New(codes.ResourceExhausted, "slow down").WithDetails(
		&errdetails.ErrorInfo{Domain: domain, Reason: "UPSTREAM_RATE_LIMITED", Metadata: map[string]string{"provider": "x"}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)},
		&errdetails.Help{Links: []*errdetails.Help_Link{{Url: "https://example.com/limits"}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	found := ErrorOf(made.Err())
	if found.ReasonName() != "UPSTREAM_RATE_LIMITED" || !found.Retryable() || found.broken() ||
		found.RetryAfter != 3*time.Second || found.Metadata["provider"] != "x" || found.HelpURL == "" {
		t.Fatalf("%+v", found)
	}
	future, err := status.New(codes.NotFound, "gone").WithDetails(&errdetails.ErrorInfo{Domain: domain, Reason: "FROM_THE_FUTURE"})
	if err != nil {
		t.Fatal(err)
	}
	if found := ErrorOf(future.Err()); found.ReasonName() != "NOT_FOUND" || found.broken() {
		t.Fatalf("%+v", found)
	}
	if status.Code(found) != codes.ResourceExhausted {
		t.Fatal("grpc does not see the code")
	}
}

func TestPatienceAndDeadlineEndTheTries(t *testing.T) {
	failed := &Error{Reason: errorpb.ErrorReason_ERROR_REASON_SERVICE_UNREACHABLE, Code: codes.Unavailable}
	impatient := backoff{policy: RetryPolicy{Initial: time.Millisecond, Multiplier: 2, Maximum: time.Second}}
	if found := impatient.wait(t.Context(), failed); found != failed {
		t.Fatalf("without patience: %v", found)
	}
	ctx, done := context.WithTimeout(t.Context(), time.Second)
	defer done()
	patient := backoff{policy: RetryPolicy{Initial: time.Hour, Multiplier: 2, Maximum: time.Hour, Patience: 24 * time.Hour}}
	if found := patient.wait(ctx, failed); found != failed {
		t.Fatalf("beyond the deadline: %v", found)
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	if found := patient.wait(left, failed); !errors.Is(found, context.Canceled) {
		t.Fatalf("left: %v", found)
	}
}

func TestClosingTheClientEndsWhatRuns(t *testing.T) {
	g := &gateway{hold: make(chan struct{})}
	defer close(g.hold)
	client := serve(t, g)
	stream := client.StreamChat(t.Context(), &gatewaypb.ChatSpec{})
	for range 2 {
		if _, err := stream.Next(); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error)
	go func() {
		_, err := stream.Next()
		ended <- err
	}()
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Fatalf("the stream ended with %v", err)
	}
	if _, err := client.GetResponse(t.Context(), "responses/r1"); !errors.Is(err, ErrClosed) {
		t.Fatalf("a call after it: %v", err)
	}
	if err := client.Close(); err != nil {
		t.Fatalf("closing twice: %v", err)
	}
	if stream.Reconnects() != 0 || len(g.resumed) != 0 {
		t.Fatalf("%d reconnects, resumed after %v", stream.Reconnects(), g.resumed)
	}
}

func TestWhyNobodyAnswersIsTheCause(t *testing.T) {
	client, err := New("127.0.0.1:1", WithRetry(RetryPolicy{}))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.GetResponse(t.Context(), "responses/r1")
	cause := errors.Unwrap(err)
	if status.Code(cause) != codes.Unavailable || !strings.Contains(cause.Error(), "127.0.0.1:1") {
		t.Fatalf("%v, because of %v", err, cause)
	}
	if strings.Contains(err.Error(), "127.0.0.1") {
		t.Fatalf("the message for people names the address: %v", err)
	}
}
