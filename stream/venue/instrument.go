package venue

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/autohedge/autohedge/stream/event"
)

// knownQuotes are quote assets of symbols without a separator; the longest that
// ends a symbol is its quote.
var knownQuotes = []string{
	"USDT", "USDC", "FDUSD", "TUSD", "BUSD", "USDP", "USD1", "USDS", "USDE", "DAI", "BTC", "ETH", "BNB", "EUR", "EURI", "AEUR", "TRY", "BRL",
	"GBP", "AUD", "JPY", "RUB", "UAH", "NGN", "ZAR", "IDRT", "BIDR", "BKRW", "PLN", "RON", "ARS", "MXN", "COP", "CZK", "XRP", "TRX", "DOGE",
	"DOT", "PAX", "VAI", "UST", "USD",
}

// splitByQuote splits a symbol that has no separator.
func splitByQuote(symbol string) (base, quote string) {
	for _, q := range knownQuotes {
		if len(q) > len(quote) && len(symbol) > len(q) && strings.HasSuffix(symbol, q) {
			base, quote = symbol[:len(symbol)-len(q)], q
		}
	}
	return base, quote
}

// inferred is an instrument of which nothing but the name is known.
func inferred(venue, symbol, base, quote string) event.Instrument {
	return event.Instrument{Venue: venue, Symbol: symbol, Name: normalName(base, quote), Base: base, Quote: quote,
		PriceTick: InferredStep, QtyStep: InferredStep, Source: "inferred"}
}

func normalName(base, quote string) string {
	return strings.ToUpper(base) + "-" + strings.ToUpper(quote)
}

func set(list []string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, s := range list {
		m[s] = true
	}
	return m
}

// getJSON fetches and decodes one answer of at most 64 MiB.
func getJSON(ctx context.Context, client *http.Client, target string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return fmt.Errorf("asking for instruments: %w", err)
	}
	req.Header.Set("User-Agent", "autohedge") // Coinbase refuses a request without one
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("asking for instruments: %w", err)
	}
	body, err := readBounded(resp.Body)
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("reading instruments: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("asking for instruments: %w", &statusError{code: resp.StatusCode, text: fmt.Sprintf("%s: %q", resp.Status, clip(bytes.TrimSpace(body), 200))})
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("decoding instruments: %w", err)
	}
	return nil
}

// statusError is an answer with another status than 200.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return e.text }

const maxAnswer = 64 << 20

func readBounded(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("answer exceeds %d bytes", maxAnswer)
	}
	return body, err
}
