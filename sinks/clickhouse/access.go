package clickhouse

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// role is what a client of the embedded engine may do.
type role uint8

const (
	// reader has given no credential: it reads the product's tables but the guarded
	// ones, within bounds.
	reader role = iota + 1
	// owner has given one: it may do all that the port allows at all.
	owner
)

// guarded are the tables that hold what money and secrets hang on: readers without a
// credential do not see them.
var guarded = []string{"journal", "control"}

// tableFunctions are those that reach nothing but this engine's memory. Every other
// one that the engine knows is refused to everybody: files, URLs, other servers.
var tableFunctions = map[string]bool{
	"numbers": true, "numbers_mt": true, "zeros": true, "zeros_mt": true, "values": true, "sqlstandardvalues": true, "view": true, "viewexplain": true,
	"generaterandom": true, "generateseries": true, "generate_series": true, "null": true, "input": true, "format": true, "primes": true,
}

// scalarFunctions reach files or models although they are no table functions.
var scalarFunctions = []string{"file", "catboostevaluate", "modelevaluate", "executable", "reversednsquery"}

// tableEngines are those whose data are in the data folder or in memory.
var tableEngines = []string{"memory", "null", "log", "tinylog", "stripelog", "set", "join", "view", "materializedview", "atomic"}

// readerVerbs begin the statements that change nothing, as the engine writes them.
var readerVerbs = []string{"SELECT", "WITH", "SHOW", "DESCRIBE", "EXISTS", "EXPLAIN", "("}

// access judges statements. The text that it judges is the engine's own: what the
// engine's parser makes of the client's, so that neither comments nor quotes nor
// escapes hide anything.
type access struct {
	// refused are the functions that nobody may call, in lower case.
	refused map[string]bool
	limits  readerLimits
}

// readerLimits bound one statement of a client without a credential.
type readerLimits struct {
	seconds int64
	memory  int64
}

// newAccess asks the engine which table functions it has.
func newAccess(c *conn, limits readerLimits) (*access, error) {
	out, _, err := c.query("SELECT lower(name) FROM system.table_functions", "TabSeparatedRaw", nil)
	if err != nil {
		return nil, fmt.Errorf("asking for the engine's table functions: %w", err)
	}
	a := &access{refused: make(map[string]bool), limits: limits}
	for name := range strings.FieldsSeq(string(out)) {
		if !tableFunctions[name] {
			a.refused[name] = true
		}
	}
	for _, name := range scalarFunctions {
		a.refused[name] = true
	}
	if !a.refused["file"] || !a.refused["url"] || !a.refused["remote"] {
		return nil, fmt.Errorf("asking for the engine's table functions: %d came, not the known ones", len(a.refused))
	}
	return a, nil
}

// canonical returns the statement as the engine's parser reads it, in one line.
func canonical(c *conn, sql string) (string, error) {
	out, _, err := c.query("SELECT formatQuerySingleLine({q:String})", "TabSeparatedRaw", []param{{"q", escapeParam(sql)}})
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// escapeParam writes a text as the engine reads the value of a query parameter.
func escapeParam(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`).Replace(s)
}

func denied(format string, args ...any) error {
	return exceptionf(codeAccessDenied, "ACCESS_DENIED", format, args...)
}

// check refuses a statement, in its canonical form, that the client may not run.
func (a *access) check(text string, who role) error {
	tokens := lexAll(text)
	if len(tokens) == 0 {
		return nil
	}
	if who == reader && !slices.Contains(readerVerbs, tokens[0].word) {
		return denied("%s needs the credential of run/clickhouse.json, or clickhouse.user and clickhouse.password: without one the tables can only be read", tokens[0].word)
	}
	switch verb, next := tokens[0].word, word(tokens, 1); {
	case verb == "ATTACH", verb == "BACKUP", verb == "RESTORE", verb == "IMPORT":
		return denied("%s is not available on the embedded engine", verb)
	case (verb == "CREATE" || verb == "ALTER") && (next == "DICTIONARY" || next == "NAMED" || next == "USER" || next == "WORKLOAD" || next == "RESOURCE"):
		return denied("%s %s is not available on the embedded engine", verb, next)
	}
	inFrom := make(map[int]bool) // by depth: the list of tables of a SELECT
	for i, t := range tokens {
		name := strings.ToLower(unquoteIdent(t))
		next, previous := word(tokens, i+1), word(tokens, i-1)
		switch {
		case isIdentifier(t) && next == "(" && a.refused[name]:
			return denied("function %s is not available on the embedded engine: it reaches files or other servers", name)
		case t.word == "OUTFILE" && previous == "INTO", t.word == "INFILE" && previous == "FROM":
			return denied("%s %s is not available on the embedded engine", previous, t.word)
		case t.word == "ENGINE" && next == "=" && !allowedEngine(strings.ToLower(unquoteIdent(at(tokens, i+2)))):
			return denied("table engine %s is not available on the embedded engine: its data would be elsewhere", unquoteIdent(at(tokens, i+2)))
		case t.word == "IDENTIFIER" && previous == ":" && who == reader:
			return denied("a parameter of type Identifier needs the credential of run/clickhouse.json")
		}
		if err := a.checkClause(tokens, i, who, inFrom); err != nil {
			return err
		}
	}
	return nil
}

// checkClause follows FROM lists and SETTINGS clauses.
func (a *access) checkClause(tokens []token, i int, who role, inFrom map[int]bool) error {
	t := tokens[i]
	switch t.word {
	case "FROM", "JOIN":
		inFrom[t.depth] = true
		return nil
	case "SELECT", "WHERE", "PREWHERE", "GROUP", "HAVING", "QUALIFY", "WINDOW", "ORDER", "LIMIT", "OFFSET", "UNION", "EXCEPT", "INTERSECT", "ON", "USING", ")":
		inFrom[t.depth] = false
		return nil
	case "SETTINGS":
		if word(tokens, i+2) == "=" {
			return a.checkSettings(tokens[i+1:], who)
		}
	}
	if who != reader || !isIdentifier(t) || !slices.Contains(guarded, unquoteIdent(t)) {
		return nil
	}
	if first := tokens[0].word; inFrom[t.depth] || first == "SHOW" || first == "DESCRIBE" || first == "EXISTS" || isSetOfIn(tokens, i) {
		return denied("table %s needs the credential of run/clickhouse.json, or clickhouse.user and clickhouse.password", unquoteIdent(t))
	}
	return nil
}

// isSetOfIn reports whether the name at i, with or without its database, is the table
// behind an IN.
func isSetOfIn(tokens []token, i int) bool {
	if word(tokens, i-1) == "." {
		i -= 2
	}
	for i--; word(tokens, i) == "("; i-- {
	}
	return word(tokens, i) == "IN"
}

// checkSettings judges a SETTINGS clause: name = value, name = value ...
func (a *access) checkSettings(tokens []token, who role) error {
	for len(tokens) >= 3 && tokens[1].word == "=" {
		value := strings.Trim(tokens[2].word, "'")
		if err := a.checkSetting(strings.ToLower(unquoteIdent(tokens[0])), value, who); err != nil {
			return err
		}
		tokens = tokens[3:]
		if len(tokens) == 0 || tokens[0].word != "," {
			return nil
		}
		tokens = tokens[1:]
	}
	return nil
}

// settingPrefixes are those of the settings that a reader may give: how an answer is
// written and how it is computed.
var settingPrefixes = []string{
	"output_format_", "input_format_", "format_csv_", "format_regexp", "date_time_", "join_", "group_by_", "distinct_", "aggregate_functions_", "cast_", "count_",
	"optimize_", "max_", "min_", "use_", "enable_", "allow_experimental_", "query_plan_", "function_", "transform_", "any_join_", "union_", "except_", "intersect_",
	"result_overflow_", "read_overflow_", "timeout_overflow_", "sort_overflow_", "set_overflow_", "extremes", "readonly", "session_timezone", "final", "asterisk_",
	"prefer_", "apply_", "convert_", "compile_", "send_progress", "http_headers_progress", "http_write_exception", "cancel_http_readonly", "wait_end_of_query", "log_queries",
	"log_comment", "totals_mode", "empty_result_", "skip_unused_", "select_sequential_consistency", "short_circuit_", "default_", "describe_", "show_", "unknown_packet",
	"wait_for_async", "async_insert", "insert_", "data_type_default", "flatten_nested", "parallel_", "priority", "buffer_size",
}

// settingsRefused name files and other servers, or undo a bound, wherever they occur in
// a setting's name.
var settingsRefused = []string{"schema", "engine_file", "s3_", "azure", "hdfs", "url", "backup", "template", "rows_template", "remote_", "_user", "filesystem_cache", "proxy"}

// checkSetting refuses what reaches beyond the engine to everybody, and to readers what
// is not known to be harmless, or would undo their bounds.
func (a *access) checkSetting(name, value string, who role) error {
	for _, part := range settingsRefused {
		if strings.Contains(name, part) {
			return denied("setting %s is not available on the embedded engine", name)
		}
	}
	if who == owner {
		return nil
	}
	if !slices.ContainsFunc(settingPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
		return denied("setting %s needs the credential of run/clickhouse.json", name)
	}
	bound := map[string]int64{"max_execution_time": a.limits.seconds, "max_memory_usage": a.limits.memory, "max_memory_usage_for_user": a.limits.memory}[name]
	if bound == 0 {
		return nil
	}
	if n, err := strconv.ParseFloat(value, 64); err != nil || !(n > 0 && n <= float64(bound)) || math.IsInf(n, 0) {
		return denied("setting %s is %q: want more than 0, at most %d, or the credential of run/clickhouse.json", name, value, bound)
	}
	return nil
}

func allowedEngine(name string) bool {
	return slices.Contains(tableEngines, name) || strings.HasSuffix(name, "mergetree")
}

// lexAll returns the tokens of a canonical text.
func lexAll(text string) []token {
	var list []token
	for lx := (lexer{s: text}); ; {
		t, ok := lx.next()
		if !ok {
			return list
		}
		list = append(list, t)
	}
}

func at(tokens []token, i int) token {
	if i < 0 || i >= len(tokens) {
		return token{}
	}
	return tokens[i]
}

func word(tokens []token, i int) string { return at(tokens, i).word }

// isIdentifier reports whether a token can be a name.
func isIdentifier(t token) bool {
	return t.word != "" && (t.quoted && t.word[0] != '\'' || !t.quoted && isWordByte(t.word[0]))
}

// unquoteIdent returns the name that a token writes; the canonical form quotes with
// backticks and escapes with a backslash. A bare word keeps its letters' case only in
// the text, so that it comes in lower case.
func unquoteIdent(t token) string {
	if !t.quoted {
		return strings.ToLower(t.word)
	}
	inner := strings.Trim(t.word, "`\"")
	return strings.NewReplacer("\\`", "`", `\\`, `\`).Replace(inner)
}
