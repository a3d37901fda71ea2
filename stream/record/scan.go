package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// File is one recording to play. Venue is empty when it is to be found out.
type File struct {
	Path  string `yaml:"path" doc:"file of recorded frames"`
	Venue string `yaml:"venue" doc:"venue id when it cannot be told from the file; empty finds it out"`
}

// FileInfo is what a recording holds.
type FileInfo struct {
	Path  string `json:"path"`
	Venue string `json:"venue"`
	// By tells how the venue was found: given, url, name or frame.
	By     string         `json:"by"`
	URL    string         `json:"url,omitempty"` // of the first connection
	Frames int            `json:"frames"`        // received
	Kinds  map[string]int `json:"kinds"`
	// Symbols are as the venue writes them, Channels the venue's names of what
	// was subscribed or seen; both in order.
	Symbols  []string `json:"symbols"`
	Channels []string `json:"channels"`
	// First and Last are the receive times of the first and last frame, Unix ns.
	First int64 `json:"first"`
	Last  int64 `json:"last"`
	// Synthetic marks a file without times.
	Synthetic bool      `json:"synthetic,omitempty"`
	Bad       []BadLine `json:"bad,omitempty"` // the first 100
	BadLines  int       `json:"bad_lines"`

	acks bool // the venue's answers to subscriptions are in it
}

// Scan reads a recording once and tells what it holds.
func Scan(f File) (FileInfo, error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return FileInfo{}, fmt.Errorf("opening the recording: %w", err)
	}
	defer func() { _ = file.Close() }()
	s := scanner{info: FileInfo{Path: f.Path, Venue: f.Venue, Kinds: make(map[string]int)}, symbols: make(set), channels: make(set)}
	if f.Venue != "" {
		if !slices.Contains(venues, f.Venue) {
			return FileInfo{}, fmt.Errorf("reading %s: unknown venue %q: want one of %s", f.Path, f.Venue, strings.Join(venues, ", "))
		}
		s.info.By = "given"
	}
	r := NewReader(file, f.Path)
	for {
		l, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return FileInfo{}, err
		}
		s.line(l)
	}
	in := &s.info
	in.Synthetic = r.bare
	in.Bad, in.BadLines = r.Bad()
	in.Symbols, in.Channels = s.symbols.sorted(), s.channels.sorted()
	switch {
	case in.Frames == 0 && in.BadLines > 0:
		return *in, fmt.Errorf("reading %s: no frames in it; the first line that could not be read: %s", f.Path, in.Bad[0])
	case in.Frames == 0:
		return *in, fmt.Errorf("reading %s: no received frames in it", f.Path)
	case in.Venue == "":
		return *in, fmt.Errorf("reading %s: neither URL, file name nor frames tell the venue; name it: one of %s", f.Path, strings.Join(venues, ", "))
	}
	return *in, nil
}

var venues = []string{"alpaca", "alpaca-crypto", "binance", "binance-coinm", "binance-usdm", "bybit-linear", "bybit-spot", "coinbase",
	"coinbase-advanced", "kraken", "kraken-v1", "okx", "polygon"}

type set map[string]bool

func (s set) add(v string) {
	if v != "" {
		s[v] = true
	}
}

func (s set) sorted() []string {
	list := make([]string, 0, len(s))
	for v := range s {
		list = append(list, v)
	}
	sort.Strings(list)
	return list
}

type scanner struct {
	info              FileInfo
	symbols, channels set
	// early holds frames from before the venue was known; they are few, as the
	// first frame that tells anything settles it.
	early [][]byte
	named bool
}

func (s *scanner) line(l Line) {
	in := &s.info
	switch l.Kind {
	case Opened, Sent, REST:
		if in.URL == "" && l.Kind != REST {
			in.URL = l.URL
		}
		s.found(venueOfURL(l.URL), "url")
		if l.Kind == Opened {
			s.asked(l.URL)
		}
		if l.Kind == Sent {
			s.told(l.Data)
		}
	case Received:
		if in.Venue == "" && !s.named {
			s.named = true
			s.found(venueOfName(in.Path), "name")
		}
		if in.Venue == "" {
			s.found(venueOfFrame(l.Data), "frame")
		}
		if in.Frames == 0 {
			in.First = l.Time
		}
		in.Frames++
		in.Last = l.Time
		if in.Venue == "" {
			if len(s.early) < 1000 {
				s.early = append(s.early, bytes.Clone(l.Data))
			}
			return
		}
		s.frame(l.Data)
	}
}

func (s *scanner) found(venue, by string) {
	if venue == "" || s.info.Venue != "" {
		return
	}
	s.info.Venue, s.info.By = venue, by
	for _, f := range s.early {
		s.frame(f)
	}
	s.early = nil
}

func (s *scanner) frame(frame []byte) {
	d := Describe(s.info.Venue, frame)
	s.info.Kinds[d.Kind]++
	s.symbols.add(d.Symbol)
	s.channels.add(d.Channel)
	if d.Kind == kindAck {
		s.info.acks = true
	}
}

// asked notes what a Binance URL subscribes to.
func (s *scanner) asked(raw string) {
	u, err := url.Parse(raw)
	if err != nil || !strings.HasPrefix(s.info.Venue, "binance") {
		return
	}
	list := u.Query().Get("streams")
	if _, after, ok := strings.Cut(u.Path, "/ws/"); ok {
		list = after
	}
	for name := range strings.SplitSeq(list, "/") {
		s.stream(name)
	}
}

func (s *scanner) stream(name string) {
	if sym, ch, ok := strings.Cut(name, "@"); ok {
		s.symbols.add(strings.ToUpper(sym))
		s.channels.add(ch)
	}
}

// told notes what a client's message subscribes to.
func (s *scanner) told(msg []byte) {
	var m struct {
		Params   json.RawMessage   `json:"params"`
		Products []string          `json:"product_ids"`
		Channels []json.RawMessage `json:"channels"`
	}
	if json.Unmarshal(msg, &m) != nil {
		return
	}
	var names []string
	if json.Unmarshal(m.Params, &names) == nil {
		for _, n := range names {
			s.stream(n)
		}
	}
	for _, p := range m.Products {
		s.symbols.add(p)
	}
	for _, c := range m.Channels {
		var obj struct {
			Name     string   `json:"name"`
			Products []string `json:"product_ids"`
		}
		if json.Unmarshal(c, &obj.Name) != nil && json.Unmarshal(c, &obj) != nil {
			continue
		}
		s.channels.add(obj.Name)
		for _, p := range obj.Products {
			s.symbols.add(p)
		}
	}
}

// venueOfURL knows the venues' hosts (protocols.md part A).
func venueOfURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	host, path := u.Hostname(), u.Path
	has := func(part string) bool { return strings.Contains(host, part) }
	switch {
	case has("binance") && (strings.HasPrefix(host, "fstream") || strings.HasPrefix(host, "fapi")):
		return "binance-usdm"
	case has("binance") && (strings.HasPrefix(host, "dstream") || strings.HasPrefix(host, "dapi")):
		return "binance-coinm"
	case has("binance"):
		return "binance"
	case has("advanced-trade-ws"):
		return "coinbase-advanced"
	case has("coinbase") || has("gdax"):
		return "coinbase"
	case has("kraken") && strings.HasPrefix(path, "/v2"):
		return "kraken"
	case has("kraken"):
		return "kraken-v1"
	case has("okx") || has("okex"):
		return "okx"
	case has("bybit") && strings.HasSuffix(path, "/spot"):
		return "bybit-spot"
	case has("bybit") && strings.HasSuffix(path, "/linear"):
		return "bybit-linear"
	case has("alpaca") && strings.Contains(path, "crypto"):
		return "alpaca-crypto"
	case has("alpaca"):
		return "alpaca"
	case has("polygon") || has("massive"):
		return "polygon"
	}
	return ""
}

// venueOfName knows the names that files and their folders usually have.
func venueOfName(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	base := strings.ToLower(filepath.Base(abs))
	for _, name := range []string{base, strings.ToLower(filepath.Base(filepath.Dir(abs)))} {
		has := func(part string) bool { return strings.Contains(name, part) }
		switch {
		case has("binance") && (has("usdm") || has("futures")):
			return "binance-usdm"
		case has("binance") && has("coinm"), has("binance") && has("delivery"):
			return "binance-coinm"
		case has("binance"):
			return "binance"
		case has("coinbase") && has("advanced"):
			return "coinbase-advanced"
		case has("coinbase"):
			return "coinbase"
		case has("kraken-v1"):
			return "kraken-v1"
		case has("kraken-v2"):
			return "kraken"
		case has("okx"):
			return "okx"
		case has("bybit") && (has("linear") || strings.Contains(base, "linear")):
			return "bybit-linear"
		case has("bybit") && (has("spot") || strings.Contains(base, "spot")):
			return "bybit-spot"
		case has("alpaca") && has("crypto"):
			return "alpaca-crypto"
		case has("alpaca"):
			return "alpaca"
		case has("polygon"):
			return "polygon"
		}
	}
	return ""
}
