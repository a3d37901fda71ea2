package app

import (
	"context"
	"fmt"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/stream"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
)

func (d *demoRun) play(context.Context, *config.Config, component.Env) error {
	return fmt.Errorf("playing recordings: not there yet")
}

// streamRole returns this process's stream role, where it runs one.
func (e *engine) streamRole() *stream.Role {
	for _, r := range e.roles {
		if s, ok := r.role.(*stream.Role); ok {
			return s
		}
	}
	return nil
}

// choose gives a recording's session its name before anything lands: the one
// that was asked for, or the next free r1, r2, ...
func (d *demoRun) choose(ctx context.Context) error {
	if d.options.feed != "recording" {
		return nil
	}
	name := d.options.session
	if name == "" {
		sessions, err := d.sessions(ctx)
		if err != nil {
			return err
		}
		for n := 1; name == "" || sessions[name]; n++ {
			name = fmt.Sprintf("r%d", n)
		}
	}
	d.engine.cfg.Kafka.Session = name
	d.engine.cfg.ClickHouse.Database = sessionDatabase(name)
	return nil
}

// sessions asks the engine's Kafka, which it starts where it must, for the
// sessions that are there.
func (d *demoRun) sessions(ctx context.Context) (map[string]bool, error) {
	e := d.engine
	kafka := e.cfg.Kafka
	if len(kafka.Brokers) == 0 {
		addr, err := e.embeddedKafka(ctx)
		if err != nil {
			return nil, err
		}
		kafka.Brokers = []string{addr}
	}
	client, err := bus.Connect(ctx, kafka, component.Discard())
	if err != nil {
		return nil, err
	}
	names, err := client.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	have := make(map[string]bool)
	for _, n := range names {
		have[n] = true
	}
	return have, client.Close()
}
