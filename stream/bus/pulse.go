package bus

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/heartbeat"
)

const (
	// pulseEvery is how often a member notes that it runs.
	pulseEvery = 250 * time.Millisecond
	// asleepAfter is how long a member may have stood still (SIGSTOP, a paused
	// machine) and still own its partitions for certain: a rebalance that began just
	// after its last heartbeat gives them away after rebalanceTimeout.
	asleepAfter = abandonPatience
	// unknownYet is a pulse's beat before the group was asked for the first time.
	unknownYet = -int64(asleepAfter)
)

// pulse tells the handlers of a generation whether this process ran all the time.
// One that stood still may have lost its partitions without having heard of it;
// nothing is handed to a handler until the group's coordinator has said, after
// that, that this member is still one of this generation. It is asked at the
// beginning too: the answer that gave the partitions may have lain there meanwhile.
type pulse struct {
	ctx    context.Context                 // of the generation
	ask    func(ctx context.Context) error // a heartbeat
	asleep func(stood time.Duration)
	began  time.Time
	beat   atomic.Int64 // when the generation was last known to be ours, ns since began; or unknownYet
	asking chan struct{}
}

func newPulse(ctx context.Context, ask func(ctx context.Context) error, asleep func(stood time.Duration)) *pulse {
	p := &pulse{ctx: ctx, ask: ask, asleep: asleep, began: time.Now(), asking: make(chan struct{}, 1)}
	p.beat.Store(unknownYet)
	return p
}

// pulse is the one of a generation that kafka-go has joined and that ends with ctx.
func (k *Consumer) pulse(ctx context.Context, gen *kafka.Generation) *pulse {
	return newPulse(ctx, func(ctx context.Context) error { return k.client.stillMember(ctx, gen) }, func(stood time.Duration) {
		k.env.Log.Warn("this process stood still for so long that its partitions may be another member's: its handlers get nothing before the group says",
			"group", k.group, "generation", gen.ID, "stood_still", stood.Round(time.Millisecond))
	})
}

// run notes, until the generation ends, that the process runs.
func (p *pulse) run() {
	for sleep(p.ctx, pulseEvery) == nil {
		_ = p.sure(p.ctx) // asks again where it stood still
	}
}

// ran notes that the process runs at now, unless it stood still before; it returns
// for how long nothing is known. What is noted is when it was looked, so a stop
// between the look and the note is not lost.
func (p *pulse) ran(now time.Duration) (stood time.Duration) {
	for {
		last := p.beat.Load()
		if stood = now - time.Duration(last); stood >= asleepAfter {
			return stood
		}
		if stood <= pulseEvery/4 || p.beat.CompareAndSwap(last, int64(now)) {
			return 0
		}
	}
}

// sure returns once it is certain that the generation was this member's when sure
// was called, which is at once where the process did not stand still, and an error
// when ctx or the generation ends before that. A member that is out is told so by
// kafka-go's next heartbeat, which ends the generation.
func (p *pulse) sure(ctx context.Context) error {
	stood := p.ran(time.Since(p.began))
	if stood == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	select {
	case p.asking <- struct{}{}: // one asks for all
		defer func() { <-p.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if stood = p.ran(time.Since(p.began)); stood == 0 || ctx.Err() != nil {
		return ctx.Err()
	}
	if p.beat.Load() != unknownYet {
		p.asleep(stood)
	}
	for attempt := 0; ; attempt++ {
		now := time.Since(p.began)
		if err := p.ask(ctx); err == nil {
			p.beat.Store(int64(now))
			return nil
		}
		if err := sleep(ctx, backoff(attempt)); err != nil {
			return err
		}
	}
}

// stillMember asks the group's coordinator whether this process is a member of its
// newest generation and whether that is gen; also a rebalance that has begun is an
// error.
func (c *Client) stillMember(ctx context.Context, gen *kafka.Generation) error {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := c.transport.RoundTrip(call, c.kafka.Addr, &heartbeatRequest{GroupID: gen.GroupID, GenerationID: gen.ID, MemberID: gen.MemberID})
	if err != nil {
		return fmt.Errorf("asking for the generation of group %s: %w", gen.GroupID, err)
	}
	res, ok := m.(*heartbeat.Response)
	if !ok {
		return fmt.Errorf("asking for the generation of group %s: answer of type %T", gen.GroupID, m)
	}
	if res.ErrorCode != 0 {
		return kafka.Error(res.ErrorCode)
	}
	return nil
}

// kafka-go sends its Client's heartbeats to any broker, and looks for the error code
// of versions above 0 where the throttle time is, so that every answer is a good
// one. This one goes to the group's coordinator, in version 0.
func init() {
	protocol.Register(&heartbeatRequest{}, &heartbeat.Response{})
}

type heartbeatRequest struct {
	_ struct{} `kafka:"min=v0,max=v0"`

	GroupID      string `kafka:"min=v0,max=v0"`
	GenerationID int32  `kafka:"min=v0,max=v0"`
	MemberID     string `kafka:"min=v0,max=v0"`
}

// ApiKey tells the protocol table which request this is.
//
//nolint:revive // kafka-go names it
func (*heartbeatRequest) ApiKey() protocol.ApiKey { return protocol.Heartbeat }

// Group says who is asked: the group's coordinator.
func (r *heartbeatRequest) Group() string { return r.GroupID }

var _ protocol.GroupMessage = (*heartbeatRequest)(nil)
