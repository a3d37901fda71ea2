package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// TopicPartition names one partition.
type TopicPartition struct {
	Topic     string // without the session's prefix
	Partition int32
}

func (t TopicPartition) String() string { return fmt.Sprintf("%s/%d", t.Topic, t.Partition) }

// OwnConfig says what is to be owned.
type OwnConfig struct {
	Name string // metrics label, "execution"
	// Key is what is owned, "execution.2": at any time one owner can append for it.
	Key string
	// Partitions are those from which former owners of the key are shut out.
	// Others may append there too, as owners of other keys.
	Partitions []TopicPartition
	// QueueBytes and Blocking are those of ProducerConfig.
	QueueBytes int
	Blocking   bool
}

// Owner is a Producer that owns a key. As soon as it exists, no former owner of
// the key can append to the partitions: who reads them to their end then reads all
// that any of them will ever have written there. Once another takes the key over,
// its own appends fail with a component.Fatal error that is ErrFenced.
type Owner struct {
	*Producer
	key        string
	number     uint64
	instance   event.ID
	partitions []TopicPartition
	// known is the offset up to which meta was read: while no claim of another
	// lies after it, nobody has taken the key over.
	known int64
	// given is the producer id that the coordinator gave: the owner's own, unless
	// that one is sealed or used up.
	given int64
	lapse time.Duration // ownerLapse, but in tests
	chunk int           // snapshotChunk, but in tests

	savesMu sync.Mutex
	saves   map[SnapshotKey]*saves
}

// Number is the owner's epoch as its Epoch records have it, from 1: higher than
// that of every former owner of the key.
func (o *Owner) Number() uint64 { return o.number }

// Confirm looks whether another has claimed the key: for an owner that is about to
// do outside the logs what only an owner may. It returns an error that is ErrFenced,
// which also stops the producer, or another when it cannot tell.
func (o *Owner) Confirm(ctx context.Context) error {
	err := o.confirm(ctx)
	if errors.Is(err, ErrFenced) {
		err = component.Fatal(err)
		o.fail(err)
	}
	return err
}

// Key is what is owned.
func (o *Owner) Key() string { return o.key }

// Own takes a key over from whoever has it. It returns once an Epoch record of the
// new owner is acknowledged on every partition named. Close ends the ownership
// only in that the owner appends nothing more.
//
// Of several that claim a key at once the last one in topic meta becomes its owner;
// the others get an error that is ErrFenced and fatal. Whoever calls Own after that
// takes the key over.
func (c *Client) Own(ctx context.Context, cfg OwnConfig, env component.Env) (*Owner, error) {
	if cfg.Key == "" || strings.Contains(cfg.Key, "|") {
		return nil, fmt.Errorf("owning %q: want a name without |", cfg.Key)
	}
	if len(cfg.Partitions) == 0 {
		return nil, fmt.Errorf("owning %s: no partition is named", cfg.Key)
	}
	o, claims, err := c.candidate(ctx, cfg, env)
	if err == nil {
		err = o.acquire(ctx, claims)
	}
	if err != nil {
		if o != nil {
			o.abandon()
		}
		return nil, fmt.Errorf("owning %s: %w", cfg.Key, err)
	}
	for _, at := range o.partitions {
		c.noteReign(at, reign{o.key, highest(claims)})
	}
	return o, nil
}

// highest is the number of the last owner that the claims tell of, 0 without any.
func highest(claims []claim) (number uint64) {
	for _, x := range claims {
		if !x.seal() {
			number = max(number, x.Number)
		}
	}
	return number
}

// candidate is who may claim the key, and the claims that there are.
func (c *Client) candidate(ctx context.Context, cfg OwnConfig, env component.Env) (*Owner, []claim, error) {
	id, epoch, err := c.initProducer(ctx, "autohedge."+cfg.Key, env)
	if err != nil {
		return nil, nil, err
	}
	o := &Owner{key: cfg.Key, instance: newID(), partitions: slices.Clone(cfg.Partitions), given: id, lapse: ownerLapse, chunk: snapshotChunk}
	claims, end, err := c.readClaims(ctx, o.key, FromStart)
	if err != nil {
		return nil, nil, err
	}
	o.known = end
	if len(claims) == 0 {
		// The first claim, or meta was lost: what stands in the partitions counts.
		if claims, err = c.readEpochs(ctx, o.key, o.partitions); err != nil {
			return nil, nil, err
		}
	}
	if id, epoch, err = c.raise(ctx, id, epoch, claims, env); err != nil {
		return nil, nil, err
	}
	p, err := c.newProducer(ProducerConfig{Name: cfg.Name, QueueBytes: cfg.QueueBytes, Blocking: cfg.Blocking}, env, id, epoch)
	if err != nil {
		return nil, nil, err
	}
	o.Producer, p.owner = p, o
	return o, claims, nil
}

// acquire claims the key and shuts out its former owners.
func (o *Owner) acquire(ctx context.Context, claims []claim) (err error) {
	for range maxClaims {
		if claims, err = o.claim(ctx, claims); err != nil {
			return err
		}
		if err = o.shutOut(ctx, claims); err == nil {
			return nil
		}
		if claims, err = o.refused(ctx, claims, err); err != nil {
			return err
		}
	}
	return fmt.Errorf("claiming it: its producer ids were sealed meanwhile, %d times: start again", maxClaims)
}

// use makes the owner append under another producer id; nothing of it waits.
func (o *Owner) use(id int64, epoch int16) error {
	o.abandon()
	p, err := o.client.newProducer(o.cfg, o.env, id, epoch)
	if err != nil {
		return err
	}
	o.Producer, p.owner = p, o
	return nil
}

// shutOut makes former owners unable to append: those with this owner's producer
// id by its first record in each partition, those with another (see raise) by a
// record under their id. Then their claims are removed.
func (o *Owner) shutOut(ctx context.Context, claims []claim) error {
	others := o.others(claims)
	if len(others) > 0 {
		// Whose claim is there already is not locked out of meta for nothing.
		if err := o.confirmClaim(ctx); err != nil {
			return err
		}
	}
	if err := o.sealClaims(ctx, others); err != nil {
		return err
	}
	if err := o.take(ctx, others); err != nil {
		return err
	}
	return o.removeFormer(ctx, claims)
}

// others are the producer ids, not the owner's own, that claimed the key.
func (o *Owner) others(claims []claim) (ids []int64) {
	for _, x := range claims {
		if !x.seal() && x.ProducerID != o.id && !slices.Contains(ids, x.ProducerID) {
			ids = append(ids, x.ProducerID)
		}
	}
	return ids
}

// sealClaims makes producer ids unable to claim the key from now on: whoever asked
// for one of them before may still want to. It returns ErrFenced when somebody has
// claimed the key before that.
func (o *Owner) sealClaims(ctx context.Context, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	for _, id := range ids {
		if err := o.seal(ctx, id, sealKey(o.key, id), o.epochRecord(id, sealEpoch), metaPartition()); err != nil {
			return err
		}
	}
	return o.confirmClaim(ctx)
}

// confirmClaim is confirm with a fatal ErrFenced.
func (o *Owner) confirmClaim(ctx context.Context) error {
	err := o.confirm(ctx)
	if errors.Is(err, ErrFenced) {
		return component.Fatal(err)
	}
	return err
}

// whoPatience is how long a fenced owner looks for who took over, before it says
// that somebody did.
const whoPatience = 500 * time.Millisecond

// fencedBy says who took over, if meta tells soon, where a broker refused the
// producer with err.
func (p *Producer) fencedBy(err error) error {
	if p.owner != nil {
		ctx, cancel := context.WithTimeout(p.ctx, whoPatience)
		defer cancel()
		if by := p.owner.confirm(ctx); errors.Is(by, ErrFenced) {
			return fmt.Errorf("%w: %w", by, err)
		}
	}
	return fmt.Errorf("%w: another owner of %q took over: %w", ErrFenced, p.owns(), err)
}

// take shuts out the former owners in the partitions: the other producer ids, whose
// claims are sealed, and by its first records those with its own.
func (o *Owner) take(ctx context.Context, others []int64) error {
	for _, id := range others {
		if err := o.seal(ctx, id, []byte(o.key), o.record(), o.partitions...); err != nil {
			return err
		}
	}
	acked := make(chan appended, len(o.partitions))
	for _, at := range o.partitions {
		if err := o.appendWaiting(ctx, at, []byte(o.key), o.record(), func(offset int64, err error) { acked <- appended{offset, err} }); err != nil {
			return fmt.Errorf("appending its first record to %s: %w", at, err)
		}
	}
	for _, at := range o.partitions {
		if _, err := acknowledged(ctx, at, acked); err != nil {
			if perr := o.Err(); perr != nil {
				err = perr // what stopped the producer, not what that did to this record
			}
			return fmt.Errorf("appending its first records: %w", err)
		}
	}
	return nil
}

// removeFormer removes what lies in meta of those that are shut out: their claims,
// and the seals of producer ids that the coordinator gives nobody any more, as it
// gives the one that it gave last or a new one. Not as the owner, whose own id one
// that lost may have sealed there.
func (o *Owner) removeFormer(ctx context.Context, claims []claim) error {
	claims = slices.DeleteFunc(claims, func(x claim) bool {
		return !x.inMeta || x.Instance == o.instance || x.seal() && x.ProducerID == o.given
	})
	if len(claims) == 0 {
		return nil
	}
	p, err := o.client.NewProducer(ctx, ProducerConfig{Name: o.cfg.Name, Blocking: true}, o.env)
	if err != nil {
		return err
	}
	defer p.abandon()
	for _, x := range claims {
		if err := p.appendWaiting(ctx, metaPartition(), x.key(), nil, nil); err != nil {
			return fmt.Errorf("removing the claim of a former owner: %w", err)
		}
	}
	if err := p.Flush(ctx); err != nil {
		return fmt.Errorf("removing the claims of former owners: %w", err)
	}
	return nil
}

// seal shuts out a producer id in partitions, with a record under that id and the
// highest epoch there is.
func (o *Owner) seal(ctx context.Context, id int64, key, value []byte, partitions ...TopicPartition) error {
	p, err := o.client.newProducer(ProducerConfig{Name: o.cfg.Name, Blocking: true}, o.env, id, sealEpoch)
	if err != nil {
		return err
	}
	defer p.abandon()
	for _, at := range partitions {
		// Where another successor has done it before, the broker takes it for the
		// same record sent again.
		if _, err := p.publish(ctx, at, key, value); err != nil && !errors.Is(err, ErrFenced) {
			return fmt.Errorf("shutting out producer %d of a former owner: %w", id, err)
		}
	}
	return nil
}
