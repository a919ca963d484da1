package sluice

import (
	"context"
	"crypto/tls"
	"sync"
	"time"

	"github.com/google/uuid"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	chatpb "example.com/sluice/gen/sluice/chat/v1"
	gatewaypb "example.com/sluice/gen/sluice/gateway/v1"
	taskpb "example.com/sluice/gen/sluice/task/v1"
)

const (
	detachGrace = 30 * time.Second // how long a response waits for its watcher, where the request says nothing
	maxMessage  = 32 << 20         // what a gateway sends at most
	// A stream that is not read holds this much; without a fixed size grpc grows it to 16 MiB.
	streamWindow     = 256 << 10
	connectionWindow = 4 << 20
)

// Client is a client of one gateway, on one connection. It is safe for concurrent use.
type Client struct {
	conn  *grpc.ClientConn
	chat  gatewaypb.ChatServiceClient
	tasks taskpb.TaskServiceClient
	retry RetryPolicy

	closing sync.Once
	closed  chan struct{} // closed by Close
}

type options struct {
	key   string
	creds credentials.TransportCredentials
	retry RetryPolicy
	dial  []grpc.DialOption
}

// Option changes how a Client is made.
type Option func(*options)

// WithKey sends an API key with every call. It goes over plain text, too: without TLS the network has to encrypt.
func WithKey(key string) Option { return func(o *options) { o.key = key } }

// WithTLS encrypts the connection; nil means the system's certificates. Unset: plain text, for this machine and networks
// that encrypt below.
func WithTLS(config *tls.Config) Option {
	return func(o *options) { o.creds = credentials.NewTLS(config) }
}

// WithRetry sets how long broken connections are tried again.
func WithRetry(policy RetryPolicy) Option { return func(o *options) { o.retry = policy } }

// WithDialOptions hands further options to grpc.
func WithDialOptions(more ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, more...) }
}

// New makes a client of the gateway at an address such as "127.0.0.1:7400" or "unix:/run/sluice.sock". It dials when
// first used.
func New(address string, more ...Option) (*Client, error) {
	set := options{creds: insecure.NewCredentials(), retry: DefaultRetryPolicy}
	for _, option := range more {
		option(&set)
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(set.creds),
		// The gateway permits a ping every 20 seconds and drops who sends more.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: time.Minute, Timeout: 20 * time.Second, PermitWithoutStream: true,
		}),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connectionWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		// A gateway that restarts is back within a second, not after grpc's default of up to two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
	}
	if set.key != "" {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer(set.key)))
	}
	conn, err := grpc.NewClient(address, append(dial, set.dial...)...)
	if err != nil {
		return nil, failure(err)
	}
	return &Client{
		conn:  conn,
		chat:  gatewaypb.NewChatServiceClient(conn),
		tasks: taskpb.NewTaskServiceClient(conn),
		retry: set.retry,

		closed: make(chan struct{}),
	}, nil
}

// Conn returns the connection, for the generated clients of the other services. ErrorOf reads their errors.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Close ends every call and every stream, with ErrClosed, and closes the connection. Responses that were streamed are
// ended by the gateway after their grace. Closing twice does nothing.
func (c *Client) Close() error {
	var err error
	c.closing.Do(func() {
		close(c.closed) // first, so that nobody takes it for a connection that broke
		err = c.conn.Close()
	})
	return err
}

// ErrorOf returns the failure that an error of a generated client stands for; nil for nil.
func ErrorOf(err error) *Error {
	if err == nil {
		return nil
	}
	return failure(err)
}

// StatusError returns the failure that a status in a message stands for, such as a task's error; nil for none.
func StatusError(from *spb.Status) error {
	if from.GetCode() == 0 {
		return nil
	}
	return failure(status.FromProto(from).Err())
}

// UserMessage returns a message of the user with a text.
func UserMessage(text string) *chatpb.Message {
	return &chatpb.Message{
		Role:  chatpb.MessageRole_MESSAGE_ROLE_USER,
		Parts: []*chatpb.Part{{Kind: &chatpb.Part_Text{Text: text}}},
	}
}

// ChatOption changes how an answer is asked for.
type ChatOption func(*chatOptions)

type chatOptions struct {
	requestID string
	noResume  bool
}

// WithRequestID makes the request idempotent for 24 hours under a UUID of the caller's. Unset: the client makes one.
func WithRequestID(id string) ChatOption { return func(o *chatOptions) { o.requestID = id } }

// WithoutResume lets a stream fail that breaks after `Accepted`, and the response with it.
func WithoutResume() ChatOption { return func(o *chatOptions) { o.noResume = true } }

// StreamChat asks for an answer and returns its stream; the call is made when the stream is first read. Close it.
func (c *Client) StreamChat(ctx context.Context, spec *gatewaypb.ChatSpec, more ...ChatOption) *Stream {
	var set chatOptions
	for _, option := range more {
		option(&set)
	}
	wanted := proto.CloneOf(spec)
	if !set.noResume && wanted.DetachGrace == nil && !wanted.GetBackground() {
		wanted.DetachGrace = durationpb.New(detachGrace)
	}
	if deadline, bounded := ctx.Deadline(); bounded && wanted.MaxDuration == nil {
		// With a grace, the call's own deadline would only detach the watcher.
		wanted.MaxDuration = durationpb.New(max(time.Millisecond, time.Until(deadline)))
	}
	request := &gatewaypb.StreamChatRequest{RequestId: requestID(set.requestID), Spec: wanted}
	grace := wanted.GetDetachGrace().AsDuration()
	if wanted.GetBackground() {
		grace = max(grace, detachGrace)
	}
	return newStream(ctx, c, request, "", 0, grace, !set.noResume)
}

// ResumeChat returns the stream of a response that was asked for earlier, from the event after a number on: the same
// events, numbers and end as the first stream. It fails with RESUME_WINDOW_EXPIRED where they are no longer kept.
func (c *Client) ResumeChat(ctx context.Context, response string, after uint64) *Stream {
	return newStream(ctx, c, nil, response, after, detachGrace, true)
}

// Chat asks for an answer in one piece. It is repeated with the same request id if the connection breaks.
func (c *Client) Chat(ctx context.Context, spec *gatewaypb.ChatSpec, more ...ChatOption) (*gatewaypb.Answer, error) {
	var set chatOptions
	for _, option := range more {
		option(&set)
	}
	request := &gatewaypb.ChatRequest{RequestId: requestID(set.requestID), Spec: spec}
	response, err := Repeat(ctx, c, func(ctx context.Context) (*gatewaypb.ChatResponse, error) {
		return c.chat.Chat(ctx, request)
	})
	return response.GetAnswer(), err
}

// CancelChat ends a response and returns where it stands. One that has ended stays as it is.
func (c *Client) CancelChat(ctx context.Context, response string) (gatewaypb.ResponseState, error) {
	request := &gatewaypb.CancelChatRequest{Response: response}
	cancelled, err := Repeat(ctx, c, func(ctx context.Context) (*gatewaypb.CancelChatResponse, error) {
		return c.chat.CancelChat(ctx, request)
	})
	return cancelled.GetState(), err
}

// GetResponse returns a response as far as it is.
func (c *Client) GetResponse(ctx context.Context, response string) (*gatewaypb.GetResponseResponse, error) {
	request := &gatewaypb.GetResponseRequest{Response: response}
	return Repeat(ctx, c, func(ctx context.Context) (*gatewaypb.GetResponseResponse, error) {
		return c.chat.GetResponse(ctx, request)
	})
}

func requestID(given string) string {
	if given != "" {
		return given
	}
	return uuid.NewString()
}

// bearer is an API key.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (b bearer) RequireTransportSecurity() bool { return false }
