package clickhouse

import (
	"github.com/ClickHouse/ch-go/proto"

	"github.com/autohedge/autohedge/stream/event"
)

// tickRows are rows of ticks.
type tickRows struct {
	lineage
	instrument
	channel                   enums[event.Channel]
	eventTime, recvTime       times
	publishTime               nullTimes
	timeSource                enums[event.TimeSource]
	tradeID                   proto.ColUInt64
	tradeIDText               strs
	sequence                  proto.ColUInt64
	price                     decimals
	qty                       nullDecimals
	side                      enums[event.Side]
	connection                proto.ColUInt32
	ordinal                   proto.ColUInt64
	firstTradeID, lastTradeID proto.ColUInt64
	epoch                     proto.ColUInt32
	late                      proto.ColBool
}

func (r *tickRows) columns() []named {
	return r.with(
		named{"venue", &r.venue}, named{"symbol", &r.symbol}, named{"channel", &r.channel},
		named{"event_time", &r.eventTime}, named{"recv_time", &r.recvTime}, named{"publish_time", &r.publishTime}, named{"time_source", &r.timeSource},
		named{"trade_id", &r.tradeID}, named{"trade_id_text", &r.tradeIDText}, named{"sequence", &r.sequence},
		named{"price_exact", &r.price}, named{"qty_exact", &r.qty}, named{"side", &r.side},
		named{"connection", &r.connection}, named{"ordinal", &r.ordinal}, named{"first_trade_id", &r.firstTradeID}, named{"last_trade_id", &r.lastTradeID},
		named{"epoch", &r.epoch}, named{"late", &r.late})
}

func (r *tickRows) add(p *place, key []byte, t *event.Trade) {
	r.instrument.add(key)
	r.channel.add(t.Channel)
	r.eventTime.Append(orElse(t.EventTime, t.RecvTime))
	r.recvTime.Append(t.RecvTime)
	r.publishTime.add(t.PublishTime)
	r.timeSource.add(t.TimeSource)
	r.tradeID.Append(t.TradeID)
	r.tradeIDText.add(t.TradeIDText)
	r.sequence.Append(t.Sequence)
	r.price.add(t.Price)
	r.qty.add(t.Qty)
	r.side.add(t.Aggressor)
	r.connection.Append(t.Connection)
	r.ordinal.Append(t.Ordinal)
	r.firstTradeID.Append(t.FirstTradeID)
	r.lastTradeID.Append(t.LastTradeID)
	r.epoch.Append(t.Epoch)
	r.late.Append(t.Late)
	r.lineage.add(p)
}

// quoteRows are rows of quotes.
type quoteRows struct {
	lineage
	instrument
	channel             enums[event.Channel]
	eventTime, recvTime times
	publishTime         nullTimes
	timeSource          enums[event.TimeSource]
	sequence            proto.ColUInt64
	bid, ask            decimals
	bidQty, askQty      nullDecimals
	connection          proto.ColUInt32
	ordinal             proto.ColUInt64
	epoch               proto.ColUInt32
}

func (r *quoteRows) columns() []named {
	return r.with(
		named{"venue", &r.venue}, named{"symbol", &r.symbol}, named{"channel", &r.channel},
		named{"event_time", &r.eventTime}, named{"recv_time", &r.recvTime}, named{"publish_time", &r.publishTime}, named{"time_source", &r.timeSource},
		named{"sequence", &r.sequence}, named{"bid_exact", &r.bid}, named{"bid_qty_exact", &r.bidQty}, named{"ask_exact", &r.ask}, named{"ask_qty_exact", &r.askQty},
		named{"connection", &r.connection}, named{"ordinal", &r.ordinal}, named{"epoch", &r.epoch})
}

func (r *quoteRows) add(p *place, key []byte, q *event.Quote) {
	r.instrument.add(key)
	r.channel.add(q.Channel)
	r.eventTime.Append(orElse(q.EventTime, q.RecvTime))
	r.recvTime.Append(q.RecvTime)
	r.publishTime.add(q.PublishTime)
	r.timeSource.add(q.TimeSource)
	r.sequence.Append(q.Sequence)
	r.bid.add(q.Bid)
	r.bidQty.add(q.BidQty)
	r.ask.add(q.Ask)
	r.askQty.add(q.AskQty)
	r.connection.Append(q.Connection)
	r.ordinal.Append(q.Ordinal)
	r.epoch.Append(q.Epoch)
	r.lineage.add(p)
}

// coverageRows are rows of coverage.
type coverageRows struct {
	lineage
	instrument
	channel          enums[event.Channel]
	kind             enums[event.CoverageKind]
	contiguous       proto.ColBool
	fromID, toID     proto.ColUInt64
	fromTime, toTime nullTimes
	recvTime         times
	connection       proto.ColUInt32
	ordinal          proto.ColUInt64
	reason           strs
	epoch            proto.ColUInt32
}

func (r *coverageRows) columns() []named {
	return r.with(
		named{"venue", &r.venue}, named{"symbol", &r.symbol}, named{"channel", &r.channel}, named{"kind", &r.kind}, named{"contiguous", &r.contiguous},
		named{"from_id", &r.fromID}, named{"to_id", &r.toID}, named{"from_time", &r.fromTime}, named{"to_time", &r.toTime}, named{"recv_time", &r.recvTime},
		named{"connection", &r.connection}, named{"ordinal", &r.ordinal}, named{"reason", &r.reason}, named{"epoch", &r.epoch})
}

func (r *coverageRows) add(p *place, key []byte, c *event.Coverage) {
	r.instrument.add(key)
	r.channel.add(c.Channel)
	r.kind.add(c.Kind)
	r.contiguous.Append(c.Contiguous)
	r.fromID.Append(c.FromID)
	r.toID.Append(c.ToID)
	r.fromTime.add(c.FromTime)
	r.toTime.add(c.ToTime)
	r.recvTime.Append(c.RecvTime)
	r.connection.Append(c.Connection)
	r.ordinal.Append(c.Ordinal)
	r.reason.add(c.Reason)
	r.epoch.Append(c.Epoch)
	r.lineage.add(p)
}
