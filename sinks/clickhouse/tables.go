package clickhouse

import (
	"fmt"
	"math"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/autohedge/autohedge/stream/event"
)

// Tables that events land in, in the order of the data's flow.
const (
	tableTicks     = "ticks"
	tableQuotes    = "quotes"
	tableCoverage  = "coverage"
	tableSignals   = "signals"
	tableJournal   = "journal"
	tableDecisions = "decisions"
	tableOrders    = "order_events"
	tableFills     = "fills"
	tablePositions = "positions"
	tableControl   = "control"
	tableDead      = "dead"
	tableLanded    = "landed"
)

// Tables lists the tables whose rows come from records; `landed` is the proof of
// them.
var Tables = []string{
	tableTicks, tableQuotes, tableCoverage, tableSignals, tableJournal, tableDecisions, tableOrders, tableFills, tablePositions, tableControl, tableDead,
}

// rows gathers the rows of one table: the typed columns that an insert sends.
type rows interface {
	// columns lists the columns in the order of the insert.
	columns() []named
	// len is the number of rows.
	len() int
}

// named is a column with its name.
type named struct {
	name string
	col  column
}

// newRows returns empty rows of a table.
func newRows(table string) rows {
	switch table {
	case tableTicks:
		return &tickRows{}
	case tableQuotes:
		return &quoteRows{}
	case tableCoverage:
		return &coverageRows{}
	case tableSignals:
		return newSignalRows()
	case tableJournal:
		return &journalRows{}
	case tableDecisions:
		return &decisionRows{}
	case tableOrders:
		return &orderRows{}
	case tableFills:
		return &fillRows{}
	case tablePositions:
		return &positionRows{}
	case tableControl:
		return &controlRows{}
	case tableDead:
		return &deadRows{}
	case tableLanded:
		return newLandedRows()
	}
	panic("no rows for table " + table)
}

// daily tells the tables that are partitioned by day; the others are by month,
// and landed not at all.
func daily(table string) bool { return table == tableTicks || table == tableQuotes }

// span is a table partition, yyyymmdd or yyyymm as toYYYYMMDD and toYYYYMM have
// it, with the times that belong to it: Unix ns, the end excluded.
type span struct {
	partition int
	from, to  int64
}

// spanOf returns the table partition that a row of that time belongs to.
func spanOf(table string, ns int64) span {
	t := time.Unix(0, ns).UTC()
	y, m, d := t.Date()
	s := span{partition: y*100 + int(m)}
	from, to := time.Date(y, m, 1, 0, 0, 0, 0, time.UTC), time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
	if daily(table) {
		s.partition = s.partition*100 + d
		from, to = time.Date(y, m, d, 0, 0, 0, 0, time.UTC), time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC)
	}
	// At the ends of what 64 bits hold, in 1677 and 2262, the bounds wrap around.
	if s.from = from.UnixNano(); s.from > ns {
		s.from = math.MinInt64
	}
	if s.to = to.UnixNano(); s.to <= ns {
		s.to = math.MaxInt64
	}
	return s
}

func (s *span) holds(ns int64) bool { return ns >= s.from && (ns < s.to || s.to == math.MaxInt64) }

// place says where a record lies; every row carries it.
type place struct {
	topic       string
	incarnation event.ID
	partition   int32
	offset      int64
}

// lineage is the columns of place.
type lineage struct {
	topic       lowCard
	incarnation ids
	partition   proto.ColUInt32
	offset      proto.ColUInt64
}

func (c *lineage) add(p *place) {
	if c.topic.Rows() == 0 {
		c.topic.add(p.topic)
	} else { // a batch is of one topic
		c.topic.repeat()
	}
	c.incarnation.add(p.incarnation)
	c.partition = append(c.partition, uint32(p.partition))
	c.offset = append(c.offset, uint64(p.offset))
}

func (c *lineage) len() int { return len(c.offset) }

func (c *lineage) with(cols ...named) []named {
	return append(cols, named{"topic", &c.topic}, named{"incarnation", &c.incarnation}, named{"kafka_partition", &c.partition}, named{"kafka_offset", &c.offset})
}

// instrument is the columns of a record's key, venue|symbol.
type instrument struct {
	venue, symbol lowCard
	// known are the dictionaries' places by key, so that a row costs one look-up.
	known map[string][2]uint32
}

func (c *instrument) add(key []byte) {
	if len(c.venue.keys) == 0 { // after a reset
		clear(c.known)
	}
	if at, ok := c.known[string(key)]; ok {
		c.venue.keys = append(c.venue.keys, at[0])
		c.symbol.keys = append(c.symbol.keys, at[1])
		return
	}
	if c.known == nil {
		c.known = make(map[string][2]uint32)
	}
	venue, symbol := event.SplitKey(key)
	c.venue.add(string(venue))
	c.symbol.add(string(symbol))
	c.known[string(key)] = [2]uint32{c.venue.last, c.symbol.last}
}

// source is the columns of the lineage that a derived event carries.
type source struct {
	topic     lowCard
	partition proto.ColUInt32
	offset    proto.ColUInt64
	k         proto.ColUInt32
}

func (c *source) add(l event.Lineage) {
	c.topic.add(l.Topic)
	c.partition = append(c.partition, uint32(max(0, l.Partition)))
	c.offset = append(c.offset, uint64(max(0, l.Offset)))
	c.k = append(c.k, l.K)
}

func (c *source) with(cols ...named) []named {
	return append(cols, named{"source_topic", &c.topic}, named{"source_partition", &c.partition}, named{"source_offset", &c.offset}, named{"source_k", &c.k})
}

// tableOf returns the table of an event type; ok is false for events that make
// no row.
func tableOf(t event.Type) (table string, ok bool) {
	switch t {
	case event.TypeTrade:
		return tableTicks, true
	case event.TypeQuote:
		return tableQuotes, true
	case event.TypeCoverage:
		return tableCoverage, true
	case event.TypeSignal:
		return tableSignals, true
	case event.TypeModelCall, event.TypeVerdict:
		return tableJournal, true
	case event.TypeDecision:
		return tableDecisions, true
	case event.TypeOrder:
		return tableOrders, true
	case event.TypeFill:
		return tableFills, true
	case event.TypePosition:
		return tablePositions, true
	case event.TypeControl:
		return tableControl, true
	case event.TypeDead:
		return tableDead, true
	}
	return "", false
}

// timeOf returns the time that decides the table partition of an event.
func timeOf(m event.Message) int64 {
	switch m := m.(type) {
	case *event.Trade:
		return orElse(m.EventTime, m.RecvTime)
	case *event.Quote:
		return orElse(m.EventTime, m.RecvTime)
	case *event.Coverage:
		return m.RecvTime
	case *event.Signal:
		return m.Time
	case *event.ModelCall:
		return m.Time
	case *event.Verdict:
		return m.Decision.Time
	case *event.Decision:
		return m.Time
	case *event.OrderEvent:
		return m.Time
	case *event.Fill:
		return m.Time
	case *event.Position:
		return m.Time
	case *event.Control:
		return m.Time
	case *event.Dead:
		return m.Time
	}
	return 0
}

func orElse(a, b int64) int64 {
	if a != 0 {
		return a
	}
	return b
}

// addRow appends the row of an event to the rows of its table.
func addRow(r rows, p *place, key []byte, m event.Message) error {
	switch m := m.(type) {
	case *event.Trade:
		r.(*tickRows).add(p, key, m)
	case *event.Quote:
		r.(*quoteRows).add(p, key, m)
	case *event.Coverage:
		r.(*coverageRows).add(p, key, m)
	case *event.Signal:
		r.(*signalRows).add(p, m)
	case *event.ModelCall:
		r.(*journalRows).addCall(p, m)
	case *event.Verdict:
		return r.(*journalRows).addVerdict(p, m) //nolint:forcetypeassert // as above
	case *event.Decision:
		r.(*decisionRows).add(p, m)
	case *event.OrderEvent:
		r.(*orderRows).add(p, m)
	case *event.Fill:
		r.(*fillRows).add(p, m)
	case *event.Position:
		r.(*positionRows).add(p, m)
	case *event.Control:
		r.(*controlRows).add(p, m)
	case *event.Dead:
		r.(*deadRows).add(p, m)
	default:
		return fmt.Errorf("finding a table for %T: there is none", m)
	}
	return nil
}
