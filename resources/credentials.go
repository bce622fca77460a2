package resources

import (
	"bytes"
	"slices"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
)

// DefaultCredentialWords tell which names stand for credentials (projection.credential_words).
func DefaultCredentialWords() []string {
	return []string{
		"password", "passwd", "passphrase", "passcode", "pass", "pwd", "secret", "token", "credential", "apikey", "accesskey",
		"privatekey", "signingkey", "encryptionkey", "masterkey", "sharedkey", "accountkey", "authkey", "licensekey", "auth",
		"authorization", "bearer", "cookie", "jwt", "sas", "dsn", "connectionstring", "requirepass", "masterauth",
	}
}

// shortWord is the length up to which a credential word has to be a whole part of a name: "pass" is in db_pass and dbPass, but
// not in bypass. Longer ones are found anywhere, "apikey" also in api-key and X_API_KEY.
const shortWord = 4

// credentials finds and hides the credentials that authors of workloads write into texts.
type credentials struct {
	long, short [][]byte
	// hide appends what stands for a value.
	hide func(dst, value []byte) []byte
	name []byte // scratch
}

func newCredentials(words []string, hide func(dst, value []byte) []byte) *credentials {
	c := &credentials{hide: hide}
	for _, w := range words {
		w = strings.Map(func(r rune) rune {
			if r == '-' || r == '_' || r == '.' || r == ' ' {
				return -1
			}
			return r
		}, strings.ToLower(w))
		switch {
		case w == "":
		case len(w) <= shortWord:
			c.short = append(c.short, []byte(w))
		default:
			c.long = append(c.long, []byte(w))
		}
	}
	return c
}

// longestName bounds how much of a name is looked at, from its end, in bytes.
const longestName = 256

// references are the last parts of names that tell where a credential is, or about it, and do not hold it.
var references = map[string]bool{"file": true, "filename": true, "path": true, "dir": true, "name": true, "namespace": true, "ref": true}

// inName tells whether a name stands for a credential.
func (c *credentials) inName(name []byte) bool {
	if len(c.long)+len(c.short) == 0 {
		return false
	}
	name = name[max(0, len(name)-longestName):]
	found := false
	c.name = c.name[:0]
	start := 0
	part := func() {
		for _, w := range c.short {
			found = found || bytes.Equal(c.name[start:], w)
		}
	}
	for i, b := range name {
		upper := b >= 'A' && b <= 'Z'
		if separates(b) || upper && i > 0 && (name[i-1] < 'A' || name[i-1] > 'Z') {
			if len(c.name) > start {
				part()
				start = len(c.name)
			}
		}
		switch {
		case separates(b):
		case upper:
			c.name = append(c.name, b+'a'-'A')
		default:
			c.name = append(c.name, b)
		}
	}
	if start == len(c.name) {
		return found
	}
	part()
	if references[string(c.name[start:])] {
		return false
	}
	for _, w := range c.long {
		found = found || bytes.Contains(c.name, w)
	}
	return found
}

func separates(b byte) bool { return b == '-' || b == '_' || b == '.' || b == '/' }

func inNameRun(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '-' || b == '_' || b == '.'
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' || b == '\n' || b == '\r' }

// endsWord tells whether an unquoted value in a shell text or a URL ends before b.
func endsWord(b byte) bool {
	return isSpace(b) || bytes.IndexByte([]byte(`"'|&;<>(){}[]`+"`,"), b) >= 0
}

// programs are well-known programs whose option for a password is a single letter, with that option.
var programs = map[string]string{
	"mysql": "-p", "mysqladmin": "-p", "mysqldump": "-p", "mariadb": "-p", "mariadb-admin": "-p", "mariadb-dump": "-p",
	"sshpass": "-p", "mongo": "-p", "mongosh": "-p", "mongodump": "-p", "mongorestore": "-p", "rabbitmqadmin": "-p", "docker": "-p",
	"cqlsh": "-p", "sqlcmd": "-P", "redis-cli": "-a", "redis-benchmark": "-a", "ldapsearch": "-w", "ldapwhoami": "-w", "ldapmodify": "-w",
}

// scan is the state between the words of a command line.
type scan struct {
	pending bool   // the next word is a credential
	user    bool   // the next word is user:password
	option  string // that of the program at hand
}

// argument appends one argument of a command line without its credentials; it may be a whole script.
func (c *credentials) argument(dst, arg []byte, s *scan) []byte {
	if len(c.long)+len(c.short) == 0 {
		return append(dst, arg...)
	}
	if s.pending && len(arg) > 0 {
		s.pending = c.isOption(arg)
		return c.hide(dst, arg)
	}
	if s.user && len(arg) > 0 {
		s.user = false
		return c.userAndPassword(dst, arg)
	}
	// --name=value as one argument: the value goes on to the end, whatever is in it.
	if name, value, ok := bytes.Cut(arg, []byte("=")); ok && len(value) > 0 && !bytes.ContainsAny(name, " \t\r\n\"'?&") && c.inName(lastName(name)) {
		return c.hide(append(append(dst, name...), '='), value)
	}
	return c.words(dst, arg, s)
}

// isOption tells whether an argument is an option that a credential follows.
func (c *credentials) isOption(arg []byte) bool {
	return len(arg) > 1 && arg[0] == '-' && bytes.IndexByte(arg, '=') < 0 && c.inName(arg)
}

// lastName is the run of a name's characters at the end of b.
func lastName(b []byte) []byte {
	i := len(b)
	for i > 0 && inNameRun(b[i-1]) {
		i--
	}
	return b[i:]
}

// words goes through a text word by word.
func (c *credentials) words(dst, text []byte, s *scan) []byte {
	for i := 0; i < len(text); {
		b := text[i]
		quoted := b == '"' || b == '\''
		switch {
		case (s.pending || s.user) && !isSpace(b) && (quoted || !endsWord(b)):
			dst, i = c.awaited(dst, text, i, s)
		case inNameRun(b):
			end := i + 1
			for end < len(text) && inNameRun(text[end]) {
				end++
			}
			dst, i = c.word(dst, text, i, end, s)
		default:
			if b == '|' || b == ';' || b == '&' || b == '\n' {
				*s = scan{}
			}
			dst = append(dst, b)
			i++
		}
	}
	return dst
}

// awaited appends the word at i, in quotes or not, that the one before announced.
func (c *credentials) awaited(dst, text []byte, i int, s *scan) (out []byte, next int) {
	end := wordEnd(text, i)
	if b := text[i]; b == '"' || b == '\'' {
		dst = append(dst, b)
		i++
		end = i
		for end < len(text) && text[end] != b {
			end++
		}
	}
	word := text[i:end]
	switch {
	case len(word) == 0:
		s.pending, s.user = false, false
	case s.pending:
		s.pending = c.isOption(word)
		dst = c.hide(dst, word)
	default:
		s.user = false
		dst = c.userAndPassword(dst, word)
	}
	return dst, end
}

func wordEnd(text []byte, i int) int {
	for i < len(text) && !endsWord(text[i]) {
		i++
	}
	return i
}

// word appends the name text[i:end], and what belongs to it if it stands for a credential; it returns where to go on.
func (c *credentials) word(dst, text []byte, i, end int, s *scan) (out []byte, next int) {
	name := text[i:end]
	if option, ok := programs[string(name)]; ok {
		s.option = option
	}
	begins := i == 0 || isSpace(text[i-1]) || text[i-1] == '"' || text[i-1] == '\''
	switch {
	case begins && s.option != "" && bytes.HasPrefix(name, []byte(s.option)) && (len(name) > 2 || end == len(text) || isSpace(text[end])):
		if len(name) > 2 {
			end = wordEnd(text, i)
			return c.hide(append(dst, s.option...), text[i+2:end]), end
		}
		s.pending = true
		return append(dst, name...), end
	case begins && (string(name) == "-u" || string(name) == "--user" || string(name) == "--proxy-user"):
		s.user = true
		if end < len(text) && text[end] == '=' {
			return append(append(dst, name...), '='), end + 1
		}
		return append(dst, name...), end
	case !c.inName(name):
		return append(dst, name...), end
	}
	from, assigned := assignment(text, end)
	switch {
	case assigned:
		return c.value(append(dst, text[i:from]...), text, from)
	case begins && name[0] == '-', strings.EqualFold(string(name), "bearer"):
		s.pending = true
	}
	return append(dst, name...), end
}

// assignment finds where the value begins that = or : gives to the name that ends at end.
func assignment(text []byte, end int) (from int, ok bool) {
	i := end
	if i < len(text) && (text[i] == '"' || text[i] == '\'' || text[i] == '\\' && i+1 < len(text) && text[i+1] == '"') { // of a name in JSON
		i++
		if text[i-1] == '\\' {
			i++
		}
	}
	for i < len(text) && (text[i] == ' ' || text[i] == '\t') {
		i++
	}
	if i >= len(text) || text[i] != '=' && text[i] != ':' || i != end && text[i] == '=' && !isQuote(text[end]) && spaced(text, i) {
		return 0, false
	}
	for i++; i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '='); {
		i++
	}
	return i, i < len(text)
}

func isQuote(b byte) bool { return b == '"' || b == '\'' || b == '\\' }

// spaced tells whether the = at i stands alone, as in a comparison of a shell, whose right side is nobody's value.
func spaced(text []byte, i int) bool { return i+1 < len(text) && text[i+1] == '=' }

// value appends what stands for the value that begins at i, and what comes behind the name of an authentication scheme.
func (c *credentials) value(dst, text []byte, i int) (out []byte, next int) {
	escaped := text[i] == '\\' && i+1 < len(text) && isQuote(text[i+1])
	if escaped {
		dst = append(dst, '\\')
		i++
	}
	if text[i] == '"' || text[i] == '\'' {
		quote := text[i]
		dst = append(dst, quote)
		i++
		end := i
		for end < len(text) && (text[end] != quote || !escaped && text[end-1] == '\\' && end > i) {
			end++
		}
		if escaped && end > i && end < len(text) && text[end-1] == '\\' {
			end--
		}
		if end > i {
			dst = c.hide(dst, text[i:end])
		}
		return dst, end
	}
	end := wordEnd(text, i)
	if scheme := text[i:end]; isScheme(scheme) && end < len(text) && text[end] == ' ' {
		dst = append(append(dst, scheme...), ' ')
		i = end + 1
		end = wordEnd(text, i)
	}
	if end > i {
		dst = c.hide(dst, text[i:end])
	}
	return dst, end
}

func isScheme(word []byte) bool {
	switch strings.ToLower(string(word)) {
	case "bearer", "basic", "token", "digest", "negotiate", "apikey":
		return true
	}
	return false
}

// userAndPassword hides what follows the first colon.
func (c *credentials) userAndPassword(dst, word []byte) []byte {
	user, password, ok := bytes.Cut(word, []byte(":"))
	if !ok || len(password) == 0 {
		return append(dst, word...)
	}
	return c.hide(append(append(dst, user...), ':'), password)
}

// urls appends a text without the passwords in its URLs: scheme://user:password@host.
func (c *credentials) urls(dst, text []byte) []byte {
	for {
		i := bytes.Index(text, []byte("://"))
		if i < 0 {
			return append(dst, text...)
		}
		i += len("://")
		dst, text = append(dst, text[:i]...), text[i:]
		authority := text
		if next := bytes.Index(text, []byte("://")); next >= 0 {
			authority = text[:next] // also so that the cost stays in proportion to the text
		}
		if end := bytes.IndexAny(authority, " \t\r\n\"'`<>"); end >= 0 {
			authority = authority[:end]
		}
		// A password may hold a slash, and a path an @.
		at := bytes.LastIndexByte(authority, '@')
		if slash := bytes.IndexAny(authority, "/?#"); slash >= 0 {
			if before := bytes.LastIndexByte(authority[:slash], '@'); before >= 0 {
				at = before
			}
		}
		colon := bytes.IndexByte(authority[:max(at, 0)], ':')
		if at < 0 || colon < 0 || colon+1 == at || bytes.ContainsAny(authority[:colon], "/?#") {
			continue
		}
		dst = c.hide(append(dst, authority[:colon+1]...), authority[colon+1:at])
		text = text[at:]
	}
}

// memberRule says what holds for a member of a workload's spec because of its key.
type memberRule uint8

const (
	freeMember    memberRule = iota
	plainMember              // the server reads it: nothing is replaced
	notesMember              // annotations
	envMember                // environment variables
	commandMember            // a command line, or a part of one
	headerMember             // HTTP headers
	secretMember             // a literal credential
)

// memberRule remembers the rule for each key, of which there are few.
func (p *Projector) memberRule(key []byte) memberRule {
	if len(key) > longestName {
		return p.ruleOfKey(key)
	}
	if r, ok := p.members[string(key)]; ok {
		return r
	}
	if len(p.members) >= maxStrings {
		clear(p.members)
	}
	r := p.ruleOfKey(key)
	p.members[string(key)] = r
	return r
}

func (p *Projector) ruleOfKey(key []byte) memberRule {
	switch string(key) {
	case "labels", "matchLabels", "selector", "nodeSelector", "matchExpressions", "labelSelector":
		return plainMember
	case "annotations":
		return notesMember
	case "httpHeaders":
		if !p.opts.LiteralEnv {
			return headerMember
		}
		return freeMember
	}
	parts := partsOf(key)
	last := parts[len(parts)-1]
	is := func(words ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return slices.Contains(words, part) })
	}
	switch {
	case !p.opts.LiteralEnv && last != "from" && is("env", "envs", "environment", "environments", "envvars", "extraenv"):
		return envMember
	case is("command", "commands", "cmd", "args", "arg", "argv", "arguments", "script", "scripts", "opts", "options", "flags", "entrypoint",
		"path", "url", "uri", "endpoint"):
		return commandMember
	case p.credentials.inName(key):
		return secretMember
	}
	return freeMember
}

// partsOf splits a name at -, _, . and before capitals, in lower case.
func partsOf(key []byte) []string {
	var parts []string
	var part []byte
	flush := func() {
		if len(part) > 0 {
			parts = append(parts, strings.ToLower(string(part)))
			part = part[:0]
		}
	}
	for i, b := range key {
		if separates(b) || b >= 'A' && b <= 'Z' && i > 0 && (key[i-1] < 'A' || key[i-1] > 'Z') {
			flush()
		}
		if !separates(b) {
			part = append(part, b)
		}
	}
	flush()
	if parts == nil {
		return []string{""}
	}
	return parts
}

// appendCommand copies a command line: a list of arguments, a script, or in some CRDs a map of options.
func (p *Projector) appendCommand(v jsonscan.Value) {
	switch v.Kind() {
	case jsonscan.StringKind:
		p.appendArgument(v, &scan{})
	case jsonscan.ArrayKind:
		var s scan
		p.appendElements(v, func(e jsonscan.Value) {
			if e.Kind() == jsonscan.StringKind {
				p.appendArgument(e, &s)
				return
			}
			p.appendFree(e)
		})
	default:
		p.appendFree(v)
	}
}

func (p *Projector) appendArgument(v jsonscan.Value, s *scan) {
	text := v.Text()
	p.hidden = p.credentials.urls(p.hidden[:0], text)
	p.argument = p.credentials.argument(p.argument[:0], p.hidden, s)
	if bytes.Equal(p.argument, text) {
		p.out = v.Append(p.out)
		return
	}
	p.out = jsonscan.AppendQuoted(p.out, p.argument)
}

// appendText copies a string without the passwords in its URLs.
func (p *Projector) appendText(v jsonscan.Value) {
	if v.Kind() != jsonscan.StringKind || bytes.IndexByte(v.Raw(), '@') < 0 && bytes.IndexByte(v.Raw(), '\\') < 0 {
		p.out = v.Append(p.out)
		return
	}
	text := v.Text()
	p.hidden = p.credentials.urls(p.hidden[:0], text)
	if bytes.Equal(p.hidden, text) {
		p.out = v.Append(p.out)
		return
	}
	p.out = jsonscan.AppendQuoted(p.out, p.hidden)
}

// sum returns dst with the hash of a value.
func (p *Projector) sum(dst, value []byte) []byte {
	out := p.out
	p.out = dst
	p.appendHash(value)
	dst, p.out = p.out, out
	return dst
}
