package clickhouse

import (
	"sort"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/autohedge/autohedge/stream/event"
)

// controlRows are rows of control.
type controlRows struct {
	lineage
	id, hash              ids
	kind                  enums[event.ControlKind]
	level                 enums[event.HaltLevel]
	scope, who, why, body strs
	time                  times
}

func (r *controlRows) columns() []named {
	return r.with(
		named{"event_id", &r.id}, named{"kind", &r.kind}, named{"scope", &r.scope}, named{"who", &r.who}, named{"why", &r.why}, named{"time", &r.time},
		named{"hash", &r.hash}, named{"body", &r.body}, named{"level", &r.level})
}

func (r *controlRows) add(p *place, c *event.Control) {
	r.id.add(c.ID)
	r.kind.add(c.Kind)
	r.scope.add(c.Scope)
	r.who.add(c.Who)
	r.why.add(c.Why)
	r.time.Append(c.Time)
	r.hash.add(c.Hash)
	r.body.AppendBytes(c.Body)
	r.level.add(c.Level)
	r.lineage.add(p)
}

// deadRows are rows of dead.
type deadRows struct {
	lineage
	source
	id                 ids
	role               lowCard
	reason, key, value strs
	time               times
}

func (r *deadRows) columns() []named {
	return r.lineage.with(r.source.with(
		named{"event_id", &r.id}, named{"role", &r.role}, named{"reason", &r.reason}, named{"key", &r.key}, named{"value", &r.value}, named{"time", &r.time})...)
}

func (r *deadRows) add(p *place, d *event.Dead) {
	r.id.add(d.ID)
	r.role.add(d.Role)
	r.reason.add(d.Reason)
	r.key.AppendBytes(d.Key)
	r.value.AppendBytes(d.Value)
	r.time.Append(d.Time)
	r.source.add(d.Lineage)
	r.lineage.add(p)
}

// Landed accounts for every record of one plan, after its last insert:
//
//	Last - First + 1 = rows + Control + Refused + SecondCopies + Expired
type Landed struct {
	Topic       string
	Incarnation event.ID
	Partition   int32
	// First and Last are offsets, both included.
	First, Last int64
	// Rows counts by table.
	Rows map[string]uint64
	// Control counts records that make no row, Refused those that could not be
	// used, SecondCopies those that were in the log already, Expired those that
	// retention took first.
	Control, Refused, SecondCopies, Expired uint64
	// Token is the plan's.
	Token string
}

// landedRows are rows of landed.
type landedRows struct {
	topic                                   lowCard
	incarnation                             ids
	partition                               proto.ColUInt32
	first, last                             proto.ColUInt64
	rows                                    maps[*proto.ColUInt64]
	control, refused, secondCopies, expired proto.ColUInt64
	token                                   strs
}

func newLandedRows() *landedRows {
	return &landedRows{rows: maps[*proto.ColUInt64]{values: new(proto.ColUInt64)}}
}

func (r *landedRows) len() int { return len(r.first) }

func (r *landedRows) columns() []named {
	return []named{
		{"topic", &r.topic}, {"incarnation", &r.incarnation}, {"partition", &r.partition}, {"first_offset", &r.first}, {"last_offset", &r.last},
		{"rows", &r.rows}, {"control", &r.control}, {"refused", &r.refused}, {"second_copies", &r.secondCopies}, {"expired", &r.expired}, {"token", &r.token},
	}
}

func (r *landedRows) add(l *Landed) {
	r.topic.add(l.Topic)
	r.incarnation.add(l.Incarnation)
	r.partition.Append(uint32(l.Partition))
	r.first.Append(uint64(l.First))
	r.last.Append(uint64(l.Last))
	tables := make([]string, 0, len(l.Rows))
	for t := range l.Rows {
		tables = append(tables, t)
	}
	sort.Strings(tables) // the same row has the same bytes
	for _, t := range tables {
		r.rows.keys.add(t)
		r.rows.values.Append(l.Rows[t])
	}
	r.rows.end()
	r.control.Append(l.Control)
	r.refused.Append(l.Refused)
	r.secondCopies.Append(l.SecondCopies)
	r.expired.Append(l.Expired)
	r.token.add(l.Token)
}
