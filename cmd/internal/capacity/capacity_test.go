package capacity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fill writes n bytes into a room.
func fill(t *testing.T, dir, name string, n int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), make([]byte, n), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMeasure(t *testing.T) {
	root := t.TempDir()
	kafka, store := filepath.Join(root, "kafka"), filepath.Join(root, "clickhouse")
	free := int64(10 << 30)
	m := NewMeter(root, 100<<20, []Room{{"kafka", kafka}, {"clickhouse", store}, {"spill", filepath.Join(root, "spill")}})
	m.free = func(string) (int64, error) { return free, nil }
	at := time.Unix(1e9, 0)
	measure := func() Usage {
		t.Helper()
		u, err := m.Measure(at)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	u := measure()
	if u.Used != 0 || u.Full != "" || u.HoursLeft != nil || u.Limit != 100<<20 {
		t.Errorf("an empty folder: %+v", u)
	}
	fill(t, kafka, "a", 10<<20)
	fill(t, filepath.Join(store, "deep", "er"), "b", 40<<20)
	at = at.Add(2 * time.Minute)
	if u = measure(); u.Used < 50<<20 || u.Used > 51<<20 || u.Rooms["clickhouse"] < 40<<20 || u.Full != "" {
		t.Errorf("after 50 MiB: %+v", u)
	}
	// 50 MiB in two minutes: the other half lasts two more.
	if u.HoursLeft == nil || *u.HoursLeft < 1.9/60 || *u.HoursLeft > 2.1/60 {
		t.Errorf("hours left: %v", u.HoursLeft)
	}
	if text := u.String(); !strings.HasPrefix(text, "50.0 MiB of 100.0 MiB (clickhouse 40.0 MiB, kafka 10.0 MiB)") {
		t.Errorf("in a line: %s", text)
	}
	fill(t, kafka, "c", 44<<20)
	if u = measure(); u.Full != "" {
		t.Errorf("at 94 %%: %s", u.Full)
	}
	fill(t, kafka, "d", 1<<20)
	u = measure()
	for _, want := range []string{root, "takes 95.0 MiB of the 100.0 MiB that data_max_bytes allows", "most of it kafka with 55.0 MiB", "then resume"} {
		if !strings.Contains(u.Full, want) {
			t.Errorf("at 95 %%: %q does not say %q", u.Full, want)
		}
	}
	if m.Last().Full != u.Full {
		t.Error("the last measurement is another")
	}
	m.max = 0
	if u = measure(); u.Limit != int64(0.8*float64(free+u.Used)) || u.Full != "" {
		t.Errorf("without a budget: %+v", u)
	}
	free = 1 << 20
	if u = measure(); !strings.Contains(u.Full, "the disk of "+root+" is full: 1.0 MiB free, most of it kafka") {
		t.Errorf("a full disk: %q", u.Full)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1 << 62: "4.0 EiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}
