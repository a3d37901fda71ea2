package app_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// desk publishes quotes and decisions in place of the roles before execution.
type desk struct {
	t        *testing.T
	client   *bus.Client
	producer *bus.Producer
	accounts []string // one of each partition

	mu   sync.Mutex
	seq  uint64
	sent []*event.Decision
}

func newDesk(t *testing.T, data string) *desk {
	t.Helper()
	cfg := kafkaConfig(t, data)
	cfg.Partitions = 4
	client, err := bus.Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if err := client.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, client: client}
	if d.producer, err = client.NewProducer(t.Context(), bus.ProducerConfig{Name: "desk", Blocking: true}, component.Discard()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.producer.Close(context.Background()) })
	taken := make(map[int32]bool)
	for i := 0; len(d.accounts) < 4; i++ {
		name := fmt.Sprintf("a%d", i)
		if p := client.Partition(event.TopicOrders, []byte(name)); !taken[p] {
			taken[p] = true
			d.accounts = append(d.accounts, name)
		}
	}
	d.publish(event.TopicInstruments, event.Key("binance", "BTCUSDT"), &event.Instrument{
		Venue: "binance", Symbol: "BTCUSDT", Name: "BTC-USDT", Base: "BTC", Quote: "USDT", PriceTick: event.MustDecimal("0.01"), QtyStep: event.MustDecimal("0.00001"),
		MinQty: event.Some(event.MustDecimal("0.00001")), MinNotional: event.Some(event.MustDecimal("5")), Source: "config",
	})
	return d
}

// config is that of a process that owns the accounts.
func (d *desk) config(data string) string {
	d.t.Helper()
	return write(d.t, d.t.TempDir(), "hosts.yaml", loggedIn(announced(d.t, data, "kafka"), func(c *config.Config) {
		one := c.Execution.Accounts[0]
		one.Limits.MaxOrdersPerSecond, one.Limits.MaxOrdersPerMinute = 1000, 10000
		c.Execution.Accounts = nil
		for _, name := range d.accounts {
			one.Name = name
			c.Execution.Accounts = append(c.Execution.Accounts, one)
		}
		for i := range c.Signals.Strategies {
			c.Signals.Strategies[i].Account = d.accounts[0]
		}
		c.Execution.MarkInterval = time.Hour
	}))
}

func (d *desk) publish(topic string, key []byte, m event.Message) {
	d.t.Helper()
	if _, _, err := d.producer.Publish(d.t.Context(), topic, key, m); err != nil {
		d.t.Fatal(err)
	}
}

// round publishes a quote, and one decision for each account: buys and sells in turn.
func (d *desk) round() []*event.Decision {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq++
	now := time.Now().UnixNano()
	price := func(p int64) event.Decimal { return event.NewDecimal(p+int64(d.seq%7)*100, 2) } //nolint:gosec // small
	bid, ask := price(50_000_00), price(50_001_00)
	d.publish(event.TopicMarket, event.Key("binance", "BTCUSDT"), &event.Trade{ // which confirms the quote
		Channel: event.ChannelTrade, TradeID: d.seq, Price: bid, Qty: event.Some(event.MustDecimal("1")), EventTime: now, RecvTime: now, TimeSource: event.TimeReceive,
	})
	d.publish(event.TopicMarket, event.Key("binance", "BTCUSDT"), &event.Quote{
		Channel: event.ChannelBookTicker, Sequence: d.seq, Bid: bid, BidQty: event.Some(event.MustDecimal("5")), Ask: ask, AskQty: event.Some(event.MustDecimal("5")),
		RecvTime: now, TimeSource: event.TimeReceive,
	})
	side, action := event.Buy, event.ActionLong
	if d.seq%2 == 0 {
		side, action = event.Sell, event.ActionShort
	}
	var out []*event.Decision
	for _, account := range d.accounts {
		signal := event.HashStrings("hosts", fmt.Sprint(d.seq))
		x := &event.Decision{
			ID: event.DecisionID(signal, account, "champion"), SignalID: signal, Arm: "champion", Account: account, Strategy: "s", Venue: "binance", Symbol: "BTCUSDT",
			Desk: "deterministic", Action: action, Reason: "test", Side: side, Qty: event.Some(event.MustDecimal("0.002")), Type: event.Market, TIF: event.IOC, RefPrice: bid,
			Bid: event.Some(bid), Ask: event.Some(ask), SignalTime: now, Deadline: now + int64(time.Minute), MaxDriftBps: event.MustDecimal("500"), StartedAt: now, Time: now,
		}
		d.publish(event.TopicDecisions, []byte(account), x)
		out = append(out, x)
	}
	d.sent = append(d.sent, out...)
	return out
}

// entries are the last entries of all orders, and their fills, by client order id.
func (d *desk) entries() (last map[string]*event.OrderEvent, fills map[string][]*event.Fill, sends map[string]int) {
	d.t.Helper()
	last, fills, sends = make(map[string]*event.OrderEvent), make(map[string][]*event.Fill), make(map[string]int)
	for _, topic := range []string{event.TopicOrders, event.TopicFills} {
		for p := range d.client.Partitions(topic) {
			if _, err := d.client.ReadAll(d.t.Context(), topic, p, bus.FromStart, func(rec bus.Record) error {
				m, err := event.Decode(rec.Value)
				switch m := m.(type) {
				case *event.OrderEvent:
					last[m.ClientOrderID] = m
					if m.State == event.OrderSubmitting {
						sends[m.ClientOrderID]++
					}
				case *event.Fill:
					fills[m.ClientOrderID] = append(fills[m.ClientOrderID], m)
				}
				return err
			}); err != nil {
				d.t.Fatal(err)
			}
		}
	}
	return last, fills, sends
}

// settled waits until each of the decisions has an order that is done.
func (d *desk) settled(of []*event.Decision) {
	d.t.Helper()
	until(d.t, "every decision has an order that is done", func() bool {
		last, _, _ := d.entries()
		for _, x := range of {
			if e := last[event.ClientOrderID(x.ID, 0)]; e == nil || !e.State.Terminal() {
				return false
			}
		}
		return true
	})
}

// trades waits until an account's decisions are filled: a host that has just started
// may take one before it sees a quote.
func (d *desk) trades(account string) {
	d.t.Helper()
	until(d.t, "account "+account+" trades", func() bool {
		round := d.round()
		d.settled(round)
		last, _, _ := d.entries()
		for _, x := range round {
			if x.Account == account && last[event.ClientOrderID(x.ID, 0)].State == event.OrderFilled {
				return true
			}
		}
		return false
	})
}

// prove compares the order log with the fills, order by order.
func (d *desk) prove() (filled, refused int) {
	d.t.Helper()
	last, fills, sends := d.entries()
	for _, x := range d.sent {
		id := event.ClientOrderID(x.ID, 0)
		e := last[id]
		if e == nil {
			d.t.Errorf("the decision of order %s came to nothing", id)
			continue
		}
		if sends[id] > 1 {
			d.t.Errorf("order %s was begun %d times", id, sends[id])
		}
		sum := event.Decimal{}
		execs := make(map[string]bool)
		for _, f := range fills[id] {
			if execs[f.ExecID] {
				d.t.Errorf("order %s has execution %s twice", id, f.ExecID)
			}
			execs[f.ExecID] = true
			sum, _ = event.FromMoney(sum.Money().Add(f.Qty.Money()))
		}
		if e.FilledQty.Cmp(sum) != 0 {
			d.t.Errorf("order %s is %s, filled %s, its fills prove %s", id, e.State, e.FilledQty, sum)
		}
		switch e.State {
		case event.OrderFilled:
			filled++
		case event.OrderRiskRejected:
			refused++
			if e.Reason != "quote_missing" && !strings.Contains(e.Detail, "autohedge paper adopt "+e.Account) {
				d.t.Errorf("order %s is refused by %s: %s", id, e.Reason, e.Detail)
			}
		}
	}
	return filled, refused
}

// ledger compares an account's paper ledger with the logs, when no process has it.
func (d *desk) ledger(data, account string) (orders int) {
	d.t.Helper()
	b, err := broker.OpenPaper(broker.DefaultPaperConfig(), filepath.Join(data, "paper", account), component.Discard())
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			d.t.Error(err)
		}
	}()
	last, fills, _ := d.entries()
	for id, e := range last {
		r, err := b.Query(d.t.Context(), id)
		if err != nil || e.Account != account {
			continue
		}
		orders++
		if len(r.Fills) != len(fills[id]) {
			d.t.Errorf("order %s of %s has %d fills in %s and %d in the log", id, account, len(r.Fills), data, len(fills[id]))
		}
	}
	return orders
}

// Two processes on one data folder: the second stands by, has its part of the accounts
// handed over, and goes on with all of them when the first is stopped for long and then
// killed. What the first still holds, it refuses until then.
func TestProcessStandby(t *testing.T) {
	t.Parallel()
	brokerData := t.TempDir()
	kafka := start(t, "kafka", "--data", brokerData, "--output", "json")
	kafka.addresses()
	d := newDesk(t, brokerData)
	file, data := d.config(brokerData), t.TempDir()
	begin := func() *process {
		p := start(t, "run", "--config", file, "--data", data, "--roles", "execution")
		p.ready()
		return p
	}
	first := begin()
	for range 10 {
		d.round()
	}
	d.settled(d.sent)
	second := begin()
	second.says(`standing by for the socket`)
	for _, account := range d.accounts { // each is handed over, or kept
		d.trades(account)
	}
	first.pause()
	for range 5 {
		d.round()
	}
	d.settled(d.sent)
	second.says(`refusing an account.*which another process has open`)
	first.kill()
	for _, account := range d.accounts {
		d.trades(account)
	}
	succeed(t, "halt", "--config", file, "--data", data, "--why", "the second answers")
	second.says(`answering on the socket`)
	second.signal(syscall.SIGTERM)
	second.ended()
	last, fills, sends := d.entries()
	orders := 0
	for id, e := range last {
		sum := event.Decimal{}
		for _, f := range fills[id] {
			sum, _ = event.FromMoney(sum.Money().Add(f.Qty.Money()))
		}
		if e.FilledQty.Cmp(sum) != 0 || sends[id] > 1 {
			t.Errorf("order %s is %s, filled %s, its fills prove %s, begun %d times", id, e.State, e.FilledQty, sum, sends[id])
		}
	}
	for _, account := range d.accounts {
		orders += d.ledger(data, account)
	}
	t.Logf("%d decisions, %d orders in the ledgers, 0 differences from the log", len(d.sent), orders)
	kafka.signal(syscall.SIGTERM)
	kafka.ended()
}

// Two hosts with data folders of their own on one Kafka. One is stopped, and then
// killed, while decisions come; the other takes its accounts over. It does not have
// the ledgers that took their orders, so it refuses them, says the command and trades
// its own; no fill is lost, and no order sent twice.
func TestProcessTwoHosts(t *testing.T) {
	t.Parallel()
	brokerData := t.TempDir()
	kafka := start(t, "kafka", "--data", brokerData, "--output", "json")
	kafka.addresses()
	d := newDesk(t, brokerData)
	file := d.config(brokerData)
	hosts := [2]string{t.TempDir(), t.TempDir()}
	begin := func(i int) *process {
		p := start(t, "run", "--config", file, "--data", hosts[i], "--roles", "execution")
		p.ready()
		return p
	}
	a := begin(0)
	d.settled(d.round())
	for range 20 {
		d.round()
	}
	d.settled(d.sent)

	// The second host joins: what it is given it refuses.
	b := begin(1)
	b.says(`refusing an account.*autohedge paper adopt a`)
	for range 10 {
		d.settled(d.round())
	}

	// The first is stopped for longer than its membership lasts.
	a.pause()
	for range 10 {
		d.round()
	}
	d.settled(d.sent)
	a.signal(syscall.SIGCONT)
	for range 10 {
		d.settled(d.round())
	}

	// The first is killed in the middle of it.
	for range 10 {
		d.round()
	}
	a.kill()
	for range 10 {
		d.round()
	}
	b.signal(syscall.SIGTERM)
	b.ended()
	// It comes back alone, to what its ledgers have.
	a = begin(0)
	d.settled(d.sent)
	for _, account := range d.accounts {
		d.trades(account)
	}
	a.signal(syscall.SIGTERM)
	a.ended()
	filled, refused := d.prove()
	if refused == 0 {
		t.Error("nothing was refused")
	}
	orders := 0
	for _, account := range d.accounts {
		orders += d.ledger(hosts[0], account)
	}
	t.Logf("%d decisions: %d orders filled, %d refused; %d orders in the first host's ledgers, 0 differences from the log", len(d.sent), filled, refused, orders)

	// The second host goes on with an account by an operator's word.
	b = begin(1)
	account := d.accounts[0]
	b.says(`refusing an account.*account=` + account + ` `)
	out := succeed(t, "paper", "adopt", account, "--config", file, "--data", hosts[1], "--why", "the first host is gone")
	if !strings.Contains(out, "account "+account+" goes on with") {
		t.Errorf("adopt says %q", out)
	}
	b.says(`taking decisions of an account that was refused.*account=` + account)
	d.trades(account)
	b.signal(syscall.SIGTERM)
	b.ended()
	d.prove()

	// Then the first host's ledger is the one that lacks orders.
	a = begin(0)
	a.says(`refusing an account.*account=` + account + ` .*holds \d+ of the \d+ orders`)
	a.signal(syscall.SIGTERM)
	a.ended()
	kafka.signal(syscall.SIGTERM)
	kafka.ended()
}
