package sluice

import (
	"context"
	"io"
	"iter"
	"strings"
	"time"

	chatpb "example.com/sluice/gen/sluice/chat/v1"
	gatewaypb "example.com/sluice/gen/sluice/gateway/v1"
)

// Event is one event of an answer and its number, from 1.
type Event struct {
	Sequence uint64
	*chatpb.Event
}

// batch is a message of StreamChat or ResumeChat.
type batch interface {
	GetFirstSequence() uint64
	GetEvents() []*chatpb.Event
}

// Stream is the events of one answer, for one goroutine.
//
// Heartbeats do not show, and kinds of events that this client does not know are skipped but counted. It ends well if and
// only if the last event was the only `Completed`; every other end is an *Error. Closing it early, or cancelling its
// context, cancels the response; Detach prevents that.
type Stream struct {
	client   *Client
	inner    numbered[batch, Event]
	request  *gatewaypb.StreamChatRequest
	response string
	last     uint64
	grace    time.Duration
	resume   bool
	detached bool
	settled  bool
}

func newStream(
	ctx context.Context, client *Client, request *gatewaypb.StreamChatRequest,
	response string, after uint64, grace time.Duration, resume bool,
) *Stream {
	s := &Stream{client: client, request: request, response: response, last: after, grace: grace, resume: resume}
	s.inner = numbered[batch, Event]{
		ctx:      ctx,
		tries:    client.tries(),
		received: after,
		start:    s.start,
		take:     s.take,
		// Before Accepted the request id makes a second try safe; after it only a response with a grace still runs.
		mayReopen: func() bool { return s.response == "" || s.resume },
		// A deadline of the call only detaches this watcher, so the response may still run.
		noteEnd: func(found *Error, decided bool) { s.settled = decided && found.Reason != timeOut().Reason },
	}
	if response != "" {
		s.patient()
	}
	return s
}

// Next returns the next event; io.EOF after `Completed`.
func (s *Stream) Next() (Event, error) {
	event, err := s.inner.next()
	if err != nil {
		if err != io.EOF {
			s.Close()
		}
		return Event{}, err
	}
	s.last = event.Sequence
	return event, nil
}

// All returns the events for a `for range`, and closes the stream when the loop is left. An error is the last pair.
func (s *Stream) All() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		defer s.Close()
		for {
			event, err := s.Next()
			if err == io.EOF {
				return
			}
			if !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Text reads to the end and returns the answer's text, without what a restart voided.
func (s *Stream) Text() (string, error) {
	type piece struct {
		sequence uint64
		text     string
	}
	var pieces []piece
	for event, err := range s.All() {
		if err != nil {
			return "", err
		}
		switch kind := event.Kind.(type) {
		case *chatpb.Event_TextDelta:
			pieces = append(pieces, piece{event.Sequence, kind.TextDelta.GetText()})
		case *chatpb.Event_Restarted:
			for len(pieces) > 0 && pieces[len(pieces)-1].sequence >= kind.Restarted.GetDiscardFrom() {
				pieces = pieces[:len(pieces)-1]
			}
		}
	}
	var text strings.Builder
	for _, piece := range pieces {
		text.WriteString(piece.text)
	}
	return text.String(), nil
}

// Response returns the resource name of the response; empty before it was accepted.
func (s *Stream) Response() string { return s.response }

// LastSequence returns the number of the last event that was handed out; 0 before the first.
func (s *Stream) LastSequence() uint64 { return s.last }

// Reconnects returns how often the stream went on over a new call.
func (s *Stream) Reconnects() int { return s.inner.reopened }

// Detach lets the response go on when this stream is left, as long as its grace or `background` allows.
func (s *Stream) Detach() { s.detached = true }

// Cancel ends the response. Whoever reads its stream gets CANCELLED.
func (s *Stream) Cancel() error {
	ctx, done := context.WithTimeout(context.WithoutCancel(s.inner.ctx), leaveLimit)
	defer done()
	if err := s.awaitAccepted(ctx); err != nil || s.response == "" {
		return err
	}
	_, err := s.client.CancelChat(ctx, s.response)
	return err
}

// Close ends the connection, and cancels the response unless it has ended or was detached. Closing twice does nothing.
func (s *Stream) Close() error {
	var err error
	if !s.inner.complete && !s.settled && !s.detached {
		s.settled = true
		err = s.Cancel()
	}
	s.inner.stop()
	if s.inner.end == nil {
		s.inner.ready, s.inner.end = nil, io.EOF
		if !s.inner.complete {
			s.inner.end = endOf(context.Background())
		}
	}
	return err
}

// awaitAccepted: a response that was asked for but not named yet is known to the gateway alone, so wait for its name.
func (s *Stream) awaitAccepted(ctx context.Context) error {
	for s.response == "" && s.inner.current != nil {
		select {
		case <-ctx.Done():
			return endOf(ctx)
		case message, ok := <-s.inner.current.messages:
			if !ok {
				if s.inner.current.err != nil {
					return failure(s.inner.current.err)
				}
				return nil
			}
			if found := s.take(message); found != nil {
				return found
			}
		}
	}
	return nil
}

func (s *Stream) start(ctx context.Context) (func() (batch, error), error) {
	if s.response == "" {
		stream, err := s.client.chat.StreamChat(ctx, s.request)
		if err != nil {
			return nil, err
		}
		return func() (batch, error) { return stream.Recv() }, nil
	}
	request := &gatewaypb.ResumeChatRequest{Response: s.response, AfterSequence: s.inner.received}
	stream, err := s.client.chat.ResumeChat(ctx, request)
	if err != nil {
		return nil, err
	}
	return func() (batch, error) { return stream.Recv() }, nil
}

func (s *Stream) take(message batch) *Error {
	for index, event := range message.GetEvents() {
		sequence := message.GetFirstSequence() + uint64(index)
		if found := s.inner.expect(sequence); found != nil {
			return found
		}
		accepted := event.GetAccepted()
		if sequence == 1 && accepted == nil {
			return protocolError("the first event is not `Accepted`")
		}
		s.inner.advance(sequence)
		if event.GetKind() == nil {
			continue
		}
		if accepted != nil && s.response == "" {
			s.response = accepted.GetResponse()
			s.patient()
		}
		s.inner.complete = event.GetCompleted() != nil
		s.inner.ready = append(s.inner.ready, Event{sequence, event})
	}
	return nil
}

// patient: once accepted, trying as long as the gateway keeps the response is worth it.
func (s *Stream) patient() {
	if s.resume {
		s.inner.tries.policy.Patience = max(s.inner.tries.policy.Patience, s.grace)
	}
}
