package bus

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// kafka-go answers questions about topics from a picture that it asks for every
// few seconds, of all topics: one that the brokers do not let this user see is not
// in it, as if it did not exist, and topic ids are not either. Whether a topic is
// there is a question of money, so it is asked here by name, of a broker, each time.

// layoutPatience is how long the brokers may put off saying whether a topic exists.
const layoutPatience = 30 * time.Second

// layout is what a broker says of the cluster and of the topics asked for.
type layout struct {
	brokers []kafka.Broker
	topics  []topicLayout
}

// topicLayout is one topic of a layout. Its Error is a kafka.Error or nil.
type topicLayout struct {
	kafka.Topic
	id event.ID // the brokers' own; zero where they are older than 3.1
}

// presence is what a broker's answer says of a topic's existence.
type presence int

const (
	present presence = iota
	absent
	untold  // it may say so later
	refused // it never will
)

// presence reads the topic's code. UNKNOWN_TOPIC_OR_PARTITION alone says that a
// topic does not exist.
func (t *topicLayout) presence() presence {
	code, answered := errorCode(t.Error)
	switch {
	case t.Error == nil:
		return present
	case code == kafka.UnknownTopicOrPartition:
		return absent
	case answered && permanent(code):
		return refused
	}
	return untold
}

// topic returns what was answered for the topic, by the brokers' name of it; a
// topic that was not answered for is untold.
func (l *layout) topic(name string) *topicLayout {
	if i := slices.IndexFunc(l.topics, func(t topicLayout) bool { return t.Name == name }); i >= 0 {
		return &l.topics[i]
	}
	return &topicLayout{Topic: kafka.Topic{Name: name, Error: errNoAnswer}}
}

var errNoAnswer = errors.New("the broker did not answer for it")

// found returns the topic if it exists.
func (l *layout) found(name string) (*topicLayout, bool) {
	t := l.topic(name)
	return t, t.presence() == present
}

// layout asks a broker for the cluster and for topics by the brokers' names of
// them; nil asks for all that this user may see.
func (c *Client) layout(ctx context.Context, names []string) (*layout, error) {
	call, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	res, err := c.transport.RoundTrip(call, c.kafka.Addr, &layoutRequest{names: names})
	if err != nil {
		return nil, fmt.Errorf("asking for the topics: %w", err)
	}
	l, ok := res.(*layoutResponse)
	if !ok {
		return nil, fmt.Errorf("asking for the topics: answer of type %T", res)
	}
	return &l.layout, nil
}

// named returns the brokers' names of all our topics.
func (c *Client) named() []string {
	names := make([]string, len(event.Topics))
	for i, spec := range event.Topics {
		names[i] = c.prefix() + spec.Name
	}
	return names
}

// settled is layout once the brokers say of each topic whether it exists or that
// they refuse to tell. One that they put off for 30 s is an error, which does not
// say that the topic is missing.
func (c *Client) settled(ctx context.Context, names []string) (*layout, error) {
	deadline := time.Now().Add(layoutPatience)
	for attempt := 0; ; attempt++ {
		l, err := c.layout(ctx, names)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(names, func(n string) bool { return l.topic(n).presence() == untold })
		if i < 0 {
			return l, nil
		}
		err = fmt.Errorf("the brokers do not say whether topic %s exists: %w; look at the brokers, then start again", names[i], l.topic(names[i]).Error)
		if time.Now().After(deadline) || sleep(ctx, min(20*time.Millisecond<<min(attempt, 6), time.Second)) != nil {
			return nil, err
		}
	}
}

// ErrRefused says that the brokers do not let this user know of a topic: whether
// it exists, and what it is like.
var ErrRefused = errors.New("the brokers refuse to tell of it")

// refusal is the error of the topics that this user is refused; nil without any.
func (c *Client) refusal(l *layout, names []string) error {
	var code error
	var list []string
	for _, n := range names {
		if t := l.topic(n); t.presence() == refused {
			list = append(list, n)
			code = cmp.Or(code, t.Error)
		}
	}
	if len(list) == 0 {
		return nil
	}
	topics := "topic " + list[0]
	if len(list) > 1 {
		topics = "topics " + strings.Join(list, ", ")
	}
	return component.Fatal(fmt.Errorf("%s: %w, so that nobody knows whether it exists: %w%s", topics, ErrRefused, code, c.grant(code, list...)))
}

// gone is why a topic has been unknown to the brokers for so long: deleted, or not
// to be seen by this user any more.
func (c *Client) gone(ctx context.Context, topic string, err error) error {
	names := []string{c.prefix() + topic}
	if l, lerr := c.layout(ctx, names); lerr == nil {
		if rerr := c.refusal(l, names); rerr != nil {
			return rerr
		}
	}
	return fmt.Errorf("the topic has been unknown to the brokers for %s; where it was deleted, \"autohedge topics\" names the command that goes on: %w", topicGone, err)
}

// grant is the command by which somebody who may allows this user the topics, the
// group or the transactional id that were refused with the code, to follow it in a
// message; for other codes it is their remedy.
func (c *Client) grant(err error, names ...string) string { return c.grantTo("All", err, names...) }

// grantTo is grant of one operation.
func (c *Client) grantTo(operation string, err error, names ...string) string {
	code, _ := errorCode(err)
	var option, note string
	switch code {
	case kafka.TopicAuthorizationFailed:
		option, note = " --topic ", " (Describe alone lets it look)"
	case kafka.GroupAuthorizationFailed:
		option, note = " --group ", " (Describe alone lets it look)"
	case kafka.TransactionalIDAuthorizationFailed:
		option = " --transactional-id "
	case kafka.ClusterAuthorizationFailed:
		option, names = " --cluster", []string{""}
	default:
		return remedy(code, strings.Join(names, ", "))
	}
	resource := ""
	for _, name := range names {
		resource += option + name
	}
	return fmt.Sprintf("; allow %s what the engine does there%s: `kafka-acls.sh --bootstrap-server %s%s --add --allow-principal User:%s --operation %s%s`",
		c.who(), note, c.cfg.Brokers[0], c.commandConfig(), c.principal(), operation, resource)
}

// who names the user as the brokers know it, for people.
func (c *Client) who() string {
	switch {
	case c.cfg.User != "":
		return fmt.Sprintf("user %q", c.cfg.User)
	case c.tls != nil:
		return "the user that the brokers take this client's certificate for"
	}
	return "user ANONYMOUS (no kafka.user is configured)"
}

// principal is the name in an ACL.
func (c *Client) principal() string {
	if c.cfg.User == "" && c.tls != nil {
		return "NAME"
	}
	return cmp.Or(c.cfg.User, "ANONYMOUS")
}

// commandConfig is what Kafka's tools need to connect where a listener is secured.
func (c *Client) commandConfig() string {
	if c.tls != nil || c.sasl != nil {
		return " --command-config client.properties"
	}
	return ""
}

// layoutRequest is a Metadata request that kafka-go does not answer by itself. It
// is written here, since kafka-go's form of it has no topic ids.
type layoutRequest struct{ names []string } // nil: all

// layoutResponse is what came.
type layoutResponse struct{ layout }

// ApiKey tells the connection which request this is.
//
//nolint:revive // kafka-go names it
func (*layoutRequest) ApiKey() protocol.ApiKey { return protocol.Metadata }

// ApiKey tells the connection which response this is.
//
//nolint:revive // kafka-go names it
func (*layoutResponse) ApiKey() protocol.ApiKey { return protocol.Metadata }

// Required says that the connection leaves the exchange to the request.
func (*layoutRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// The two forms of the request that are spoken: the first that can name a topic
// without asking for its id, and the one that all brokers since 0.11 know.
const (
	layoutWithIDs = 12
	layoutOld     = 4
)

// maxLayout bounds an answer: a cluster's hundred thousand partitions take 5 MB.
const maxLayout = 64 << 20

// RawExchange asks the broker on the connection which forms it knows, then for the
// topics.
func (r *layoutRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	versions, err := askVersions(rw)
	if err != nil {
		return nil, fmt.Errorf("asking for the broker's versions: %w", err)
	}
	if versions.ErrorCode != 0 {
		return nil, fmt.Errorf("asking for the broker's versions: %w", kafka.Error(versions.ErrorCode))
	}
	version := int16(layoutOld)
	for _, k := range versions.ApiKeys {
		if protocol.ApiKey(k.ApiKey) == protocol.Metadata && k.MaxVersion >= layoutWithIDs {
			version = layoutWithIDs
		}
	}
	const correlation = 1 // one request at a time is on the connection
	if _, err := rw.Write(r.encode(version, correlation)); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return nil, err
	}
	size := int64(int32(binary.BigEndian.Uint32(head[:])))
	if size < 4 || size > maxLayout {
		return nil, fmt.Errorf("metadata answer of %d bytes", size)
	}
	// Memory is taken as the bytes come, not as the size says.
	body, err := io.ReadAll(io.LimitReader(rw, size))
	if err == nil && int64(len(body)) < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	d := layoutDecoder{rest: body, compact: version == layoutWithIDs}
	if got := d.int32(); got != correlation {
		return nil, fmt.Errorf("metadata answer %d where %d was asked", got, correlation)
	}
	l := d.decode()
	if d.err != nil {
		return nil, fmt.Errorf("reading the metadata answer: %w", d.err)
	}
	return &layoutResponse{*l}, nil
}

// encode writes the request with its length in front.
func (r *layoutRequest) encode(version int16, correlation int32) []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 4, 256), uint16(protocol.Metadata))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(clientID))), clientID...)
	if version == layoutWithIDs {
		b = append(b, 0) // no tagged fields in the head
		if r.names == nil {
			b = append(b, 0)
		} else {
			b = binary.AppendUvarint(b, uint64(len(r.names)+1))
		}
		for _, n := range r.names {
			b = append(b, make([]byte, 16)...) // by name, not by id
			b = append(binary.AppendUvarint(b, uint64(len(n)+1)), n...)
			b = append(b, 0)
		}
		b = append(b, 0, 0, 0) // create nothing, tell no rights, no tagged fields
	} else {
		n := int32(-1)
		if r.names != nil {
			n = int32(len(r.names))
		}
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		for _, n := range r.names {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(n))), n...)
		}
		b = append(b, 0) // create nothing
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// layoutDecoder reads an answer; after an error everything is zero.
type layoutDecoder struct {
	rest    []byte
	compact bool // the form with ids
	err     error
}

func (d *layoutDecoder) take(n int) []byte {
	if d.err == nil && (n < 0 || n > len(d.rest)) {
		d.err = fmt.Errorf("a field of %d bytes where %d are left", n, len(d.rest))
	}
	if d.err != nil {
		return make([]byte, max(0, min(n, 16)))
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *layoutDecoder) int16() int16 { return int16(binary.BigEndian.Uint16(d.take(2))) }
func (d *layoutDecoder) int32() int32 { return int32(binary.BigEndian.Uint32(d.take(4))) }

func (d *layoutDecoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if d.err == nil && n <= 0 {
		d.err = errors.New("a length that does not end")
	}
	if d.err != nil {
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads how many elements follow, each of at least so many bytes; -1 is none.
func (d *layoutDecoder) count(least int) int {
	var n int64
	if d.compact {
		n = int64(min(d.uvarint(), 1<<32)) - 1
	} else {
		n = int64(d.int32())
	}
	if d.err == nil && n > int64(len(d.rest)/least) {
		d.err = fmt.Errorf("%d elements in %d bytes", n, len(d.rest))
	}
	if d.err != nil {
		return 0
	}
	return int(max(n, 0))
}

// text reads a string, "" where it is null.
func (d *layoutDecoder) text() string {
	var n int
	if d.compact {
		n = int(min(d.uvarint(), 1<<32)) - 1
	} else {
		n = int(d.int16())
	}
	if n < 0 {
		return ""
	}
	return string(d.take(n))
}

// tags passes over the tagged fields that end a structure.
func (d *layoutDecoder) tags() {
	if !d.compact {
		return
	}
	for range min(d.uvarint(), 1<<16) {
		d.uvarint()
		if d.take(int(min(d.uvarint(), 1<<31))); d.err != nil {
			return
		}
	}
}

func (d *layoutDecoder) ids() (ids []int) {
	for range d.count(4) {
		ids = append(ids, int(d.int32()))
	}
	return ids
}

func (d *layoutDecoder) decode() *layout {
	l := &layout{}
	d.tags()  // of the head
	d.int32() // throttle time; kafka-go asks little
	for range d.count(10) {
		b := kafka.Broker{ID: int(d.int32()), Host: d.text(), Port: int(d.int32()), Rack: d.text()}
		d.tags()
		l.brokers = append(l.brokers, b)
	}
	d.text() // cluster id
	d.int32()
	for range d.count(8) {
		t := topicLayout{}
		code := d.int16()
		t.Name = d.text()
		if code != 0 {
			t.Error = kafka.Error(code)
		}
		if d.compact {
			copy(t.id[:], d.take(16))
		}
		t.Internal = d.take(1)[0] != 0
		for range d.count(14) {
			t.Partitions = append(t.Partitions, d.partition(l, t.Name))
		}
		if d.compact {
			d.int32() // rights
		}
		d.tags()
		l.topics = append(l.topics, t)
	}
	d.tags()
	return l
}

// partition reads one partition; a broker that is not up has a number alone.
func (d *layoutDecoder) partition(l *layout, topic string) kafka.Partition {
	p := kafka.Partition{Topic: topic}
	if code := d.int16(); code != 0 {
		p.Error = kafka.Error(code)
	}
	p.ID = int(d.int32())
	broker := func(id int) kafka.Broker {
		if i := slices.IndexFunc(l.brokers, func(b kafka.Broker) bool { return b.ID == id }); i >= 0 {
			return l.brokers[i]
		}
		return kafka.Broker{ID: id}
	}
	p.Leader = broker(int(d.int32()))
	if d.compact {
		d.int32() // leader epoch
	}
	for _, id := range d.ids() {
		p.Replicas = append(p.Replicas, broker(id))
	}
	for _, id := range d.ids() {
		p.Isr = append(p.Isr, broker(id))
	}
	if d.compact {
		d.ids() // offline replicas
	}
	d.tags()
	return p
}

var (
	_ protocol.RawExchanger = (*layoutRequest)(nil)
	_ protocol.Message      = (*layoutResponse)(nil)
)
