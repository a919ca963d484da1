// Runs the cases of tests/conformance with this client: one JSON object a line on standard input says what to do, one a
// line on standard output says what came of it. docs/clients.md describes both.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	sluice "example.com/sluice"
	chatpb "example.com/sluice/gen/sluice/chat/v1"
	errorpb "example.com/sluice/gen/sluice/error/v1"
	gatewaypb "example.com/sluice/gen/sluice/gateway/v1"
)

type instruction struct {
	Do         string          `json:"do"`
	Address    string          `json:"address"`
	Key        string          `json:"key"`
	Spec       json.RawMessage `json:"spec"`
	Task       string          `json:"task"`
	TimeoutMS  int             `json:"timeout_ms"`
	LeaveAfter uint64          `json:"leave_after"`
	LeaveTold  bool            `json:"leave_told"`
	PauseAfter uint64          `json:"pause_after"`
}

type failure struct {
	Reason     string            `json:"reason"`
	Code       string            `json:"code"`
	Message    string            `json:"message"`
	Retryable  bool              `json:"retryable"`
	RetryAfter float64           `json:"retry_after"`
	Metadata   map[string]string `json:"metadata"`
	Violations [][2]string       `json:"violations"`
	Protocol   bool              `json:"protocol"`
}

type outcome struct {
	// Events are runs of events of one kind with numbers that follow on: kind, first number, last number.
	Events     [][3]any `json:"events"`
	Bytes      int      `json:"bytes"`
	Digest     string   `json:"sha256"`
	Response   string   `json:"response"`
	Finish     string   `json:"finish"`
	Reconnects int      `json:"reconnects"`
	Left       bool     `json:"left"`
	Error      *failure `json:"error"`
	Retryable  []string `json:"retryable,omitempty"`
	Permanent  []string `json:"permanent,omitempty"`
}

var lines = bufio.NewReader(os.Stdin)

func main() {
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return
		}
		var todo instruction
		if err == nil {
			err = json.Unmarshal(line, &todo)
		}
		var done *outcome
		if err == nil {
			done, err = run(todo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		say(done)
	}
}

func say(what any) {
	encoded, err := json.Marshal(what)
	if err != nil {
		panic(err) // these types always encode
	}
	fmt.Println(string(encoded))
}

func run(todo instruction) (*outcome, error) {
	client, err := sluice.New(todo.Address, sluice.WithKey(todo.Key))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	if todo.TimeoutMS > 0 {
		timed, done := context.WithTimeout(ctx, time.Duration(todo.TimeoutMS)*time.Millisecond)
		defer done()
		ctx = timed
	}
	spec := &gatewaypb.ChatSpec{}
	if todo.Spec != nil {
		if err := protojson.Unmarshal(todo.Spec, spec); err != nil {
			return nil, err
		}
	}
	switch todo.Do {
	case "chat":
		return chat(ctx, client, spec), nil
	case "stream":
		return stream(ctx, leave, client, spec, todo), nil
	case "watch":
		return watch(ctx, client, todo), nil
	case "reasons":
		return reasons(), nil
	}
	return nil, fmt.Errorf("cannot %q", todo.Do)
}

func chat(ctx context.Context, client *sluice.Client, spec *gatewaypb.ChatSpec) *outcome {
	answer, err := client.Chat(ctx, spec)
	done := &outcome{Response: answer.GetResponse(), Error: described(err)}
	done.text(answer.GetText())
	if completed := answer.GetCompleted(); completed != nil {
		done.Finish = strings.TrimPrefix(completed.GetFinishReason().String(), "FINISH_REASON_")
	}
	return done
}

func stream(ctx context.Context, leave context.CancelFunc, client *sluice.Client, spec *gatewaypb.ChatSpec, todo instruction) *outcome {
	events := client.StreamChat(ctx, spec)
	if todo.LeaveTold {
		go func() {
			if _, err := lines.ReadBytes('\n'); err == nil {
				leave()
				say(map[string]bool{"leaving": true})
			}
		}()
	}
	done := &outcome{Events: [][3]any{}}
	var text strings.Builder
	for event, err := range events.All() {
		if err != nil {
			done.Left = errors.Is(err, context.Canceled)
			if !done.Left {
				done.Error = described(err)
			}
			break
		}
		reflected := event.ProtoReflect()
		field := reflected.WhichOneof(reflected.Descriptor().Oneofs().ByName("kind"))
		done.note(string(field.Name()), event.Sequence)
		switch kind := event.Kind.(type) {
		case *chatpb.Event_TextDelta:
			text.WriteString(kind.TextDelta.GetText())
		case *chatpb.Event_Completed:
			done.Finish = strings.TrimPrefix(kind.Completed.GetFinishReason().String(), "FINISH_REASON_")
		}
		if event.Sequence == todo.PauseAfter {
			if _, err := lines.ReadBytes('\n'); err != nil {
				panic(err) // the driver left in the middle of a case
			}
		}
		if event.Sequence == todo.LeaveAfter {
			done.Left = true
			break
		}
	}
	done.text(text.String())
	done.Response, done.Reconnects = events.Response(), events.Reconnects()
	return done
}

func watch(ctx context.Context, client *sluice.Client, todo instruction) *outcome {
	events := client.WatchTask(ctx, todo.Task, 0)
	done := &outcome{Events: [][3]any{}}
	for event, err := range events.All() {
		if err != nil {
			done.Error = described(err)
			break
		}
		done.Finish = strings.TrimPrefix(event.GetState().String(), "TASK_STATE_")
		done.note(done.Finish, event.Sequence)
	}
	done.Reconnects = events.Reconnects()
	return done
}

func reasons() *outcome {
	done := &outcome{Events: [][3]any{}}
	for number, name := range errorpb.ErrorReason_name {
		name = strings.TrimPrefix(name, "ERROR_REASON_")
		if sluice.Retryable(errorpb.ErrorReason(number)) {
			done.Retryable = append(done.Retryable, name)
		} else {
			done.Permanent = append(done.Permanent, name)
		}
	}
	slices.Sort(done.Retryable)
	slices.Sort(done.Permanent)
	return done
}

func (o *outcome) note(kind string, sequence uint64) {
	if last := len(o.Events) - 1; last >= 0 && o.Events[last][0] == kind && o.Events[last][2] == sequence-1 {
		o.Events[last][2] = sequence
		return
	}
	o.Events = append(o.Events, [3]any{kind, sequence, sequence})
}

func (o *outcome) text(text string) {
	sum := sha256.Sum256([]byte(text))
	o.Bytes, o.Digest = len(text), hex.EncodeToString(sum[:])
}

func described(err error) *failure {
	found := sluice.ErrorOf(err)
	if found == nil {
		return nil
	}
	told := &failure{
		Reason:     found.ReasonName(),
		Code:       codeName(found),
		Message:    found.Message,
		Retryable:  found.Retryable(),
		RetryAfter: found.RetryAfter.Seconds(),
		Metadata:   found.Metadata,
		Violations: [][2]string{},
		Protocol:   errors.Is(found, sluice.ErrProtocol),
	}
	for _, violation := range found.Violations {
		told.Violations = append(told.Violations, [2]string{violation.Field, violation.Description})
	}
	return told
}

// codeName returns a code as the documentation of gRPC spells it, e.g. INVALID_ARGUMENT.
func codeName(found *sluice.Error) string {
	var name strings.Builder
	for index, letter := range found.Code.String() {
		if index > 0 && letter >= 'A' && letter <= 'Z' {
			name.WriteByte('_')
		}
		name.WriteRune(letter)
	}
	return strings.ReplaceAll(strings.ToUpper(name.String()), "CANCELED", "CANCELLED")
}
