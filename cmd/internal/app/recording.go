package app

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/stream"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/record"
	"github.com/autohedge/autohedge/stream/venue"
)

// play opens the recordings and points the configuration at their player. Each
// venue's frames come over a connection of their own, through that venue's code.
func (d *demoRun) play(ctx context.Context, cfg *config.Config, env component.Env) error {
	speed, err := record.ParseSpeed(d.options.speed)
	if err != nil {
		return withCode(exitUsage, fmt.Errorf("reading --speed: %w", err))
	}
	rc := record.DefaultConfig()
	rc.Speed, rc.MaxGap = speed, recordedSilence
	for _, f := range d.options.files {
		rc.Files = append(rc.Files, record.File{Path: f})
	}
	p, err := record.Open(rc, env)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, p)
	for _, info := range p.Files() {
		for _, b := range info.Bad {
			d.log.Warn("a line of the recording is not used", "line", b.String())
		}
	}
	cfg.Stream.Feeds = nil
	for _, e := range p.Endpoints() {
		f, err := playerFeed(e)
		if err != nil {
			return err
		}
		cfg.Stream.Feeds = append(cfg.Stream.Feeds, f)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := p.Run(ctx); err != nil && ctx.Err() == nil {
			d.engine.fault("playing the recording: " + err.Error())
		}
		if n := p.Interruptions(); n > 0 && ctx.Err() == nil {
			d.engine.fault(fmt.Sprintf("playing the recording: the connection was lost %d times, and frames with it", n))
		}
	}()
	d.closers = append(d.closers, closer(func() error { cancel(); <-ended; return nil }))
	return nil
}

// recordedSilence is the longest silence that a replay waits for: none is cut.
const recordedSilence = 365 * 24 * time.Hour

// closer is a function that closes something.
type closer func() error

// Close calls it.
func (c closer) Close() error { return c() }

// playerFeed is the feed of one venue's recorded frames. Of several channels that
// make trades only one is taken, as in a live feed.
func playerFeed(e record.Endpoint) (stream.FeedConfig, error) {
	f := stream.DefaultFeed()
	spec, err := venue.Registry.Lookup(e.Venue)
	if err != nil {
		return f, fmt.Errorf("replaying frames of %s: %w", e.Venue, err)
	}
	v, err := spec.New(nil)
	if err != nil {
		return f, fmt.Errorf("replaying frames of %s: %w", e.Venue, err)
	}
	f.Name, f.Venue, f.URL, f.Symbols, f.Replay = e.Venue, e.Venue, e.URL, e.Symbols, true
	trades := false
	for _, c := range v.Info().Channels {
		if !slices.Contains(e.Channels, c.Name) || (c.Trades && trades) {
			continue
		}
		trades = trades || c.Trades
		f.Channels = append(f.Channels, c.Name)
	}
	return f, nil
}

// streamRole returns this process's stream role, where it runs one.
func (e *engine) streamRole() *stream.Role {
	for _, r := range e.roles {
		if s, ok := r.current().(*stream.Role); ok {
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
		owner, err := e.embeddedKafka(ctx)
		if err != nil {
			return nil, err
		}
		kafka = kafkaOf(kafka, owner)
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
