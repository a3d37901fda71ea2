package bench

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/autohedge/autohedge/stream/venue"
)

// frames are whole frames of the sizes that the venues send.
var frames = []struct{ name, venue, frame string }{
	{"decode.binance.trade_ns", "binance", `{"stream":"btcusdt@trade","data":{"e":"trade","E":1787086910902,"s":"BTCUSDT","t":6580036635,"p":"64591.75000000","q":"0.00024000","T":1787086910902,"m":true,"M":true}}`},
	{"decode.binance.quote_ns", "binance", `{"stream":"btcusdt@bookTicker","data":{"u":98645697497,"s":"BTCUSDT","b":"64603.99000000","B":"4.91483000","a":"64604.00000000","A":"2.16980000"}}`},
	{"decode.coinbase.match_ns", "coinbase", `{"type":"match","trade_id":280232,"maker_order_id":"2a0da34e-61f7-4c36-88e5-c9dd15927b16","taker_order_id":"3c82abaa-c01e-4608-be59-6a1e69742891","side":"sell","size":"985","price":"0.00001305","product_id":"SKL-BTC","sequence":177100030,"time":"2021-04-17T16:43:37.089723Z"}`},
}

func decodeMeasurements() []measurement {
	var all []measurement
	for _, f := range frames {
		all = append(all, measurement{
			names: []string{f.name}, summary: "frame to event, beside encoding/json into any",
			run: func(_ context.Context, o Options) ([]Result, error) {
				return decode(f.name, f.venue, []byte(f.frame), o)
			},
		})
	}
	return all
}

func decode(name, venueName string, frame []byte, o Options) ([]Result, error) {
	spec, err := venue.Registry.Lookup(venueName)
	if err != nil {
		return nil, err
	}
	var cfg any
	if spec.Config != nil {
		cfg = spec.Config()
	}
	v, err := spec.New(cfg)
	if err != nil {
		return nil, err
	}
	d := v.NewDecoder()
	var into venue.Frame
	op := func(n int) error {
		for range n {
			if err := d.Decode(frame, 1, &into); err != nil {
				return err
			}
			if len(into.Items) != 1 {
				return fmt.Errorf("decoding gave %d events, want one", len(into.Items))
			}
		}
		return nil
	}
	ns, n, err := perOp(o.Length, op)
	if err != nil {
		return nil, err
	}
	allocs, err := allocations(op)
	if err != nil {
		return nil, err
	}
	peer, _, err := perOp(o.Length/4, func(n int) error {
		for range n {
			var x any
			if err := json.Unmarshal(frame, &x); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []Result{{Name: name, Value: ns, Unit: "ns/frame", N: n, Note: fmt.Sprintf("%d-byte frame, %.2f allocations; encoding/json into any takes %.0f ns in the same run", len(frame), allocs, peer)}}, nil
}
