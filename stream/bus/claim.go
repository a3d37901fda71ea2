package bus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Claims on keys live in topic meta, each under a key of its own, so that compaction
// removes none because of another; an owner removes those of its predecessors when
// it has shut them out. Their order in meta decides: the last claim counts, and
// its number is higher than all before it. Producer ids and epochs cannot decide:
// a coordinator gives a new id when the epochs are used up or when an id was not
// asked for in seven days, and forgets that it gave another before.
//
// A producer id that is not the claimant's is sealed in meta before it is sealed in
// the partitions, so that nobody claims with it any more; whoever then finds a later
// claim leaves the partitions alone. So the last to claim keeps its partitions,
// though one that lost may have shut its id out of meta: it needs meta no more. The
// seal stands in meta for the next who is given that id, see raise.

// maxClaims bounds how often a claim is repeated because others claimed at once.
const maxClaims = 20

// sealEpoch is a producer epoch that no coordinator hands out: it shuts out all
// others of the producer id.
const sealEpoch = math.MaxInt16

func metaPartition() TopicPartition { return TopicPartition{Topic: event.TopicMeta} }

// claim is an Epoch record as it was found.
type claim struct {
	event.Epoch
	offset int64
	inMeta bool // not in a partition that is owned
}

// seal reports whether it is not a claim but says that a producer id is shut out of
// meta.
func (x *claim) seal() bool { return x.ProducerEpoch == sealEpoch }

func claimKey(key string, instance event.ID) []byte {
	return []byte("owner|" + key + "|" + instance.String())
}

func sealKey(key string, id int64) []byte { return fmt.Appendf(nil, "sealed|%s|%d", key, id) }

// key is what it lies under in meta.
func (x *claim) key() []byte {
	if x.seal() {
		return sealKey(x.Key, x.ProducerID)
	}
	return claimKey(x.Key, x.Instance)
}

// record is the owner's Epoch record.
func (o *Owner) record() []byte { return o.epochRecord(o.id, uint32(o.epoch)) }

func (o *Owner) epochRecord(id int64, epoch uint32) []byte {
	host, _ := os.Hostname() // for people only
	return event.Marshal(&event.Epoch{
		Key: o.key, Number: o.number, Instance: o.instance, Who: fmt.Sprintf("%s@%s:%d", o.cfg.Name, host, os.Getpid()),
		ProducerID: id, ProducerEpoch: epoch, Time: o.env.Clock.Now().UnixNano(),
	})
}

// claim writes the owner's claim with a number above those of the claims known,
// and again as long as another wrote as high a number meanwhile. It returns all
// claims.
func (o *Owner) claim(ctx context.Context, known []claim) ([]claim, error) {
	for range maxClaims {
		for _, x := range known {
			o.number = max(o.number, x.Number)
		}
		o.number++
		if _, err := o.publish(ctx, metaPartition(), claimKey(o.key, o.instance), o.record()); err != nil {
			if known, err = o.refused(ctx, known, err); err != nil {
				return nil, fmt.Errorf("claiming it: %w", err)
			}
			continue
		}
		since, next, err := o.client.readClaims(ctx, o.key, o.known)
		if err != nil {
			return nil, err
		}
		o.known, known = next, append(known, since...)
		last := lastClaim(since)
		if last == nil {
			return nil, fmt.Errorf("claiming it: %s ends at offset %d without the claim that was acknowledged", metaPartition(), next)
		}
		if last.Instance != o.instance {
			return nil, component.Fatal(o.lostTo(last))
		}
		highest := true
		for _, x := range since {
			highest = highest && (x.seal() || x.Instance == o.instance || x.Number < o.number)
		}
		if highest {
			return known, nil
		}
	}
	return nil, fmt.Errorf("claiming it: others claimed it meanwhile, %d times: start again", maxClaims)
}

// lastClaim returns the last of them that is no seal, nil where there is none.
func lastClaim(claims []claim) *claim {
	for i := range slices.Backward(claims) {
		if x := &claims[i]; !x.seal() {
			return x
		}
	}
	return nil
}

// refused decides what becomes of a claimant that brokers refuse with err. Where
// somebody sealed its producer id who did not get the key in the end, it gets another
// id, to claim the key once more, and all claims are returned. Else it has lost the
// key: to the later claim, or to one who has asked for the id since and will claim.
func (o *Owner) refused(ctx context.Context, known []claim, err error) ([]claim, error) {
	if !errors.Is(err, ErrFenced) {
		return nil, err
	}
	since, next, rerr := o.client.readClaims(ctx, o.key, o.known)
	if rerr != nil {
		return nil, rerr
	}
	o.known, known = next, append(known, since...)
	if last := lastClaim(since); last != nil {
		return nil, component.Fatal(o.lostTo(last))
	}
	if !slices.ContainsFunc(since, func(x claim) bool { return x.seal() && x.ProducerID == o.id }) {
		return nil, err
	}
	id, epoch, err := o.client.initProducer(ctx, "", o.env)
	if err == nil {
		err = o.use(id, epoch)
	}
	return known, err
}

func (o *Owner) lostTo(x *claim) error {
	return fmt.Errorf("%w: another owner of %q took over: %s, with number %d at offset %d of %s; this one has number %d",
		ErrFenced, o.key, x.Who, x.Number, x.offset, metaPartition(), o.number)
}

// ownerLapse is how long a partition may hear nothing from its owner before the
// owner has to look whether it still is: a broker forgets a producer that it has
// not heard for producer.id.expiration.ms, 24 h by default, and with it that the
// producer's former epochs are shut out.
const ownerLapse = 12 * time.Hour

// confirm returns an error that is ErrFenced when another has claimed the key, and
// other errors when that cannot be told.
func (o *Owner) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	since, _, err := o.client.readClaims(ctx, o.key, o.known)
	if err != nil {
		return err
	}
	if last := lastClaim(since); last != nil {
		return o.lostTo(last)
	}
	return nil
}

// readClaims reads the claims on a key, and the seals of its producer ids, from an
// offset of meta to its end, which it returns; also those that are removed and not
// compacted yet, as the embedded broker may have forgotten that they are shut out.
func (c *Client) readClaims(ctx context.Context, key string, from int64) (claims []claim, end int64, err error) {
	end, err = c.ReadAll(ctx, event.TopicMeta, 0, from, func(r Record) error {
		claims, err = appendClaim(claims, key, r, true)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("reading the claims in %s: %w", metaPartition(), err)
	}
	return claims, end, nil
}

// readEpochs reads the Epoch records of a key in the partitions that it owns.
func (c *Client) readEpochs(ctx context.Context, key string, partitions []TopicPartition) (claims []claim, err error) {
	for _, at := range partitions {
		if _, err := c.ReadAll(ctx, at.Topic, at.Partition, FromStart, func(r Record) error {
			claims, err = appendClaim(claims, key, r, false)
			return err
		}); err != nil {
			return nil, fmt.Errorf("reading who owned %s before: %w", at, err)
		}
	}
	return claims, nil
}

// maxOwnerNumber bounds the numbers of owners that count: no partition changes its owner
// so often, and the next number must not wrap.
const maxOwnerNumber = 1 << 62

func appendClaim(claims []claim, key string, r Record, inMeta bool) ([]claim, error) {
	if event.TypeOf(r.Value) != event.TypeEpoch {
		return claims, nil
	}
	e, err := event.DecodeAs[*event.Epoch](r.Value)
	if err != nil {
		return claims, nil //nolint:nilerr // no owner writes such a claim: it fences nobody
	}
	if e.Key == key && e.Number < maxOwnerNumber {
		claims = append(claims, claim{Epoch: *e, offset: r.Offset, inMeta: inMeta})
	}
	return claims, nil
}

// raise returns a producer id and epoch that shut out whoever had the same id, on
// a broker that gave the id before and forgot the epochs it had reached, and
// another id in place of one that is sealed.
func (c *Client) raise(ctx context.Context, id int64, epoch int16, claims []claim, env component.Env) (int64, int16, error) {
	reached := int64(-1)
	for _, x := range claims {
		if x.ProducerID == id {
			reached = max(reached, int64(x.ProducerEpoch))
		}
	}
	switch {
	case reached < int64(epoch):
		return id, epoch, nil
	case reached+1 < sealEpoch:
		return id, int16(reached + 1), nil
	}
	// An id without a transactional one is new in any case.
	return c.initProducer(ctx, "", env)
}
