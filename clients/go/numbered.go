package sluice

import (
	"context"
	"errors"
	"io"
	"time"
)

// leaveLimit is how long leaving a stream waits for the gateway to confirm that the response was cancelled.
const leaveLimit = 3 * time.Second

// call is one streaming call, read by a goroutine of its own, which is one message ahead.
type call[M any] struct {
	cancel   context.CancelFunc
	messages chan M
	err      error // set before messages is closed; nil after the last message of a call that ended well
}

// open starts a call. Cancelling ctx does not end it at once: who leaves may have to learn the response's name first.
func open[M any](ctx context.Context, start func(context.Context) (func() (M, error), error)) *call[M] {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	release := cancel
	if deadline, bounded := ctx.Deadline(); bounded {
		own, release = context.WithDeadline(own, deadline)
	}
	opened := &call[M]{cancel: cancel, messages: make(chan M)}
	// Who forgets to close the stream leaks nothing.
	left := context.AfterFunc(ctx, func() { time.AfterFunc(2*leaveLimit, cancel) })
	go func() {
		defer close(opened.messages)
		defer release()
		defer cancel()
		defer left()
		receive, err := start(own)
		for err == nil {
			var message M
			if message, err = receive(); err == nil {
				select {
				case opened.messages <- message:
				case <-own.Done():
					err = own.Err()
				}
			}
		}
		if !errors.Is(err, io.EOF) {
			opened.err = err
		}
	}()
	return opened
}

// close ends the call and waits for its goroutine.
func (c *call[M]) close() {
	c.cancel()
	for range c.messages { //nolint:revive // what came meanwhile is dropped
	}
}

// numbered is what streams of events have in common: reading, opening again, and an orderly end.
type numbered[M, E any] struct {
	ctx      context.Context
	tries    backoff
	current  *call[M]
	ready    []E
	received uint64
	complete bool
	reopened int
	end      error // what Next returns from now on

	// start opens the call that delivers what comes after received.
	start func(context.Context) (func() (M, error), error)
	// take checks a message and queues its events.
	take func(M) *Error
	// mayReopen tells whether a broken connection is followed by another one.
	mayReopen func() bool
	// noteEnd is told of the failure that ends the stream; decided if it did not come from the connection.
	noteEnd func(found *Error, decided bool)
}

// next returns the next event; io.EOF after the last one, and only if the stream ended as it should.
func (n *numbered[M, E]) next() (E, error) {
	var none E
	for {
		if n.end == nil && errors.Is(n.ctx.Err(), context.Canceled) {
			// Whoever left sees no event more, also not one that came at the same moment.
			n.ready, n.end = nil, endOf(n.ctx)
		}
		if len(n.ready) > 0 {
			break
		}
		if n.end != nil {
			return none, n.end
		}
		n.fill()
	}
	event := n.ready[0]
	n.ready = n.ready[1:]
	return event, nil
}

// fill waits for one message, or handles one end of a call.
func (n *numbered[M, E]) fill() {
	if n.ctx.Err() != nil {
		n.end = endOf(n.ctx)
		return
	}
	if n.current == nil {
		n.current = open(n.ctx, n.start)
	}
	select {
	case <-n.ctx.Done():
		n.end = endOf(n.ctx)
	case message, ok := <-n.current.messages:
		if ok {
			if found := n.take(message); found != nil {
				n.ready, n.end = nil, found
			}
			return
		}
		n.ended(n.current.err)
	}
}

func (n *numbered[M, E]) ended(err error) {
	n.stop()
	if err == nil {
		n.end = io.EOF
		if !n.complete {
			n.end = protocolError("the stream ended with status OK, but not with its last event")
		}
		return
	}
	found := failure(err)
	if n.tries.over() {
		found = closed()
	}
	if !found.broken() || !n.mayReopen() {
		n.noteEnd(found, !found.broken())
		n.end = found
		return
	}
	if end := n.tries.wait(n.ctx, found); end != nil {
		if n.ctx.Err() == nil {
			// Out of reach for so long: what still runs there ends by its own grace.
			n.noteEnd(end, true)
		}
		n.end = end
		return
	}
	n.reopened++
}

func (n *numbered[M, E]) expect(sequence uint64) *Error {
	if sequence != n.received+1 {
		return protocolError("expected event %d, but %d came", n.received+1, sequence)
	}
	if n.complete {
		return protocolError("event %d came after the last one", sequence)
	}
	return nil
}

func (n *numbered[M, E]) advance(sequence uint64) {
	n.received = sequence
	n.tries.reset()
}

func (n *numbered[M, E]) stop() {
	if n.current != nil {
		n.current.close()
		n.current = nil
	}
}
