package clickhouse

import "strings"

// quote writes a string literal of ClickHouse's SQL.
func quote(s string) string {
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte('\'')
	for i := range len(s) {
		switch c := s[i]; c {
		case '\\', '\'':
			b.WriteByte('\\')
			b.WriteByte(c)
		case 0:
			b.WriteString(`\0`)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// quoteIdent writes an identifier.
func quoteIdent(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(s) + "`"
}

// statement is what the HTTP interface must know of a statement's text: whether
// data follow it, and in which format it answers. The engine's own parser judges
// everything else.
type statement struct {
	// insert says that the text is an INSERT with data: INSERT INTO t (a, b)
	// FORMAT X, VALUES, or neither.
	insert bool
	// head is the statement without FORMAT clause and without data.
	head string
	// format is the one that the text names, or empty.
	format string
	// data is the offset in the text where the data of an insert begin.
	data int
	// totals says that WITH TOTALS occurs, whose output is no plain list of rows.
	totals bool
	// killSync is where the SYNC of a KILL begins, or 0.
	killSync int
	empty    bool
	// verb is the first word, in upper case.
	verb string
}

// token is one lexical element; text is in upper case for bare words only.
type token struct {
	word       string
	start, end int
	depth      int
	quoted     bool
}

// parseStatement scans a statement. The text may be cut off in the middle of an
// insert's data.
func parseStatement(sql string) statement {
	var (
		st     statement
		first  token
		n      int
		prev   token
		fmtTok token // the FORMAT keyword
		fmtEnd int
	)
	st.data = len(sql)
	lx := lexer{s: sql}
	for {
		t, ok := lx.next()
		if !ok {
			break
		}
		if n++; n == 1 {
			first = t
			st.verb = t.word
		}
		if t.depth == 0 && first.word == "INSERT" && n > 1 {
			switch {
			case prev.word == "FORMAT" && !prev.quoted && prev.start == fmtTok.start && fmtTok.word != "" && t.name():
				st.insert, st.format, st.head = true, sql[t.start:t.end], sql[:fmtTok.start]
				st.data = skipToData(sql, t.end)
				return st
			case t.word == "VALUES" && n > 3:
				st.insert, st.format, st.head = true, "Values", sql[:t.start]
				st.data = t.end
				return st
			case (t.word == "SELECT" || t.word == "WITH" || t.word == "WATCH") && n > 3:
				first.word = "INSERT SELECT"
			case t.word == "FROM" && n > 3: // FROM INFILE
				first.word = "INSERT FROM"
			}
		}
		if t.depth == 0 && t.word == "FORMAT" && !t.quoted && n > 1 && (first.word != "INSERT" || n > 3) {
			fmtTok = t
		} else if t.depth == 0 && prev.word == "FORMAT" && prev.start == fmtTok.start && fmtTok.word != "" && t.name() && first.word != "INSERT" {
			st.format, fmtEnd = sql[t.start:t.end], t.end
		} else if st.format != "" && t.depth == 0 && t.word != "SETTINGS" && t.word != ";" && fmtEnd > 0 && prev.end == fmtEnd {
			// Something else follows: that FORMAT was a name.
			st.format, fmtEnd = "", 0
		}
		if t.word == "TOTALS" && prev.word == "WITH" {
			st.totals = true
		}
		if first.word == "KILL" && t.word == "SYNC" {
			st.killSync = t.start
		}
		prev = t
	}
	if n == 0 {
		st.empty = true
		return st
	}
	if first.word == "INSERT" { // no data clause: the data follow in the default format
		st.insert = true
		st.head = strings.TrimRight(sql, "; \t\r\n")
		return st
	}
	st.head = sql
	if st.format != "" {
		st.head = sql[:fmtTok.start] + sql[fmtEnd:]
	}
	if st.killSync > 0 {
		st.head = sql[:st.killSync] + "ASYNC" + sql[st.killSync+len("SYNC"):]
	}
	return st
}

// skipToData skips what ClickHouse skips between a format's name and the data:
// blanks, and one line end.
func skipToData(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\f') {
		i++
	}
	if i < len(s) && s[i] == '\r' {
		i++
	}
	if i < len(s) && s[i] == '\n' {
		i++
	}
	return i
}

// name reports whether the token can be a format's name.
func (t token) name() bool { return t.word != "" && (t.quoted || isWordByte(t.word[0])) }

// lexer splits SQL into tokens, without comments.
type lexer struct {
	s     string
	i     int
	depth int
}

func isWordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func (l *lexer) next() (token, bool) {
	s := l.s
	for l.i < len(s) {
		c := s[l.i]
		start := l.i
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			l.i++
			continue
		case strings.HasPrefix(s[l.i:], "--") || strings.HasPrefix(s[l.i:], "#!") || strings.HasPrefix(s[l.i:], "# "):
			l.i = indexFrom(s, l.i, "\n")
			continue
		case strings.HasPrefix(s[l.i:], "/*"):
			l.i = indexFrom(s, l.i+2, "*/")
			continue
		case c == '\'' || c == '`' || c == '"':
			l.skipQuoted(c)
			return token{word: s[start:l.i], start: start, end: l.i, depth: l.depth, quoted: true}, true
		case isWordByte(c):
			for l.i < len(s) && isWordByte(s[l.i]) {
				l.i++
			}
			return token{word: strings.ToUpper(s[start:l.i]), start: start, end: l.i, depth: l.depth}, true
		case c == '$':
			if end := strings.IndexByte(s[l.i+1:], '$'); end >= 0 {
				tag := s[l.i : l.i+end+2]
				l.i = indexFrom(s, l.i+len(tag), tag)
				return token{word: "$", start: start, end: l.i, depth: l.depth}, true
			}
		case c == '(' || c == '[' || c == '{':
			l.i++
			l.depth++
			return token{word: s[start:l.i], start: start, end: l.i, depth: l.depth}, true
		case c == ')' || c == ']' || c == '}':
			l.i++
			t := token{word: s[start:l.i], start: start, end: l.i, depth: l.depth}
			if l.depth > 0 {
				l.depth--
			}
			return t, true
		}
		l.i++
		return token{word: s[start:l.i], start: start, end: l.i, depth: l.depth}, true
	}
	return token{}, false
}

// skipQuoted moves behind a quoted text, in which a backslash or a doubled quote
// escapes.
func (l *lexer) skipQuoted(q byte) {
	for l.i++; l.i < len(l.s); l.i++ {
		switch l.s[l.i] {
		case '\\':
			l.i++
		case q:
			if l.i+1 < len(l.s) && l.s[l.i+1] == q {
				l.i++
				continue
			}
			l.i++
			return
		}
	}
	l.i = len(l.s)
}

// indexFrom returns the offset behind the next sub, or the end.
func indexFrom(s string, from int, sub string) int {
	if from > len(s) {
		return len(s)
	}
	if k := strings.Index(s[from:], sub); k >= 0 {
		return from + k + len(sub)
	}
	return len(s)
}
