package bus

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

var ownedPair = []TopicPartition{{event.TopicOrders, 0}, {event.TopicFills, 1}}

// claimant takes the steps of Own one at a time.
type claimant struct {
	t      *testing.T
	c      *Client
	key    string
	o      *Owner
	claims []claim
	others []int64
	err    error
	owned  bool
	// foreign makes it claim under a producer id of its own, as after the
	// coordinator gave another.
	foreign bool
}

// claimSteps is how many steps Own has that others may come between.
const claimSteps = 5

func (x *claimant) step(n int) {
	if x.err != nil {
		return
	}
	ctx := x.t.Context()
	switch n {
	case 0:
		x.o, x.claims, x.err = x.c.candidate(ctx, OwnConfig{Name: "test", Key: x.key, Partitions: ownedPair, Blocking: true}, component.Discard())
		if x.err == nil && x.foreign {
			if x.o.id, x.o.epoch, x.err = x.c.initProducer(ctx, "", component.Discard()); x.err != nil {
				x.t.Fatal(x.err)
			}
		}
		if x.err == nil {
			x.t.Cleanup(func() { x.o.abandon() })
		}
	case 1:
		x.claims, x.err = x.o.claim(ctx, x.claims)
	case 2:
		// Without the look for another's claim, as if that one came right after it:
		// but the embedded broker shuts out everywhere whom a seal shuts out of meta.
		if x.others = x.o.others(x.claims); !onApache() {
			x.err = x.o.confirmClaim(ctx)
		}
		if x.err == nil {
			x.err = x.o.sealClaims(ctx, x.others)
		}
	case 3:
		x.err = x.o.take(ctx, x.others)
	case 4:
		x.err = x.o.removeFormer(ctx, x.claims)
		x.owned = x.err == nil
	}
	if x.err != nil && !errors.Is(x.err, ErrFenced) {
		x.t.Fatalf("step %d: %v", n, x.err)
	}
}

// orders returns all orders in which two can take n steps each.
func orders(n int) (all [][]int) {
	var grow func(at []int, a, b int)
	grow = func(at []int, a, b int) {
		if a == n && b == n {
			all = append(all, slices.Clone(at))
			return
		}
		if a < n {
			grow(append(at, 0), a+1, b)
		}
		if b < n {
			grow(append(at, 1), a, b+1)
		}
	}
	grow(nil, 0, 0)
	return all
}

// Whatever the order in which two take the steps of claiming a key, exactly one can
// append to every partition afterwards, and it has the highest number; who claims
// the key after them gets it. The two claim under one producer id, or one or both
// under another, as the coordinator gives at times.
func TestTwoClaimAtOnceInEveryOrder(t *testing.T) {
	b := startBroker(t)
	tried, renewed := 0, 0
	for _, foreign := range [][2]bool{{}, {true, false}, {false, true}, {true, true}} {
		cfg := testConfig(b.Addr())
		cfg.Session, cfg.Partitions = fmt.Sprintf("%v_%v", foreign[0], foreign[1]), 2
		c := connect(t, cfg)
		for i, order := range orders(claimSteps) {
			if (i+tried)%claimOrders() != 0 && fmt.Sprint(order) != sealedOrder {
				continue
			}
			tried++
			at := fmt.Sprintf("foreign %v, order %v", foreign, order)
			key := fmt.Sprintf("role.%d", tried)
			base := own(t, c, key, ownedPair...)
			two := [2]*claimant{}
			for i := range two {
				two[i] = &claimant{t: t, c: c, key: key, foreign: foreign[i]}
			}
			var steps [2]int
			for _, who := range order {
				two[who].step(steps[who])
				steps[who]++
			}
			var able []*Owner
			for _, x := range two {
				if x.owned && canAppend(t, x.o) {
					able = append(able, x.o)
				}
			}
			if len(able) != 1 {
				t.Fatalf("%s: %d can append to everything, want 1 (%v, %v)", at, len(able), two[0].err, two[1].err)
			}
			if canAppend(t, base) {
				t.Fatalf("%s: the owner before both can append", at)
			}
			for _, x := range two {
				if x.owned && x.o != able[0] && x.o.number >= able[0].number {
					t.Errorf("%s: owner %d, former owner %d", at, able[0].number, x.o.number)
				}
			}
			if able[0].number <= base.number {
				t.Errorf("%s: number %d after %d", at, able[0].number, base.number)
			}
			// Twice, as the first may have to do without the id that it is given.
			for range 2 {
				next := own(t, c, key, ownedPair...)
				if next.id != next.given {
					renewed++
				}
				if !canAppend(t, next) || canAppend(t, able[0]) {
					t.Fatalf("%s: who claimed it after both can append: %v, the former owner: %v", at, canAppend(t, next), canAppend(t, able[0]))
				}
				if next.number <= able[0].number {
					t.Errorf("%s: number %d after %d", at, next.number, able[0].number)
				}
				next.abandon()
			}
			for _, o := range []*Owner{base, two[0].o, two[1].o} {
				if o != nil {
					o.abandon()
				}
			}
		}
	}
	t.Logf("%d orders tried; %d owners after them were given a producer id that is sealed", tried, renewed)
	if renewed == 0 && onApache() { // kfake's coordinator gives another
		t.Error("nobody was given a producer id that is sealed")
	}
}

// A claimant that is shut out by one who does not get the key claims it again under
// another producer id.
func TestClaimantWhoseIDIsSealedTakesAnother(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	for _, when := range []string{"before it claims", "after it has claimed"} {
		base := own(t, c, "role.1", ownedPair...)
		loser := &claimant{t: t, c: c, key: "role.1", foreign: true}
		loser.step(0)
		loser.step(1)
		x := &claimant{t: t, c: c, key: "role.1"}
		x.step(0)
		seal := func() {
			if err := loser.o.seal(t.Context(), x.o.id, sealKey("role.1", x.o.id), loser.o.epochRecord(x.o.id, sealEpoch), metaPartition()); err != nil {
				t.Fatal(err)
			}
		}
		given := x.o.id
		if when == "before it claims" {
			seal()
		} else {
			x.step(1)
			seal()
			// What kfake does with the seal alone.
			if err := loser.o.seal(t.Context(), given, []byte("role.1"), loser.o.record(), ownedPair...); err != nil {
				t.Fatal(err)
			}
			err := x.o.shutOut(t.Context(), x.claims)
			if !errors.Is(err, ErrFenced) {
				t.Fatalf("taking the partitions that it is shut out of gave %v", err)
			}
			if x.claims, err = x.o.refused(t.Context(), x.claims, err); err != nil {
				t.Fatal(err)
			}
		}
		if err := x.o.acquire(t.Context(), x.claims); err != nil {
			t.Fatalf("sealed %s: %v", when, err)
		}
		if x.o.id == given {
			t.Errorf("sealed %s: it appends under producer %d, which is sealed", when, given)
		}
		if !canAppend(t, x.o) || canAppend(t, base) || canAppend(t, loser.o) {
			t.Errorf("sealed %s: not the claimant alone can append", when)
		}
	}
}

// sealedOrder has the one that loses seal the producer id of the other before that
// one is through.
const sealedOrder = "[1 0 0 1 1 1 0 1 0 0]"

// claimOrders says of how many orders one is tried: AUTOHEDGE_TEST_CLAIMS=all tries all.
func claimOrders() int {
	if os.Getenv("AUTOHEDGE_TEST_CLAIMS") == "all" {
		return 1
	}
	if onApache() {
		return 24
	}
	return 12
}

// canAppend reports whether an owner can append to all its partitions; one that can
// append to some only fails the test.
func canAppend(t *testing.T, o *Owner) bool {
	t.Helper()
	var refused int
	for _, at := range o.partitions {
		err := o.add(t, at, "x")
		if err != nil && !errors.Is(err, ErrFenced) {
			t.Fatal(err)
		}
		if err != nil {
			refused++
		}
	}
	if refused != 0 && refused != len(o.partitions) {
		t.Fatalf("owner %d is refused in %d of %d partitions", o.number, refused, len(o.partitions))
	}
	return refused == 0
}

// Of many that claim at once, one ends up as the owner; each that was one for a
// moment had a number of its own.
func TestManyClaimAtOnce(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	const claimers, rounds = 8, 5
	var highest uint64
	for range rounds {
		var wg sync.WaitGroup
		owners := make([]*Owner, claimers)
		for i := range owners {
			wg.Go(func() {
				o, err := c.Own(t.Context(), OwnConfig{Name: "test", Key: "role.1", Partitions: ownedPair, Blocking: true}, component.Discard())
				if err != nil && !errors.Is(err, ErrFenced) {
					t.Error(err)
				}
				owners[i] = o
			})
		}
		wg.Wait()
		owners = slices.DeleteFunc(owners, func(o *Owner) bool { return o == nil })
		slices.SortFunc(owners, func(a, b *Owner) int { return int(int64(a.number) - int64(b.number)) })
		if len(owners) == 0 {
			t.Fatal("nobody became the owner")
		}
		for i, o := range owners {
			if o.number <= highest {
				t.Errorf("number %d after %d", o.number, highest)
			}
			highest = o.number
			if canAppend(t, o) != (i == len(owners)-1) {
				t.Errorf("owner %d of %d by number can append: %v", i+1, len(owners), i != len(owners)-1)
			}
			o.abandon()
		}
		t.Logf("%d claimed at once, %d were the owner for a moment, the last with number %d", claimers, len(owners), highest)
	}
}

// epochs returns what the log of a partition says of its owners.
func epochs(t *testing.T, c *Client, at TopicPartition) (all []event.Epoch) {
	t.Helper()
	claims, err := c.readEpochs(t.Context(), "role.1", []TopicPartition{at})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range claims {
		all = append(all, x.Epoch)
	}
	return all
}

// The coordinator hands out epochs up to 32,766 and then a new producer id with
// epoch 0, of which no partition knows that it follows the old one.
func TestNumberRisesOverTheEndOfProducerEpochs(t *testing.T) {
	b := startBroker(t)
	c := connect(t, testConfig(b.Addr()))
	last := own(t, c, "role.1", ownedPair...)
	if b.cluster != nil {
		// kfake takes a producer's own word for its epoch.
		ahead, err := c.newProducer(ProducerConfig{Name: "ahead"}, component.Discard(), last.id, math.MaxInt16-3)
		if err != nil {
			t.Fatal(err)
		}
		defer ahead.abandon()
		if _, err := ahead.publish(t.Context(), TopicPartition{event.TopicSignals, 0}, nil, nil); err != nil {
			t.Fatal(err)
		}
	} else {
		began := time.Now()
		useUpEpochs(t, b.admin, "autohedge.role.1", math.MaxInt16-3)
		t.Logf("using up the epochs took %s", time.Since(began).Round(time.Millisecond))
	}
	changed := 0
	for i := range 8 {
		next := own(t, c, "role.1", ownedPair...)
		if next.number <= last.number {
			t.Fatalf("number %d after %d", next.number, last.number)
		}
		if next.id != last.id {
			changed++
			t.Logf("owner %d: producer %d epoch %d follows producer %d epoch %d", next.number, next.id, next.epoch, last.id, last.epoch)
		}
		if canAppend(t, last) {
			t.Fatalf("round %d: the former owner, producer %d epoch %d, can append after producer %d epoch %d", i, last.id, last.epoch, next.id, next.epoch)
		}
		if !canAppend(t, next) {
			t.Fatalf("round %d: the owner cannot append", i)
		}
		last = next
	}
	if changed != 1 {
		t.Errorf("the producer id changed %d times, want once", changed)
	}
	seen := epochs(t, c, ownedPair[0])
	for i := 1; i < len(seen); i++ {
		if seen[i].Number < seen[i-1].Number {
			t.Errorf("number %d follows %d in the log", seen[i].Number, seen[i-1].Number)
		}
	}
}

// useUpEpochs asks for the producer id until its epoch is the one given.
func useUpEpochs(t *testing.T, admin *bustest.Admin, id string, epoch int16) {
	t.Helper()
	for {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = kmsg.StringPtr(id), 60_000
		res, err := req.RequestWith(t.Context(), admin)
		if err != nil {
			t.Fatal(err)
		}
		if res.ErrorCode == 0 && res.ProducerEpoch >= epoch {
			return
		}
	}
}

// A coordinator forgets a transactional id that nobody asked for in seven days,
// though its owner may have appended all the time.
func TestNumberRisesOverAForgottenTransactionalID(t *testing.T) {
	var b *broker
	settings := map[string]string{"transactional.id.expiration.ms": "500", "transaction.remove.expired.transaction.cleanup.interval.ms": "200"}
	if onApache() {
		sharedApache(t) // skips where there can be none
		apart, err := kafkatest.Start(t.Context(), kafkatest.Config{Properties: settings})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := apart.Stop(t.Failed()); err != nil {
				t.Error(err)
			}
		})
		b = &broker{addr: apart.Addr(), admin: bustest.NewAdmin(t, kgo.SeedBrokers(apart.Addr()))}
	} else {
		b = asBroker(t, startKfake(t, "", kfake.BrokerConfigs(settings)))
	}
	c := connect(t, testConfig(b.Addr()))
	last := own(t, c, "role.1", ownedPair...)
	for i := range 4 {
		eventually(t, "the coordinator has forgotten the id", 60*time.Second, func() bool { return !knowsTransactionalID(t, b.admin, "autohedge.role.1") })
		if i%2 == 1 && !canAppend(t, last) { // kfake forgets a producer id with its transactional one, until it hears from it
			t.Fatalf("round %d: the owner cannot append once the coordinator has forgotten it", i)
		}
		next := own(t, c, "role.1", ownedPair...)
		if next.number <= last.number {
			t.Fatalf("number %d after %d", next.number, last.number)
		}
		t.Logf("owner %d: producer %d epoch %d follows producer %d epoch %d", next.number, next.id, next.epoch, last.id, last.epoch)
		if canAppend(t, last) {
			t.Fatalf("round %d: the former owner can append", i)
		}
		if !canAppend(t, next) {
			t.Fatalf("round %d: the owner cannot append", i)
		}
		last = next
	}
}

func knowsTransactionalID(t *testing.T, admin *bustest.Admin, id string) bool {
	t.Helper()
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{id}
	res, err := req.RequestWith(t.Context(), admin)
	state := bustest.Ask(t, res, err).TransactionStates[0]
	return !errors.Is(kerr.ErrorForCode(state.ErrorCode), kerr.TransactionalIDNotFound)
}

// A partition that has not heard its owner for producer.id.expiration.ms forgets
// which epochs are shut out there. An owner that slept that long looks into meta
// before it appends.
func TestSleeperLooksWhetherItStillOwns(t *testing.T) {
	c := connect(t, testConfig(startBroker(t).Addr()))
	sleeper := own(t, c, "role.1", ownedPair...)
	sleeper.lapse = 0
	if !canAppend(t, sleeper) {
		t.Fatal("an owner that looks into meta before every append cannot append")
	}
	// The broker knows nothing of the successor's producer: as if it had forgotten it.
	next := &claimant{t: t, c: c, key: "role.1", foreign: true}
	next.step(0)
	next.step(1)
	if next.err != nil {
		t.Fatal(next.err)
	}
	for _, at := range ownedPair {
		err := sleeper.add(t, at, "x")
		if !errors.Is(err, ErrFenced) || !component.IsFatal(err) || !strings.Contains(err.Error(), "with number 2 at offset") {
			t.Fatalf("the sleeper's append to %s gave %v", at, err)
		}
	}
}

// Numbers go on where they were when the broker is killed, and the former owner
// stays shut out.
func TestNumberRisesOverAKilledBroker(t *testing.T) {
	b := startBrokerProcess(t)
	c := connect(t, testConfig(b.addr))
	last := own(t, c, "role.1", ownedPair...)
	for range 3 {
		b.kill()
		b.start()
		next := own(t, c, "role.1", ownedPair...)
		if next.number <= last.number {
			t.Fatalf("number %d after %d", next.number, last.number)
		}
		if canAppend(t, last) || !canAppend(t, next) {
			t.Fatal("the wrong one can append")
		}
		b.kill()
		b.start()
		if canAppend(t, last) {
			t.Fatal("the former owner can append after the broker was killed again")
		}
		last = next
	}
}
