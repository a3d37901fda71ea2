package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// tailLine is one record as `autohedge tail` prints it.
type tailLine struct {
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Time      time.Time `json:"time"`
	Key       string    `json:"key"`
	Type      string    `json:"type"`
	Event     any       `json:"event,omitempty"`
	Error     string    `json:"error,omitempty"`
	Value     []byte    `json:"value,omitempty"` // base64, of what did not decode
}

func (t *tool) tailCommand() *cobra.Command {
	var from, key, session string
	var count int64
	var partition int32
	var follow bool
	c := &cobra.Command{
		Use: "tail TOPIC", Short: "Print the records of a topic as JSON, one a line", GroupID: "look", Args: args(cobra.ExactArgs(1)),
		Long: `tail prints the records of a topic, decoded, one JSON object a line, and waits for
more until Ctrl-C. Topics: ` + topicNames() + `.`,
		Example: `  autohedge tail signals
  autohedge tail md --from start --count 5 --follow=false
  autohedge tail orders --key paper | jq .event.state`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, s := range event.Topics {
				names = append(names, s.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, a []string) error {
			if _, ok := event.Topic(a[0]); !ok {
				return withCode(exitUsage, fmt.Errorf("unknown topic %q: want one of %s", a[0], topicNames()))
			}
			offset := bus.FromEnd
			switch from {
			case "end":
			case "start":
				offset = bus.FromStart
			default:
				n, err := strconv.ParseInt(from, 10, 64)
				if err != nil || n < 0 {
					return withCode(exitUsage, fmt.Errorf("--from %q: want start, end or an offset", from))
				}
				offset = n
			}
			client, err := t.kafkaClient(cmd.Context(), session)
			if err != nil {
				return err
			}
			err = t.tail(cmd.Context(), client, tailOptions{topic: a[0], partition: partition, offset: offset, key: key, count: count, follow: follow})
			return errors.Join(err, client.Close())
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "end", "start, end or an offset")
	f.Int32Var(&partition, "partition", -1, "one partition only (default all)")
	f.Int64Var(&count, "count", 0, "stop after so many records (default never)")
	f.StringVar(&key, "key", "", "only records of this key, as venue|symbol or account")
	f.StringVar(&session, "session", "", "a replay's session instead of the live topics")
	f.BoolVar(&follow, "follow", true, "wait for more at the end")
	return c
}

func topicNames() string {
	var names []string
	for _, s := range event.Topics {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

type tailOptions struct {
	topic     string
	partition int32
	offset    int64
	key       string
	count     int64
	follow    bool
}

// tail reads the partitions side by side; each line is written whole.
func (t *tool) tail(ctx context.Context, client *bus.Client, o tailOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bounds, err := client.Offsets(ctx, o.topic)
	if err != nil {
		return withCode(exitDown, err)
	}
	lines := make(chan tailLine, 256)
	errs := make(chan error, len(bounds))
	running := 0
	for p := range bounds {
		if o.partition >= 0 && int32(p) != o.partition {
			continue
		}
		running++
		go func() { errs <- tailPartition(ctx, client, o, int32(p), bounds[p].End, lines) }()
	}
	if running == 0 {
		return withCode(exitUsage, fmt.Errorf("topic %s has no partition %d: it has %d", o.topic, o.partition, len(bounds)))
	}
	enc := json.NewEncoder(t.out)
	enc.SetEscapeHTML(false)
	for printed := int64(0); ; {
		select {
		case l := <-lines:
			if err := enc.Encode(l); err != nil {
				return fmt.Errorf("writing records: %w", err)
			}
			if printed++; printed == o.count {
				return nil
			}
		case err := <-errs:
			if err != nil {
				return err
			}
			if running--; running == 0 && len(lines) == 0 {
				return nil
			}
			if running == 0 {
				running = 1
				go func() { errs <- nil }() // print what is left, then end
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func tailPartition(ctx context.Context, client *bus.Client, o tailOptions, partition int32, end int64, out chan<- tailLine) error {
	r, err := client.NewReader(ctx, bus.ReaderConfig{Topic: o.topic, Partition: partition, Offset: o.offset, KeepCopies: true}, component.Discard())
	if err != nil {
		return err
	}
	defer r.Close()
	if !o.follow {
		r.EndAt(end)
	}
	for {
		records, err := r.Next(ctx)
		if err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		for i := range records {
			if records[i].Void {
				continue
			}
			if o.key != "" && string(records[i].Key) != o.key {
				continue
			}
			select {
			case out <- describe(&records[i]):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func describe(r *bus.Record) tailLine {
	l := tailLine{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Time.UTC(), Key: string(r.Key)}
	m, err := event.Decode(r.Value)
	if err != nil {
		l.Type, l.Error, l.Value = "unreadable", err.Error(), append([]byte(nil), r.Value...)
		return l
	}
	l.Type = strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", m), "*event."))
	l.Event = m
	return l
}
