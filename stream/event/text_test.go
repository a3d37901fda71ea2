package event

import (
	"errors"
	"strings"
	"testing"
)

// Texts that are no UTF-8, names that do not print and lengths beyond reason are refused
// at decode, and never written.
func TestTexts(t *testing.T) {
	decision := func(strategy, rationale string) []byte {
		return Marshal(&Decision{ID: HashStrings("d"), Account: "paper", Strategy: strategy, Venue: "v", Symbol: "s", Rationale: rationale})
	}
	for _, tc := range []struct{ strategy, rationale, wantStrategy, wantRationale string }{
		{"reversion", "buy\nlow", "reversion", "buy\nlow"}, {"über", "日本", "über", "日本"},
		{"a\x00b\xff\n", "x\xffy", "a?b\uFFFD?", "x\uFFFDy"}, {"\x1b[31m", "", "?[31m", ""},
		{strings.Repeat("é", 1000), strings.Repeat("é", 1<<20), strings.Repeat("é", 512), strings.Repeat("é", 1<<19)},
	} {
		d, err := DecodeAs[*Decision](decision(tc.strategy, tc.rationale))
		if err != nil || d.Strategy != tc.wantStrategy || d.Rationale != tc.wantRationale {
			t.Errorf("%.40q, %.40q came back as %.40q, %.40q: %v", tc.strategy, tc.rationale, d.Strategy, d.Rationale, err)
		}
	}
	good := decision("MARK", "TEXT")
	for from, to := range map[string]string{"MARK": "MA\xffK", "paper": "pa\x00er", "TEXT": "TE\xffT"} {
		if _, err := Decode([]byte(strings.Replace(string(good), from, to, 1))); !errors.Is(err, errNotUTF8) && !errors.Is(err, errUnprinted) {
			t.Errorf("%q for %q: %v", to, from, err)
		}
	}
	for key, ok := range map[string]bool{"binance|BTCUSDT": true, "a|b|c": true, "a|": false, "|b": false, "ab": false, "a|b\n": false, "a|\xff": false, "a|" + strings.Repeat("b", 2000): false} {
		if err := CheckKey([]byte(key)); (err == nil) != ok {
			t.Errorf("key %.20q: %v", key, err)
		}
	}
}
