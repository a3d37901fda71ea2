package bus

import (
	"context"
	"errors"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Config is how to reach Kafka.
type Config struct {
	Brokers     []string         `yaml:"brokers" doc:"host:port list; empty starts the embedded broker"`
	Partitions  int              `yaml:"partitions" doc:"partitions of every keyed topic"`
	Replication int              `yaml:"replication" doc:"replicas of every topic"`
	Compression string           `yaml:"compression" doc:"none, gzip, snappy, lz4 or zstd"`
	User        string           `yaml:"user"`
	Password    component.Secret `yaml:"password"`
	// ... TLS, SASL mechanism
	Session string `yaml:"-"` // prefix of topics and groups, "" when live
}

// ErrQueueFull is returned by Append of a producer that does not block.
var ErrQueueFull = errors.New("producer queue is full")

// Client is the connection to one cluster, shared by everything in a process.
type Client struct{}

// Connect checks that the brokers answer.
func Connect(ctx context.Context, cfg Config, env component.Env) (*Client, error) { panic("bus") }

// EnsureTopics creates what is missing of event.Topics, checks the rest and
// gives each topic its incarnation. It is idempotent and safe to run at once in
// several processes. It must be called before producers and consumers are made.
func (c *Client) EnsureTopics(ctx context.Context) error { panic("bus") }

// Incarnation returns the topic's incarnation as read by EnsureTopics.
func (c *Client) Incarnation(topic string) event.ID { panic("bus") }

// Partitions returns the topic's number of partitions.
func (c *Client) Partitions(topic string) int32 { panic("bus") }

// Partition returns the partition of a key, as the Java client's murmur2 gives.
func (c *Client) Partition(topic string, key []byte) int32 { panic("bus") }

// Close closes the connections.
func (c *Client) Close() error { panic("bus") }

// Bounds are the first offset and the end offset (one past the last) of a partition.
type Bounds struct{ Start, End int64 }

// Offsets returns the bounds of every partition of the topic, by partition.
func (c *Client) Offsets(ctx context.Context, topic string) ([]Bounds, error) { panic("bus") }

// Lag is how far a group is behind on one partition.
type Lag struct {
	Group     string `json:"group"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"` // -1: nothing committed
	End       int64  `json:"end"`
	Records   int64  `json:"records"`
}

// Lag returns the lag of a group on the topics it has committed offsets for.
func (c *Client) Lag(ctx context.Context, group string, topics ...string) ([]Lag, error) { panic("bus") }

// DropSession deletes all topics and groups of the session (never the live ones).
func (c *Client) DropSession(ctx context.Context, session string) error { panic("bus") }

// Sessions lists the sessions that have topics.
func (c *Client) Sessions(ctx context.Context) ([]string, error) { panic("bus") }

// Record is one record as read. Key and Value are valid until the next call of
// the Reader's Next; decode or copy what is kept.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Time      time.Time // the broker's or producer's timestamp
	Key       []byte
	Value     []byte
	// SecondCopy marks a record that the rule of second copies drops (design.md
	// section 3, Copies). Only readers with ReaderConfig.KeepCopies see such
	// records: the sinks, which count them.
	SecondCopy bool
}

// ProducerConfig sets up a Producer.
type ProducerConfig struct {
	Name string // metrics label, "stream"
	// QueueBytes bounds what waits to be acknowledged, over all partitions; 0 is
	// the default of 64 MiB.
	QueueBytes int
	// Blocking makes Append wait for room instead of returning ErrQueueFull.
	Blocking bool
	// Owner, when set, is the transactional id that fences a predecessor.
	Owner string
}

// Producer appends records: acks from all replicas, idempotent, one request in
// flight a partition, batches form by themselves and nothing waits when idle.
// Safe for concurrent use; records of one partition keep the order of their
// Append calls.
type Producer struct{}

// NewProducer makes a producer; Close ends it.
func (c *Client) NewProducer(ctx context.Context, cfg ProducerConfig, env component.Env) (*Producer, error) {
	panic("bus")
}

// Append queues one record; key and value are copied, nothing else is
// allocated. done, when not nil, is called once from the producer's goroutine
// with the offset, or the error after which the record is not, and will not be,
// in the log; it must not block.
func (p *Producer) Append(topic string, partition int32, key, value []byte, done func(offset int64, err error)) error {
	panic("bus")
}

// Publish appends one event under its key's partition and waits for the
// acknowledgement.
func (p *Producer) Publish(ctx context.Context, topic string, key []byte, m event.Message) (partition int32, offset int64, err error) {
	panic("bus")
}

// Flush waits until everything appended before is acknowledged; it returns the
// first error since the last Flush.
func (p *Producer) Flush(ctx context.Context) error { panic("bus") }

// Err is closed-over failure: it returns the error that stopped the producer
// for good (fenced, fatal), or nil.
func (p *Producer) Err() error { panic("bus") }

// Queued returns the bytes that wait to be acknowledged.
func (p *Producer) Queued() int64 { panic("bus") }

// Close flushes within ctx and releases the producer.
func (p *Producer) Close(ctx context.Context) error { panic("bus") }

// ReaderConfig sets up a Reader.
type ReaderConfig struct {
	Topic     string
	Partition int32
	// Offset is the first offset wanted; FromStart or FromEnd.
	Offset int64
	// KeepCopies delivers second copies, marked, instead of dropping them.
	KeepCopies bool
}

// Offsets with a meaning.
const (
	FromStart int64 = -2
	FromEnd   int64 = -1
)

// Reader reads one partition in offset order: CRC checked, prefetching within
// bounded bytes, an offset gap in a topic that is not compacted or an offset
// that retention overtook is fatal and says how much is missing. Second copies
// are dropped and counted. Not safe for concurrent use, except EndAt.
type Reader struct{}

// NewReader opens a reader; Close ends it.
func (c *Client) NewReader(ctx context.Context, cfg ReaderConfig, env component.Env) (*Reader, error) {
	panic("bus")
}

// Next blocks until there is at least one record and returns what has arrived,
// in order. It returns io.EOF once the position reached the offset of EndAt.
// The records are valid until the next call.
func (r *Reader) Next(ctx context.Context) ([]Record, error) { panic("bus") }

// Position is the offset of the next record that Next will return at the
// earliest; after io.EOF it is the end (records dropped as copies are passed).
func (r *Reader) Position() int64 { panic("bus") }

// EndAt makes Next return io.EOF once everything before the offset was returned.
func (r *Reader) EndAt(offset int64) { panic("bus") }

// Close releases the reader.
func (r *Reader) Close() { panic("bus") }

// ReadAll reads a partition from its start (or the given offset) to its end as
// it is now, and returns that end. Second copies are dropped.
func (c *Client) ReadAll(ctx context.Context, topic string, partition int32, from int64, each func(Record) error) (end int64, err error) {
	panic("bus")
}

// ConsumerConfig sets up a Consumer.
type ConsumerConfig struct {
	Role       string   // the group is autohedge.<role>, prefixed by the session
	Topics     []string // all are consumed
	KeepCopies bool
}

// Consumer is a member of a group. It hands each partition it owns to a handler
// of its own goroutine.
type Consumer struct{}

// NewConsumer makes a member; Run joins the group.
func (c *Client) NewConsumer(cfg ConsumerConfig, env component.Env) *Consumer { panic("bus") }

// Run joins the group and calls handle, in a goroutine, for every partition it
// is assigned, in every generation; its ctx ends when the partition is lost, and
// handle must return within 250 ms of that. Run returns nil when ctx ends or
// after a Drain has finished, and the error of a handler otherwise (a lost
// partition's context error is none).
func (k *Consumer) Run(ctx context.Context, handle func(ctx context.Context, a *Assignment) error) error {
	panic("bus")
}

// Ready is closed once the first assignment has been handed out and every
// handler of it has called Assignment.Ready (at once for an empty assignment).
func (k *Consumer) Ready() <-chan struct{} { panic("bus") }

// Drain makes every partition end (io.EOF from Next) at its end offset as it is
// now; Run returns when all handlers have returned. It does not wait.
func (k *Consumer) Drain(ctx context.Context) error { panic("bus") }

// Assignment is one partition, owned for one generation.
type Assignment struct {
	Topic       string
	Partition   int32
	Incarnation event.ID
	Generation  int32
	// Committed is the group's offset, -1 when there is none; Start and End are
	// the partition's bounds when it was assigned.
	Committed, Start, End int64
}

// Seek sets where Next begins: an offset, FromStart or FromEnd. It must be
// called before Next.
func (a *Assignment) Seek(ctx context.Context, offset int64) error { panic("bus") }

// Next is Reader.Next.
func (a *Assignment) Next(ctx context.Context) ([]Record, error) { panic("bus") }

// Position is Reader.Position.
func (a *Assignment) Position() int64 { panic("bus") }

// Ready tells the Consumer that the handler has restored its state.
func (a *Assignment) Ready() { panic("bus") }

// Commit notes that everything before next is done. Offsets only go forward and
// are sent in the background and when the handler returns, only while the
// partition is owned.
func (a *Assignment) Commit(next int64) { panic("bus") }

// EmbeddedConfig sets up the embedded broker.
type EmbeddedConfig struct {
	Dir        string // data folder; empty keeps everything in memory
	Addr       string // host:port on loopback; port 0 takes a free one
	Partitions int
}

// Embedded is a running embedded broker.
type Embedded struct{}

// StartEmbedded starts the embedded broker (kfake).
func StartEmbedded(ctx context.Context, cfg EmbeddedConfig, env component.Env) (*Embedded, error) {
	panic("bus")
}

// Addr returns host:port.
func (e *Embedded) Addr() string { panic("bus") }

// Close stops the broker and saves its state.
func (e *Embedded) Close() error { panic("bus") }
