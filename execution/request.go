package execution

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Paths are the files of one data folder that execution uses.
type Paths struct {
	PaperDir string // the paper broker's ledgers, one folder an account
	HaltFile string // exists while something is halted
	Socket   string // Unix socket of the running engine
}

// Connect connects to Kafka when a request turns out to need it. A nil Connect
// means that Kafka cannot be reached.
type Connect func(ctx context.Context) (*bus.Client, error)

// RequestHalt halts a scope: all, account:NAME, symbol:SYMBOL or symbol:VENUE|SYMBOL.
// Level reduce stops entries, stop everything. A running engine is told through its
// socket and begins no send that the halt covers once this returns; otherwise the halt file is written, and
// control where Kafka can be reached, so that an engine that starts later, or
// runs elsewhere, is halted.
func RequestHalt(ctx context.Context, paths Paths, connect Connect, scope, who, why string, level event.HaltLevel) (HaltReport, error) {
	if err := checkRequest(scope, who, why); err != nil {
		return HaltReport{}, err
	}
	r, err := ask(ctx, paths.Socket, socketRequest{Op: "halt", Scope: scope, Who: who, Why: why, Level: level})
	var refused *engineError
	if err == nil || errors.As(err, &refused) {
		return r, err
	}
	// An engine that does not answer reads the file before each order.
	if !errors.Is(err, errNoEngine) {
		r.Warnings = append(r.Warnings, err.Error())
	}
	h := Halt{Scope: scope, Who: who, Why: why, Time: time.Now().UnixNano(), Level: level}
	fileErr := haltFile(paths.HaltFile).add(h)
	if fileErr == nil {
		r.File = true
	} else {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the halt file could not be written: %v", fileErr))
	}
	controlErr := publishControl(ctx, connect, controlRecord(event.ControlHalt, h))
	if controlErr == nil {
		r.Control = true
	} else {
		r.Warnings = append(r.Warnings, fmt.Sprintf("control could not be written: %v", controlErr))
	}
	if !r.File && !r.Control {
		return r, fmt.Errorf("halting: %w", errors.Join(err, fileErr, controlErr))
	}
	h.Source = "control"
	if r.File {
		h.Source = "file"
	}
	r.Halts = []Halt{h}
	return r, nil
}

// RequestResume lifts the halts of a scope; all lifts every one. It needs the
// running engine or Kafka.
func RequestResume(ctx context.Context, paths Paths, connect Connect, scope, who, why string) (HaltReport, error) {
	if err := checkRequest(scope, who, why); err != nil {
		return HaltReport{}, err
	}
	r, err := ask(ctx, paths.Socket, socketRequest{Op: "resume", Scope: scope, Who: who, Why: why})
	if !errors.Is(err, errNoEngine) {
		return r, err
	}
	h := Halt{Scope: scope, Who: who, Why: why, Time: time.Now().UnixNano()}
	if err := publishControl(ctx, connect, controlRecord(event.ControlResume, h)); err != nil {
		return r, fmt.Errorf("resuming: neither a running engine nor control can be reached: %w", err)
	}
	r.Control = true
	if err := haltFile(paths.HaltFile).clear(scope, h.Time); err != nil {
		return r, fmt.Errorf("resuming: still halted by the file: %w", err)
	}
	r.File = true
	left, err := haltFile(paths.HaltFile).read()
	r.Halts = left.list("file")
	return r, err
}

// HaltStatus tells what is halted: as the running engine sees it, else from the
// file and, where Kafka can be reached, control.
func HaltStatus(ctx context.Context, paths Paths, connect Connect) (HaltReport, error) {
	r, err := ask(ctx, paths.Socket, socketRequest{Op: "status"})
	if !errors.Is(err, errNoEngine) {
		return r, err
	}
	inFile, err := haltFile(paths.HaltFile).read()
	if err != nil {
		inFile = haltSet{ScopeAll: {Scope: ScopeAll, Who: "engine", Why: err.Error(), Time: time.Now().UnixNano()}}
	}
	r = HaltReport{File: true, Halts: inFile.list("file")}
	inControl := haltSet{}
	err = withClient(ctx, connect, func(client *bus.Client) error {
		_, err := client.ReadAll(ctx, event.TopicControl, 0, bus.FromStart, func(rec bus.Record) error {
			c, err := event.DecodeAs[*event.Control](rec.Value)
			if err != nil {
				if !client.SkippedRecord(rec.Topic, rec.Partition, rec.Offset) {
					inControl[ScopeAll] = unreadableControl(&rec, err)
				}
				return nil
			}
			foldControl(inControl, c)
			return nil
		})
		return err
	})
	if err != nil {
		r.Warnings = append(r.Warnings, fmt.Sprintf("control could not be read: %v", err))
		return r, nil
	}
	r.Control = true
	r.Halts = slices.Concat(r.Halts, inControl.list("control"))
	return r, nil
}

func withClient(ctx context.Context, connect Connect, f func(*bus.Client) error) error {
	if connect == nil {
		return errors.New("no Kafka is running")
	}
	client, err := connect(ctx)
	if err != nil {
		return err
	}
	// A halt does not wait until every setting of every topic is right.
	err = client.EnsureTopics(ctx)
	var wrong *bus.TopicsError
	if errors.As(err, &wrong) {
		err = client.AttachTopics(ctx)
	}
	if err != nil {
		return errors.Join(err, client.Close())
	}
	return errors.Join(f(client), client.Close())
}

func publishControl(ctx context.Context, connect Connect, c *event.Control) error {
	return withClient(ctx, connect, func(client *bus.Client) error {
		p, err := client.NewProducer(ctx, bus.ProducerConfig{Name: "halt", Blocking: true}, component.Discard())
		if err != nil {
			return err
		}
		_, _, err = p.Publish(ctx, event.TopicControl, []byte(c.Scope), c)
		return errors.Join(err, p.Close(ctx))
	})
}
