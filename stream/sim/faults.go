package sim

import (
	"fmt"
	"strings"
	"time"
)

// FaultKind is a kind of trouble.
type FaultKind uint8

// Fault kinds. The market runs on through all of them, so what a client does
// not hear is lost to it, and the ids show it.
const (
	FaultNone FaultKind = iota
	Drop                // the TCP connection is reset, without a close frame; new ones are refused for the duration
	CloseConn           // the same with a close frame
	Stall               // the connection stays open and silent; what was held back follows when it ends
	Mute                // the connection stays open and silent, pings and all; what was made meanwhile is lost
	Duplicate           // frames are sent twice
	Garbage             // one frame that is no JSON
	Shutdown            // the venue's notice that it will close the connection, which it does after the duration
	faultKinds
)

var faultNames = [faultKinds]string{"none", "drop", "close", "stall", "mute", "duplicate", "garbage", "shutdown"}

func (k FaultKind) String() string {
	if k < faultKinds {
		return faultNames[k]
	}
	return "fault " + itoa(int(k))
}

// MarshalText writes the name.
func (k FaultKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the name.
func (k *FaultKind) UnmarshalText(text []byte) error {
	for i, n := range faultNames {
		if i > 0 && n == string(text) {
			*k = FaultKind(i)
			return nil
		}
	}
	return fmt.Errorf("unknown fault %q: want one of %s", text, strings.Join(faultNames[1:], ", "))
}

// Fault asks for trouble now. Venue is VenueBinance, VenueCoinbase or empty for
// both.
type Fault struct {
	Kind     FaultKind     `json:"kind"`
	Venue    string        `json:"venue"`
	Duration time.Duration `json:"duration_ns"`
}

// FaultReport is a fault that happened.
type FaultReport struct {
	Fault
	At          time.Time `json:"at"`
	Connections int       `json:"connections"` // how many it hit
}

// Inject makes a fault happen now and returns how many connections it hit.
func (s *Sim) Inject(f Fault) (int, error) {
	if f.Kind == FaultNone || f.Kind >= faultKinds {
		return 0, fmt.Errorf("unknown fault %d", f.Kind)
	}
	if f.Venue != "" && f.Venue != VenueBinance && f.Venue != VenueCoinbase {
		return 0, fmt.Errorf("unknown venue %q: want %s, %s or none for both", f.Venue, VenueBinance, VenueCoinbase)
	}
	if f.Duration < 0 {
		return 0, fmt.Errorf("negative duration %s", f.Duration)
	}
	now := time.Now() // faults concern sockets, not the market
	until := now.Add(f.Duration)
	s.clients.Lock()
	for _, v := range s.venues {
		if (f.Venue == "" || f.Venue == v.name) && (f.Kind == Drop || f.Kind == CloseConn) {
			v.refuseUntil = until
		}
	}
	var hit []*client
	for c := range s.clients.set {
		if f.Venue == "" || f.Venue == c.venue.name {
			hit = append(hit, c)
		}
	}
	s.faults = append(s.faults, FaultReport{Fault: f, At: now, Connections: len(hit)})
	if len(s.faults) > maxFaultReports {
		s.faults = s.faults[1:]
	}
	s.clients.Unlock()
	for _, c := range hit {
		c.fault(f, until)
	}
	for _, v := range s.venues {
		if f.Venue == "" || f.Venue == v.name {
			v.faults[f.Kind].Inc()
		}
	}
	s.log.Info("injecting a fault", "kind", f.Kind.String(), "venue", f.Venue, "duration", f.Duration, "connections", len(hit))
	return len(hit), nil
}

// maxFaultReports bounds the log of faults.
const maxFaultReports = 1000

// Faults returns what happened so far, oldest first (the last 1,000).
func (s *Sim) Faults() []FaultReport {
	s.clients.Lock()
	defer s.clients.Unlock()
	return append([]FaultReport(nil), s.faults...)
}

// schedule starts the venue's planned faults; called with its first client.
func (s *Sim) schedule(v *venue) {
	plans := s.cfg.Faults
	if s.cfg.Schedule == ScheduleDemo {
		plans = append(DemoFaults(), plans...)
	}
	for _, p := range plans {
		// A plan for both venues runs once for each, from its own first client.
		if p.Venue != "" && p.Venue != v.name {
			continue
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			wait := time.NewTimer(p.After)
			defer wait.Stop()
			for {
				select {
				case <-s.ctx.Done():
					return
				case <-wait.C:
				}
				if !s.paused.Load() {
					if _, err := s.Inject(Fault{Kind: p.Kind, Venue: v.name, Duration: p.Duration}); err != nil {
						s.log.Error("injecting a planned fault", "err", err)
					}
				}
				if p.Every <= 0 {
					return
				}
				wait.Reset(p.Every)
			}
		}()
	}
}

// fault applies f to one connection.
func (c *client) fault(f Fault, until time.Time) {
	switch f.Kind {
	case Drop:
		c.reset()
	case CloseConn:
		c.closeWith(closeServiceRestart, "")
	case Stall:
		c.mu.Lock()
		c.stallUntil = until
		c.mu.Unlock()
	case Mute:
		c.mu.Lock()
		c.muteUntil = until
		c.mu.Unlock()
	case Duplicate:
		c.mu.Lock()
		c.dupUntil = until
		c.dupOnce = true
		c.mu.Unlock()
	case Garbage:
		c.send(opText, []byte(`{"e":"trade","E":17`+"\x00"))
	case Shutdown:
		c.venue.notice(c)
		c.mu.Lock()
		c.closeAt = until
		c.mu.Unlock()
	}
}
