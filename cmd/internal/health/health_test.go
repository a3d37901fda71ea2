package health

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func get(t *testing.T, b *Board, path string) (int, Report) {
	t.Helper()
	w := httptest.NewRecorder()
	b.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	var r Report
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return w.Code, r
}

func TestReadinessAndDependencies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard(t.TempDir())
		var broken atomic.Bool
		b.Add("kafka", func(context.Context) error {
			if broken.Load() {
				return errors.New("no answer")
			}
			return nil
		})
		b.Wait("sinks")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.Watch(ctx, time.Second)
		synctest.Wait()
		if code, _ := get(t, b, "/livez"); code != 200 {
			t.Errorf("livez while starting: %d", code)
		}
		if code, _ := get(t, b, "/readyz"); code != 503 {
			t.Errorf("readyz while starting: %d", code)
		}
		b.SetPhase("running")
		if code, _ := get(t, b, "/readyz"); code != 503 {
			t.Errorf("readyz while a role is not ready: %d", code)
		}
		b.Done("sinks")
		if code, r := get(t, b, "/health"); code != 200 || r.Dependencies["kafka"].Status != "up" || r.Disk == nil || r.Memory == nil {
			t.Errorf("health: %d %+v", code, r)
		}
		broken.Store(true)
		time.Sleep(1500 * time.Millisecond)
		if code, r := get(t, b, "/health"); code != 200 || r.Dependencies["kafka"].Status != "failing" {
			t.Errorf("after one failure: %d %+v", code, r)
		}
		time.Sleep(2 * time.Second)
		if code, r := get(t, b, "/health"); code != 503 || r.Dependencies["kafka"].Status != "down" || r.Dependencies["kafka"].Error != "no answer" {
			t.Errorf("after three failures: %d %+v", code, r)
		}
		broken.Store(false)
		time.Sleep(time.Second)
		if code, _ := get(t, b, "/readyz"); code != 200 {
			t.Errorf("after recovery: %d", code)
		}
		b.SetPhase("stopping")
		if code, _ := get(t, b, "/readyz"); code != 503 {
			t.Errorf("readyz while stopping: %d", code)
		}
		cancel()
		synctest.Wait()
	})
}

// What is wrong without making the process unfit for work is told and changes no code.
func TestConditionsDegrade(t *testing.T) {
	b := NewBoard(t.TempDir())
	b.SetPhase("running")
	wrong := ""
	b.AddCondition("disk", func() string { return wrong })
	b.AddCondition("halt", func() string { return "" })
	b.AddDetail("feeds", func() any { return []string{"binance"} })
	if code, r := get(t, b, "/health"); code != http.StatusOK || r.Status != "ok" || len(r.Degraded) != 0 || r.Details["feeds"] == nil {
		t.Errorf("nothing is wrong: %d %+v", code, r)
	}
	wrong = "the disk is full"
	if code, r := get(t, b, "/health"); code != http.StatusOK || r.Status != "degraded: disk" || r.Degraded["disk"] != wrong || !r.Ready {
		t.Errorf("the disk is full: %d %+v", code, r)
	}
}
