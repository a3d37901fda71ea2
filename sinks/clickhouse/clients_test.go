package clickhouse

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// TestLZ4Bodies: the Python client compresses what it inserts as LZ4 frames by default.
func TestLZ4Bodies(t *testing.T) {
	e := sharedEngine(t)
	var body bytes.Buffer
	z := lz4.NewWriter(&body)
	if _, err := z.Write([]byte(strings.Repeat("SELECT 1 + ", 10_000) + "1")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if a := call(t, http.MethodPost, address(e, "max_parser_depth", "0", "max_ast_depth", "0"), bytes.NewReader(body.Bytes()[:40]), "Content-Encoding", "lz4"); a.status == http.StatusOK {
		t.Errorf("a body that breaks off: %d %.200s", a.status, a.body)
	}
	body.Reset()
	z.Reset(&body)
	if _, err := z.Write([]byte("SELECT 'lz4'")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if a := call(t, http.MethodPost, address(e), &body, "Content-Encoding", "lz4"); a.status != http.StatusOK || a.body != "lz4\n" {
		t.Errorf("%d %.200s", a.status, a.body)
	}
	if a := call(t, http.MethodPost, address(e), strings.NewReader("SELECT 1"), "Content-Encoding", "lz4"); a.status == http.StatusOK || strings.Contains(a.body, "panic") {
		t.Errorf("a body that is no lz4: %d %.200s", a.status, a.body)
	}
}

// TestForms: parameters that are too long for a URL come as a multipart form; a file in it
// is an external table, which is refused by name.
func TestForms(t *testing.T) {
	e := sharedEngine(t)
	form := func(size int, file bool) (*bytes.Buffer, string) {
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		for name, value := range map[string]string{"query": "SELECT length({x:String}), {n:UInt8}", "param_x": strings.Repeat("a", size), "param_n": "7"} {
			if err := w.WriteField(name, value); err != nil {
				t.Fatal(err)
			}
		}
		if file {
			p, err := w.CreateFormFile("ext", "ext.tsv")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Write([]byte("1\t2\n")); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &body, w.FormDataContentType()
	}
	body, kind := form(200_000, false)
	if a := call(t, http.MethodPost, address(e), body, "Content-Type", kind); a.status != http.StatusOK || a.body != "200000\t7\n" {
		t.Errorf("%d %.200s", a.status, a.body)
	}
	body, kind = form(10, true)
	if a := call(t, http.MethodPost, address(e), body, "Content-Type", kind); a.status == http.StatusOK || !strings.Contains(a.body, "ext.tsv") {
		t.Errorf("an external table: %d %.200s", a.status, a.body)
	}
	body, kind = form(maxForm, false)
	if a := call(t, http.MethodPost, address(e), body, "Content-Type", kind); a.status == http.StatusOK {
		t.Errorf("a form without end: %d", a.status)
	}
	if a := call(t, http.MethodPost, address(e), strings.NewReader("no form"), "Content-Type", kind); a.status == http.StatusOK || !strings.Contains(a.body, "form") {
		t.Errorf("what is no form: %d %.200s", a.status, a.body)
	}
}
