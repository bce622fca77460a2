package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file, in bytes: what is larger is none.
const maxFile = 4 << 20

// Loaded is a valid configuration and where it comes from.
type Loaded[T any] struct {
	// Config is the configuration.
	Config T
	// Taken lists what was taken from DeepFlow's files, in their order.
	Taken []Provenance
	// Files are those that were read, the program's own first.
	Files []string
}

// Provenance tells what was taken from a file that is not our own.
type Provenance struct {
	// Key is our key, Value its value as text, Theirs their key. All are empty if nothing was taken from the file.
	Key, Value, Theirs string
	// Source is the file and line.
	Source Source
	// Overridden is where a value of higher precedence stands, the zero Source if there is none.
	Overridden Source
}

// String is the line for the log.
func (p Provenance) String() string {
	if p.Key == "" {
		return fmt.Sprintf("nothing taken from %s: it has none of the keys that concern this program", p.Source)
	}
	s := fmt.Sprintf("%s = %s taken from %s of %s", p.Key, p.Value, p.Theirs, p.Source)
	if p.Overridden != (Source{}) {
		s += fmt.Sprintf(", overridden by %s", p.Overridden)
	}
	return s
}

// program is what the two programs differ in.
type program[T any] struct {
	name   string // pseudo-agent
	prefix string // of environment variables, PSEUDO_AGENT
	schema *section
	preset func() T
	// aliases are environment variables of other names, by key.
	aliases map[string]string
	// foreign reads the files that are not our own, whose names stand in the other sources; may be nil.
	foreign func(schema *section, files []string) (*layer, []Provenance, []*Mistake)
	// check finds what is wrong with a configuration whose single values are right.
	check func(c *T, l layers) []*Mistake
}

// layer is what one source says, by key.
type layer struct {
	values map[string]any
	origin map[string]Source
}

func (r *reader) layer() *layer { return &layer{values: r.values, origin: r.origin} }

// layers are the sources from the weakest to the strongest, without the defaults.
type layers []*layer

// source is where the value in force stands; of an element of a list, the element.
func (ls layers) source(key string) Source {
	base, _, _ := strings.Cut(key, "[")
	for _, l := range slices.Backward(ls) {
		if _, ok := l.values[base]; !ok {
			continue
		}
		for {
			if s, ok := l.origin[key]; ok {
				return s
			}
			i := strings.LastIndexAny(key, ".[")
			if i < len(base) {
				return l.origin[base]
			}
			key = key[:i]
		}
	}
	return Source{}
}

// flags registers --config and a flag for each key.
func (p *program[T]) flags(fs *pflag.FlagSet) {
	preset := p.preset()
	fs.String(configFlag, "", "configuration file (environment variable "+p.prefix+"_CONFIG)")
	for _, l := range p.schema.all() {
		f := fs.VarPF(&flagValue{kind: l.kind}, l.flag(), "", l.usage+flagLimits(l))
		f.DefValue = textOf(reflect.ValueOf(preset).FieldByIndex(l.index))
		if l.kind == boolean {
			f.NoOptDefVal = "true"
		}
	}
}

const configFlag = "config"

func flagLimits(l *leaf) string {
	if a := l.allowed(); a != kindNames[l.kind] {
		return " (" + a + ")"
	}
	return ""
}

// flagValue keeps a flag's text: it is read together with the other sources, so that all mistakes are told at once.
type flagValue struct {
	kind kind
	text string
}

func (v *flagValue) String() string { return v.text }

// Set is called for each use of the flag; a list may be given in several.
func (v *flagValue) Set(s string) error {
	if v.kind == texts && v.text != "" {
		s = v.text + "," + s
	}
	v.text = s
	return nil
}

// Type is the placeholder that the help shows.
func (v *flagValue) Type() string {
	return map[kind]string{
		text: "text", boolean: "bool", integer: "number", number: "number", duration: "duration", texts: "list", items: "yaml",
	}[v.kind]
}

// load reads all sources. The error joins one *Mistake for each thing that is wrong; Files is complete even then.
func (p *program[T]) load(fs *pflag.FlagSet) (*Loaded[T], error) {
	var mistakes []*Mistake
	out := &Loaded[T]{}

	own := newReader(nil)
	if file := p.file(fs); file != "" {
		out.Files = append(out.Files, file)
		own.src = func(line int) Source { return Source{File: file, Line: line} }
		p.readOwn(own, file)
	}
	env := p.readEnv()
	flags := p.readFlags(fs)
	for _, r := range []*reader{own, env, flags} {
		mistakes = append(mistakes, r.mistakes...)
	}
	ls := layers{own.layer(), env.layer(), flags.layer()}

	if p.foreign != nil {
		files := ls.texts("deepflow_files")
		out.Files = append(out.Files, files...)
		foreign, taken, ms := p.foreign(p.schema, files)
		mistakes = append(mistakes, ms...)
		for i := range taken {
			if taken[i].Overridden == (Source{}) {
				taken[i].Overridden = ls.source(taken[i].Key)
			}
		}
		out.Taken = taken
		ls = append(layers{foreign}, ls...)
	}

	cfg, err := p.merge(ls, fs)
	if err != nil {
		return out, errors.Join(joined(mistakes, out.Files), err)
	}
	out.Config = *cfg
	for _, m := range independent(p.check(cfg, ls), mistakes) {
		speakTheirs(m, out.Taken)
		mistakes = append(mistakes, m)
	}
	return out, joined(mistakes, out.Files)
}

// speakTheirs makes a mistake about something that was taken from DeepFlow's files name the key that stands there.
func speakTheirs(m *Mistake, taken []Provenance) {
	for _, p := range taken {
		if p.Overridden == (Source{}) && p.Source.File == m.Source.File && p.Key != keyAddresses && within(m.Key, p.Key) {
			m.Key, m.ours = p.Theirs+strings.TrimPrefix(m.Key, p.Key), m.Key
			return
		}
	}
}

// texts is the list in force of one key.
func (ls layers) texts(key string) []string {
	for _, l := range slices.Backward(ls) {
		if v, ok := l.values[key].([]string); ok {
			return v
		}
	}
	return nil
}

// merge lets viper apply the precedence and decode. What the layers hold is valid, so that it fails only for a mistake of
// this package.
func (p *program[T]) merge(ls layers, fs *pflag.FlagSet) (*T, error) {
	v := viper.New()
	preset := reflect.ValueOf(p.preset())
	env, flags := ls[len(ls)-2], ls[len(ls)-1]
	for _, l := range p.schema.all() {
		if d := preset.FieldByIndex(l.index); d.Kind() != reflect.Slice || !d.IsNil() {
			v.SetDefault(l.key, d.Interface())
		}
		if _, ok := env.values[l.key]; ok {
			if err := v.BindEnv(l.key, env.origin[l.key].Env); err != nil {
				return nil, fmt.Errorf("bind %s to its environment variable: %w", l.key, err)
			}
		}
		if _, ok := flags.values[l.key]; ok {
			if err := v.BindPFlag(l.key, fs.Lookup(l.flag())); err != nil {
				return nil, fmt.Errorf("bind %s to its flag: %w", l.key, err)
			}
		}
	}
	for _, l := range ls[:len(ls)-2] {
		if err := v.MergeConfigMap(nested(l.values)); err != nil {
			return nil, fmt.Errorf("merge configuration: %w", err)
		}
	}
	var c T
	err := v.Unmarshal(&c, viper.DecodeHook(fromText), func(d *mapstructure.DecoderConfig) { d.ErrorUnused = true })
	if err != nil {
		return nil, fmt.Errorf("decode configuration: %w", err)
	}
	// Environment and flags go through viper as text, so another spelling of a word has to be replaced here.
	for _, l := range p.schema.all() {
		if f := reflect.ValueOf(&c).Elem().FieldByIndex(l.index); l.alias[asText(f)] != "" {
			f.SetString(l.alias[asText(f)])
		}
	}
	return &c, nil
}

func asText(v reflect.Value) string {
	if v.Kind() == reflect.String {
		return v.String()
	}
	return ""
}

// nested makes a tree of dotted keys.
func nested(values map[string]any) map[string]any {
	root := map[string]any{}
	for key, v := range values {
		at := root
		path := strings.Split(key, ".")
		for _, name := range path[:len(path)-1] {
			sub, ok := at[name].(map[string]any)
			if !ok {
				sub = map[string]any{}
				at[name] = sub
			}
			at = sub
		}
		at[path[len(path)-1]] = v
	}
	return root
}

// fromText turns what environment variables and flags say into what the struct holds, as reader.text has checked it.
func fromText(from, to reflect.Type, data any) (any, error) {
	s, ok := data.(string)
	if !ok || from.Kind() != reflect.String {
		return data, nil
	}
	switch kindOfOrText(to) {
	case duration:
		return parseDuration(s)
	case texts:
		return splitList(s), nil
	case items:
		var out []map[string]any
		if err := yaml.Unmarshal([]byte(s), &out); err != nil {
			return nil, fmt.Errorf("parse list: %w", err)
		}
		return out, nil
	case boolean:
		return strings.EqualFold(s, "true"), nil
	case integer: // mapstructure's own conversion would take 010 for 8
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("parse number: %w", err)
		}
		return n, nil
	case number:
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, fmt.Errorf("parse number: %w", err)
		}
		return n, nil
	default:
		return data, nil
	}
}

func kindOfOrText(t reflect.Type) kind {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64, reflect.Slice:
		return kindOf(t)
	}
	return text
}

// file is the name of the program's own file.
func (p *program[T]) file(fs *pflag.FlagSet) string {
	if fs != nil {
		if f := fs.Lookup(configFlag); f != nil && f.Changed {
			return f.Value.String()
		}
	}
	return os.Getenv(p.prefix + "_CONFIG")
}

func (p *program[T]) readOwn(r *reader, file string) {
	data, m := readFile(file)
	if m != nil {
		r.fail(m)
		return
	}
	docs, m := parseYAML(data, r.src)
	if m != nil {
		r.fail(m)
		return
	}
	for i, doc := range docs {
		if i > 0 {
			r.fail(&Mistake{Problem: "holds more than one YAML document; keep the first", Source: r.src(doc.Line)})
			return
		}
		r.section(doc, p.schema, "")
	}
}

func readFile(file string) ([]byte, *Mistake) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, &Mistake{Problem: "cannot be read: " + reason(err), Source: Source{File: file}}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &Mistake{Problem: "cannot be read: " + reason(err), Source: Source{File: file}}
	}
	if len(data) > maxFile {
		return nil, &Mistake{Problem: fmt.Sprintf("is larger than %d bytes, so it is not a configuration file", maxFile), Source: Source{File: file}}
	}
	return data, nil
}

// reason is an error of the operating system without operation and path, which the message has already.
func reason(err error) string {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

// parseYAML returns the root of each document that is not empty.
func parseYAML(data []byte, src func(line int) Source) (docs []*yaml.Node, m *Mistake) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			found := yamlLine.FindStringSubmatch(err.Error())
			line, _ := strconv.Atoi(found[1]) // 0 if the message has none
			return nil, &Mistake{Problem: "is not YAML: " + strings.TrimPrefix(err.Error(), found[0]), Source: src(line)}
		}
		if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 && !isNull(doc.Content[0]) {
			docs = append(docs, doc.Content[0])
		}
	}
}

// serviceLink matches the variables that Kubernetes sets for each Service of the namespace: one for a Service named
// pseudo-agent begins like ours.
var serviceLink = regexp.MustCompile(`_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$`)

func (p *program[T]) readEnv() *reader {
	r := newReader(nil)
	byName, names := map[string]*leaf{}, []string{}
	for _, l := range p.schema.all() {
		byName[l.env(p.prefix)] = l
		names = append(names, l.env(p.prefix))
		if alias := p.aliases[l.key]; alias != "" {
			byName[alias] = l
		}
	}
	vars := os.Environ()
	// The aliases come first, so that our own name for the same key is read later and wins.
	slices.SortFunc(vars, func(a, b string) int {
		return cmp.Or(boolCompare(strings.HasPrefix(a, p.prefix), strings.HasPrefix(b, p.prefix)), cmp.Compare(a, b))
	})
	for _, kv := range vars {
		name, value, _ := strings.Cut(kv, "=")
		r.src = func(int) Source { return Source{Env: name} }
		switch l := byName[name]; {
		case l != nil && value != "":
			r.text(l, value)
		case l != nil, !strings.HasPrefix(name, p.prefix+"_"), name == p.prefix+"_CONFIG", serviceLink.MatchString(name):
		default:
			r.fail(&Mistake{
				Problem: "sets no key of " + p.name, Allowed: p.prefix + "_ and a key in capitals with _ for .",
				Nearest: nearest(name, names), Source: r.src(0),
			})
		}
	}
	return r
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (p *program[T]) readFlags(fs *pflag.FlagSet) *reader {
	r := newReader(nil)
	if fs == nil {
		return r
	}
	for _, l := range p.schema.all() {
		if f := fs.Lookup(l.flag()); f != nil && f.Changed {
			r.src = func(int) Source { return Source{Flag: f.Name} }
			r.text(l, f.Value.String())
		}
	}
	return r
}

// textOf writes a value as a file would have it.
func textOf(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return formatDuration(x)
	case string:
		return x
	case []string:
		return strings.Join(x, ",")
	}
	if v.Kind() == reflect.Slice {
		if v.Len() == 0 {
			return ""
		}
		return fmt.Sprintf("%d elements", v.Len())
	}
	return fmt.Sprint(v.Interface())
}
