package sluice

import (
	"context"
	"io"
	"iter"

	taskpb "example.com/sluice/gen/sluice/task/v1"
)

// TaskEvent is one event of a task and its number, from 1: the task as it was then.
type TaskEvent struct {
	Sequence uint64
	*taskpb.Task
}

// TaskStream is the events of one task, ending with the one that ended it, well or not. It goes on by itself when its
// connection breaks. Leaving it early does not touch the task.
type TaskStream struct {
	inner numbered[*taskpb.WatchTaskResponse, TaskEvent]
}

// WatchTask returns the stream of a task's events after a number; 0: from the start, or from the oldest that is kept.
// Close it.
func (c *Client) WatchTask(ctx context.Context, name string, after uint64) *TaskStream {
	s := &TaskStream{}
	s.inner = numbered[*taskpb.WatchTaskResponse, TaskEvent]{
		ctx:      ctx,
		tries:    c.tries(),
		received: after,
		start: func(ctx context.Context) (func() (*taskpb.WatchTaskResponse, error), error) {
			stream, err := c.tasks.WatchTask(ctx, &taskpb.WatchTaskRequest{Name: name, AfterSequence: s.inner.received})
			if err != nil {
				return nil, err
			}
			return stream.Recv, nil
		},
		take:      s.take,
		mayReopen: func() bool { return true },
		noteEnd:   func(*Error, bool) {},
	}
	return s
}

// Next returns the next event; io.EOF after the one that ended the task.
func (s *TaskStream) Next() (TaskEvent, error) {
	event, err := s.inner.next()
	if err != nil {
		s.Close()
	}
	return event, err
}

// All returns the events for a `for range`, and closes the stream when the loop is left. An error is the last pair.
func (s *TaskStream) All() iter.Seq2[TaskEvent, error] {
	return func(yield func(TaskEvent, error) bool) {
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

// Result reads to the end and returns the task as it ended, well or not.
func (s *TaskStream) Result() (*taskpb.Task, error) {
	var last *taskpb.Task
	for event, err := range s.All() {
		if err != nil {
			return nil, err
		}
		last = event.Task
	}
	if last == nil {
		return nil, protocolError("the task ended before the event asked for")
	}
	return last, nil
}

// Reconnects returns how often the stream went on over a new call.
func (s *TaskStream) Reconnects() int { return s.inner.reopened }

// Close ends the connection. Closing twice does nothing.
func (s *TaskStream) Close() {
	s.inner.stop()
	if s.inner.end == nil {
		s.inner.ready, s.inner.end = nil, io.EOF
	}
}

func (s *TaskStream) take(message *taskpb.WatchTaskResponse) *Error {
	for _, event := range message.GetEvents() {
		sequence := event.GetSequence()
		if s.inner.received == 0 {
			// From the start, or from the oldest event that is kept.
			s.inner.received = sequence - 1
		}
		if found := s.inner.expect(sequence); found != nil {
			return found
		}
		s.inner.advance(sequence)
		switch event.GetTask().GetState() {
		case taskpb.TaskState_TASK_STATE_SUCCEEDED, taskpb.TaskState_TASK_STATE_FAILED, taskpb.TaskState_TASK_STATE_CANCELLED:
			s.inner.complete = true
		}
		s.inner.ready = append(s.inner.ready, TaskEvent{sequence, event.GetTask()})
	}
	return nil
}
