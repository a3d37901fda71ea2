package clickhouse

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/autohedge/autohedge/stream/component"
)

// Limits of the HTTP interface of the embedded engine.
const (
	// maxQueryBytes bounds the text of a statement; the data of an insert stream
	// and are not bounded.
	maxQueryBytes = 16 << 20
	// headBytes is how much of a body is read to find where an insert's data begin.
	headBytes = 1 << 20
	// appendBytes is the size of the pieces in which an insert's data reach the
	// engine.
	appendBytes = 1 << 20
	// maxDrainBytes and drainTimeout bound what is still read of a refused request.
	maxDrainBytes = 256 << 20
	drainTimeout  = 30 * time.Second
	// maxWaiting bounds the requests that wait for a connection.
	maxWaiting = 256
)

// credential is one that a client may give to be an owner.
type credential struct {
	User     string `json:"user"`
	Password string `json:"password"`
}

// server answers ClickHouse's HTTP interface from the engine in this process.
type server struct {
	pool *pool
	log  *slog.Logger
	// credentials make a client an owner. Without any everybody is one.
	credentials []credential
	// openReads lets clients without a credential read.
	openReads bool
	access    *access
	host      string
	timezone  string
	waiting   atomic.Int64
}

func newServer(p *pool, log *slog.Logger, cfg *childConfig) (*server, error) {
	s := &server{pool: p, log: log, credentials: cfg.Credentials, openReads: cfg.OpenReads}
	s.host, _ = os.Hostname()
	c, err := p.acquire(context.Background(), ownSlots)
	if err != nil {
		return nil, err
	}
	defer p.release(c, false)
	if s.access, err = newAccess(c, readerLimits{seconds: cfg.ReaderSeconds, memory: cfg.ReaderMemory}); err != nil {
		return nil, err
	}
	tz, _, err := c.query("SELECT timezone()", "TabSeparatedRaw", nil)
	if err != nil {
		return nil, fmt.Errorf("asking for the engine's time zone: %w", err)
	}
	s.timezone = strings.TrimSpace(string(tz))
	return s, nil
}

// ServeHTTP answers one request.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := component.CheckBrowser(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	switch r.URL.Path {
	case "/ping", "/replicas_status":
		_, _ = io.WriteString(w, "Ok.\n")
	case "/":
		s.serveQuery(w, r)
	default:
		http.Error(w, "There is no handle "+r.URL.Path+"\n\nUse / or /ping for health checks.\nOr use '/?query=' to run a query.", http.StatusNotFound)
	}
}

func loopbackName(h string) bool { return component.IsLoopback(h) }

// request is one statement on its way through the server.
type request struct {
	w        *output
	r        *http.Request
	values   url.Values
	id       string
	db       string
	format   string // the default one
	settings []param
	params   []param
	comment  string // the log_comment it runs under
	start    time.Time
	who      role
	slots    slotClass
}

// reserved are the URL parameters that are no settings.
var reserved = map[string]bool{
	"query": true, "database": true, "default_format": true, "user": true, "password": true, "quota_key": true,
	"session_id": true, "session_timeout": true, "session_check": true, "close_session": true, "query_id": true, "role": true,
	"stacktrace": true, "compress": true, "decompress": true, "buffer_size": true, "wait_end_of_query": true,
	"client_protocol_version": true, "readonly": true, "http_write_exception_in_output_format": true,
}

func (s *server) serveQuery(w http.ResponseWriter, r *http.Request) {
	q := &request{r: r, values: r.URL.Query(), start: time.Now()}
	q.id = q.values.Get("query_id")
	if q.id == "" {
		q.id = randomUUID()
	}
	out := newOutput(w, r, q.values)
	q.w = out
	h := w.Header()
	h.Set("X-ClickHouse-Query-Id", q.id)
	h.Set("X-ClickHouse-Server-Display-Name", s.host)
	h.Set("X-ClickHouse-Timezone", s.timezone)
	err := s.query(q)
	if err == nil {
		err = out.close()
	}
	if err != nil {
		s.answerError(q, err)
	}
}

func (s *server) query(q *request) error {
	if err := s.authenticate(q); err != nil {
		return err
	}
	if err := q.readParameters(); err != nil {
		return err
	}
	body, err := decodeBody(q.r, q.values)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // a reader
	text, rest, err := readStatement(q.values.Get("query"), body)
	if err != nil {
		return err
	}
	if text == "" && rest == nil && !q.values.Has("query") {
		_, err := io.WriteString(q.w.plain(), "Ok.\n")
		return err
	}
	st := parseStatement(text)
	if st.empty {
		return exceptionf(codeSyntax, "SYNTAX_ERROR", "Syntax error: Empty query")
	}
	if q.hello(st.head) {
		return s.answerHello(q)
	}
	if n := s.waiting.Add(1); n > maxWaiting {
		s.waiting.Add(-1)
		return exceptionf(codeTooManyQueries, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many simultaneous queries. Maximum: %d", maxWaiting)
	}
	c, err := s.pool.acquire(q.r.Context(), q.slots)
	s.waiting.Add(-1)
	if err != nil {
		return fmt.Errorf("waiting for a connection: %w", err)
	}
	tainted := true
	defer func() { s.pool.release(c, tainted) }()
	if err := c.use(q.db); err != nil {
		tainted = false
		return err
	}
	if err := s.checkAccess(q, c, st); err != nil {
		tainted = false
		return err
	}
	if err := c.set(q.settings); err != nil {
		return err
	}
	if q.who == reader {
		// The bytes of an answer must get on: a client that reads slowly, or not at all,
		// holds a connection of the engine.
		_ = http.NewResponseController(q.w.w).SetWriteDeadline(time.Now().Add(time.Duration(s.access.limits.seconds)*time.Second + slowReaderGrace))
	}
	keep, err := s.run(q, c, st, text, rest)
	tainted = !keep || c.reset(q.settings, s.pool.initial) != nil
	return err
}

// slowReaderGrace is how long an answer may be written beyond the time that computing
// it may take.
const slowReaderGrace = 30 * time.Second

// checkAccess refuses what the client may not do: the statement in the form in which
// the engine's own parser reads it, and the settings of the request.
func (s *server) checkAccess(q *request, c *conn, st statement) error {
	for _, setting := range q.settings {
		if err := s.access.checkSetting(strings.ToLower(setting.name), setting.value, q.who); err != nil {
			return err
		}
	}
	head := st.head
	if st.insert { // its data are not there yet, and no part of what is judged
		head += " FORMAT Null"
	}
	text, err := canonical(c, head)
	if err != nil {
		return err
	}
	if err := s.access.check(text, q.who); err != nil {
		return err
	}
	if q.who == reader {
		given := make(map[string]bool)
		for _, setting := range q.settings {
			given[setting.name] = true
		}
		for _, bound := range []param{{"max_execution_time", strconv.FormatInt(s.access.limits.seconds, 10)}, {"max_memory_usage", strconv.FormatInt(s.access.limits.memory, 10)}} {
			if !given[bound.name] {
				q.settings = append(q.settings, bound)
			}
		}
	}
	return nil
}

// run executes the statement; keep tells whether the connection's session is
// still as it was.
func (s *server) run(q *request, c *conn, st statement, text string, rest io.Reader) (keep bool, err error) {
	stop := s.killWhenGone(q)
	defer stop()
	if st.insert {
		if q.r.Method == http.MethodGet || q.r.Method == http.MethodHead || q.readonly() {
			return true, readonlyError("an INSERT")
		}
		data := io.Reader(strings.NewReader(text[st.data:]))
		if rest != nil {
			data = io.MultiReader(data, rest)
		}
		return s.insert(q, c, st, data)
	}
	class, count := c.api.analyse(c.h, st.head)
	if count > 1 {
		return true, exceptionf(codeSyntax, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed): %.200s", st.head)
	}
	if count == 1 && class != classReadOnly && (q.r.Method == http.MethodGet || q.r.Method == http.MethodHead || q.readonly()) {
		return true, readonlyError("this statement")
	}
	return class == classReadOnly || class == classMutating, s.answer(q, c, st)
}

func readonlyError(what string) error {
	return exceptionf(codeReadonly, "READONLY", "Cannot execute query in readonly mode: %s changes something. For queries over HTTP, method GET implies readonly. You should use method POST for modifying queries.", what)
}

// killWhenGone cancels the statement when its client hangs up. The returned
// function ends the watch.
func (s *server) killWhenGone(q *request) (stop func()) {
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		select {
		case <-q.r.Context().Done():
			s.pool.kill(q.comment)
		case <-done:
		}
	}()
	return func() { close(done); <-finished }
}

// insert streams the data of an INSERT into the engine and acknowledges it.
func (s *server) insert(q *request, c *conn, insert statement, data io.Reader) (keep bool, err error) {
	format := insert.format
	if format == "" {
		if format = q.values.Get("default_format"); format == "" {
			format = "Values"
		}
	}
	stream, err := c.insert(insert.head, format, q.params)
	if err != nil {
		return true, err
	}
	defer stream.close()
	buf := make([]byte, appendBytes)
	for {
		n, end, err := readFull(data, buf)
		if err != nil { // the client broke off: nothing of it may be acknowledged
			stream.cancel()
			return false, fmt.Errorf("reading the data: %w", err)
		}
		if err := stream.append(buf[:n]); err != nil {
			return true, err
		}
		if end {
			break
		}
	}
	st, err := stream.done()
	if err != nil {
		return true, err
	}
	q.w.header(q, format, st)
	return true, nil
}

// answer runs any other statement and writes what it returns.
func (s *server) answer(q *request, c *conn, st statement) error {
	format := st.format
	if format == "" {
		format = q.format
	}
	// The engine streams SELECT only.
	selects := st.verb == "SELECT" || st.verb == "WITH" || st.verb == "("
	streaming := selects && !st.totals && streamable[strings.ToLower(format)] && q.values.Get("wait_end_of_query") != "1"
	result := c.start(st.head, format, q.params, streaming)
	if result == nil {
		return exceptionf(codeLogical, "LOGICAL_ERROR", "the engine returned no result")
	}
	defer c.api.destroyResult(result)
	if !streaming {
		if msg := c.api.resultError(result); msg != "" {
			return parseException(msg)
		}
		q.w.header(q, format, c.api.stats(result))
		_, err := q.w.Write(c.api.bytes(result))
		return err
	}
	if msg := c.api.resultError(result); msg != "" {
		return parseException(msg)
	}
	for first := true; ; first = false {
		chunk := c.api.fetch(c.h, result)
		if chunk == nil {
			return exceptionf(codeLogical, "LOGICAL_ERROR", "the engine returned no piece of the result")
		}
		more, err := s.writeChunk(q, c, chunk, format, first)
		c.api.destroyResult(chunk)
		if err != nil {
			c.api.cancelQuery(c.h, result)
			return err
		}
		if !more {
			return nil
		}
	}
}

func (s *server) writeChunk(q *request, c *conn, chunk resultPtr, format string, first bool) (more bool, err error) {
	if msg := c.api.resultError(chunk); msg != "" {
		return false, parseException(msg)
	}
	data := c.api.bytes(chunk)
	if first {
		q.w.header(q, format, c.api.stats(chunk))
	}
	if len(data) == 0 {
		return false, nil
	}
	_, err = q.w.Write(data)
	return true, err
}

// streamable are the formats whose pieces can be sent one after the other. The
// engine writes every piece of any other as a document of its own.
var streamable = map[string]bool{
	"native": true, "tabseparated": true, "tsv": true, "tabseparatedraw": true, "tsvraw": true, "raw": true, "csv": true,
	"jsoneachrow": true, "jsonlines": true, "ndjson": true, "jsonstringseachrow": true, "jsoncompacteachrow": true,
	"jsoncompactstringseachrow": true, "rowbinary": true, "tskv": true, "lineasstring": true, "null": true,
}

// readerHeader says that a client that has a credential reads for people: it takes the
// connections of readers, so that none of the writer's is held.
const readerHeader = "X-Autohedge-Reader"

// authenticate finds out who the client is.
func (s *server) authenticate(q *request) error {
	q.who, q.slots = owner, ownSlots
	if q.r.Header.Get(readerHeader) != "" {
		q.slots = readerSlots
	}
	if len(s.credentials) == 0 {
		return nil
	}
	user, password, given := q.r.BasicAuth()
	if u := q.r.Header.Get("X-ClickHouse-User"); u != "" {
		user, password, given = u, q.r.Header.Get("X-ClickHouse-Key"), true
	}
	if q.values.Has("user") || q.values.Has("password") {
		user, password, given = q.values.Get("user"), q.values.Get("password"), true
	}
	for _, c := range s.credentials {
		if sameText(user, c.User)&sameText(password, c.Password) == 1 {
			return nil
		}
	}
	// Clients send "default" without a password where they are told nothing.
	if s.openReads && (!given || password == "" && (user == "" || user == "default")) {
		q.who, q.slots = reader, readerSlots
		return nil
	}
	return exceptionf(codeAuthentication, "AUTHENTICATION_FAILED", "%.64s: Authentication failed: password is incorrect, or there is no user with such name.", user)
}

// sameText compares in a time that does not depend on the texts.
func sameText(a, b string) int {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:])
}

// readParameters sorts the URL's parameters into settings, query parameters and
// the interface's own.
func (q *request) readParameters() error {
	if strings.HasPrefix(q.r.Header.Get("Content-Type"), "multipart/form-data") {
		if err := q.readForm(); err != nil {
			return err
		}
	}
	// A session_id is accepted and holds nothing: some clients send one with every
	// request, and need neither temporary tables nor settings to outlive it.
	q.db = q.values.Get("database")
	if q.db == "" {
		q.db = q.r.Header.Get("X-ClickHouse-Database")
	}
	q.format = q.values.Get("default_format")
	if q.format == "" {
		if q.format = q.r.Header.Get("X-ClickHouse-Format"); q.format == "" {
			q.format = "TabSeparated"
		}
	}
	for name, v := range q.values {
		switch {
		case strings.HasPrefix(name, "param_"):
			q.params = append(q.params, param{strings.TrimPrefix(name, "param_"), v[len(v)-1]})
		case name == "log_comment":
			q.comment = v[len(v)-1]
		case !reserved[name] && name != "":
			q.settings = append(q.settings, param{name, v[len(v)-1]})
		}
	}
	// The comment is what a statement is killed by when its client hangs up: it must be
	// this statement's alone, whatever the client calls it.
	q.comment = strings.TrimSpace(q.comment + " " + q.id + " " + randomUUID())
	q.settings = append(q.settings, param{"log_comment", q.comment})
	return nil
}

// maxForm bounds the parameters that come as a form.
const maxForm = 16 << 20

// readForm takes parameters that come as a multipart form, as clients send those that are
// too long for a URL. A part that is a file is an external table, which nothing here keeps.
func (q *request) readForm() error {
	form, err := q.r.MultipartReader()
	left, parts := int64(maxForm), 0
	for ; err == nil; parts++ {
		var part *multipart.Part
		if part, err = form.NextPart(); err != nil {
			break
		}
		if part.FileName() != "" {
			return exceptionf(codeNotImplemented, "NOT_IMPLEMENTED", "External tables (file %.32q of the form) are not supported by the embedded engine: join with values, or insert them into a table of your own", part.FileName())
		}
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(part, left+1)); int64(len(text)) > left {
			return exceptionf(codeBadArguments, "BAD_ARGUMENTS", "The form is longer than %d bytes", maxForm)
		}
		left -= int64(len(text))
		q.values.Set(part.FormName(), string(text))
	}
	if !errors.Is(err, io.EOF) || parts == 0 {
		return exceptionf(codeBadArguments, "BAD_ARGUMENTS", "Reading the form: %v", err)
	}
	q.r.Body = http.NoBody
	q.r.Header.Del("Content-Encoding")
	return nil
}

func (q *request) readonly() bool {
	v := q.values.Get("readonly")
	return v != "" && v != "0"
}

// helloQuery is the first query of clickhouse-go on a connection. It reads the
// answer at its own protocol revision and everything after it at the revision
// that the answer names. The engine writes Native blocks at revision 0, so that
// is what the answer says.
const helloQuery = "SELECT displayName(), version(), revision(), timezone()"

func (q *request) hello(text string) bool {
	return text == helloQuery && strings.EqualFold(q.format, "Native") && q.values.Get("client_protocol_version") != ""
}

func (s *server) answerHello(q *request) error {
	revision, err := strconv.Atoi(q.values.Get("client_protocol_version"))
	if err != nil || revision < 0 {
		return exceptionf(codeBadArguments, "BAD_ARGUMENTS", "client_protocol_version must be a number")
	}
	var name, version, tz proto.ColStr
	name.Append(s.host)
	version.Append(EngineVersion)
	tz.Append(s.timezone)
	rev := proto.ColUInt32{0}
	var buf proto.Buffer
	err = proto.Block{Info: proto.BlockInfo{BucketNum: -1}, Columns: 4, Rows: 1}.EncodeBlock(&buf, revision, []proto.InputColumn{
		{Name: "displayName()", Data: name}, {Name: "version()", Data: version}, {Name: "revision()", Data: rev}, {Name: "timezone()", Data: tz},
	})
	if err != nil {
		return fmt.Errorf("encoding the hello block: %w", err)
	}
	q.w.header(q, "Native", stats{resultRows: 1})
	_, err = q.w.Write(buf.Buf)
	return err
}

// answerError writes an exception as ClickHouse does.
func (s *server) answerError(q *request, err error) {
	if errors.Is(err, context.Canceled) || q.r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody listens; returning would answer 200
	}
	var ex *Exception
	if !errors.As(err, &ex) {
		ex = exceptionf(codeLogical, "LOGICAL_ERROR", "%v", err)
		if errors.Is(err, errPoolClosed) {
			ex = exceptionf(codeAborted, "ABORTED", "%v", err)
		}
	}
	text := ex.Message
	if !strings.Contains(text, "(version ") {
		text += " (version " + EngineVersion + ")"
	}
	if q.w.wrote {
		q.w.breakOff(text)
		return
	}
	// A client that still sends its data would see a broken connection instead of
	// the answer.
	_ = http.NewResponseController(q.w.w).SetReadDeadline(time.Now().Add(drainTimeout))
	_, _ = io.CopyN(io.Discard, q.r.Body, maxDrainBytes)
	h := q.w.w.Header()
	h.Del("Content-Encoding")
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("X-ClickHouse-Exception-Code", strconv.Itoa(ex.Code))
	q.w.w.WriteHeader(httpStatus(ex.Code))
	_, _ = io.WriteString(q.w.w, text+"\n")
}

func randomUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	x := hex.EncodeToString(b[:])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}
