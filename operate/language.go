package operate

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// language is a table of the texts of the status page. JSON is not translated: programs read it.
type language struct {
	Tag     string
	texts   map[string]string // by key, see texts.go
	phrases []phrase          // of what the parts say, which is English
}

// phrase translates a text in which places stand for values.
type phrase struct {
	english *regexp.Regexp
	text    string
}

var (
	english = &language{Tag: "en", texts: englishTexts}
	chinese = &language{Tag: "zh-CN", texts: chineseTexts, phrases: compiled(chinesePhrases)}
)

// languageOf is what ?lang= asks for, or what the client prefers; otherwise English.
func languageOf(r *http.Request) *language {
	wanted := r.URL.Query().Get("lang")
	if wanted == "" {
		wanted, _, _ = strings.Cut(r.Header.Get("Accept-Language"), ",")
	}
	if strings.HasPrefix(strings.ToLower(wanted), "zh") {
		return chinese
	}
	return english
}

// t is the text of a key with values in its places.
func (l *language) t(key string, values ...any) string {
	text, found := l.texts[key]
	if !found {
		return key
	}
	if len(values) == 0 {
		return text
	}
	return fmt.Sprintf(text, values...)
}

// placeholders of the phrases: any text, and a number.
var placeholders = regexp.MustCompile(`%[sd]`)

func compiled(pairs [][2]string) []phrase {
	out := make([]phrase, 0, len(pairs))
	for _, p := range pairs {
		pattern := strings.NewReplacer("%s", "(.+)", "%d", `(\d+)`).Replace(regexp.QuoteMeta(p[0]))
		out = append(out, phrase{regexp.MustCompile("^(?s:" + pattern + ")$"), p[1]})
	}
	return out
}

// maxNested bounds how deep phrases are looked for in the values of others.
const maxNested = 3

// say is a text of a part in the language; what is in no phrase stays as it is.
func (l *language) say(text string) string { return l.nested(text, maxNested) }

func (l *language) nested(text string, depth int) string {
	if depth == 0 || text == "" {
		return text
	}
	for _, p := range l.phrases {
		values := p.english.FindStringSubmatch(text)
		if values == nil {
			continue
		}
		at := 0
		return placeholders.ReplaceAllStringFunc(p.text, func(string) string {
			at++
			return l.nested(values[at], depth-1)
		})
	}
	return text
}

// what is what a Problem says, after the names of those that suffer from it.
func (l *language) what(p Problem) string {
	if len(p.Subjects) == 0 {
		return l.say(p.What)
	}
	// Only those that are named are translated: there may be thousands.
	names := slices.Clone(p.Subjects)
	for i := range min(len(names), named+1) {
		names[i] = l.say(names[i])
	}
	return l.some(names) + l.t("colon") + l.say(strings.TrimPrefix(p.What, some(p.Subjects)+": "))
}

// named is how many of those that suffer from one cause are named.
const named = 3

// some names the first three and counts the others.
func (l *language) some(names []string) string {
	if len(names) <= named+1 {
		return strings.Join(names, l.t("comma"))
	}
	return l.t("andMore", strings.Join(names[:named], l.t("comma")), len(names)-named)
}

// some is the same in English.
func some(names []string) string { return english.some(names) }

// span is a duration for people: the two largest units at most.
func (l *language) span(d time.Duration) string {
	const perDay = 24
	hours, minutes := int(d.Hours()), int(d.Minutes())
	switch {
	case d < 0:
		return l.t("seconds", 0)
	case d < 2*time.Minute:
		return l.t("seconds", int(d.Seconds()))
	case d < time.Hour:
		return l.t("minutes", minutes)
	case d < 2*perDay*time.Hour && minutes%60 == 0:
		return l.t("hours", hours)
	case d < 2*perDay*time.Hour:
		return l.t("hours", hours) + " " + l.t("minutes", minutes%60)
	case hours%perDay == 0:
		return l.t("days", hours/perDay)
	default:
		return l.t("days", hours/perDay) + " " + l.t("hours", hours%perDay)
	}
}

// ago is how long before now something was, "in …" if it comes.
func (l *language) ago(now, at time.Time) string {
	if d := at.Sub(now); d > time.Second {
		return l.t("in", l.span(d))
	}
	return l.t("ago", l.span(now.Sub(at)))
}

// Span is a duration for people: the two largest units at most.
func Span(d time.Duration) string { return english.span(d) }

// Ago is how long before now something was, "in …" if it comes.
func Ago(now, t time.Time) string { return english.ago(now, t) }
