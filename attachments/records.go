package attachments

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// State is how far an attachment has come.
type State string

const (
	// Attaching means that ADD was begun: what it made is not known.
	Attaching State = "attaching"
	// Attached means that ADD has succeeded, or that what the meta plugin made was adopted.
	Attached State = "attached"
	// Detaching means that DEL was begun.
	Detaching State = "detaching"
)

// Attachment is what is known of one network of a Pod: all that CNI needs to take it away again.
type Attachment struct {
	Network
	State State `json:"state"`
	// Adopted says that the interface was there before.
	Adopted bool `json:"adopted,omitempty"`
	// Sandbox is the CNI container id, NetNS the path of the network namespace.
	Sandbox string `json:"sandbox"`
	NetNS   string `json:"netns"`
	// Config is the CNI network configuration list, Args and Capabilities the rest of the runtime configuration.
	Config       json.RawMessage `json:"config"`
	Args         [][2]string     `json:"args,omitempty"`
	Capabilities map[string]any  `json:"capabilities,omitempty"`
	// Result is what ADD returned; none if adopted.
	Result json.RawMessage `json:"result,omitempty"`
	// Since is when the state began.
	Since time.Time `json:"since"`
}

// ErrNoInterface is the error of Among where the interface is not there.
var ErrNoInterface = errors.New("the Pod has no such interface")

// Among tells whether the attachment's interface is among those of its namespace, with the MAC that was asked for.
func (a *Attachment) Among(found map[string]Interface) error {
	seen, there := found[a.Interface]
	switch {
	case !there:
		return fmt.Errorf("interface %s: %w", a.Interface, ErrNoInterface)
	case a.MAC != "" && seen.MAC != a.MAC:
		return fmt.Errorf("interface %s has the MAC %s instead of %s: the plugin cannot set one, or somebody changed it", a.Interface, seen.MAC, a.MAC)
	}
	return nil
}

// Record is what is attached to one Pod.
type Record struct {
	// Version is that of the file's form.
	Version   int    `json:"version"`
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Attachments are in the order in which they were attached.
	Attachments []Attachment `json:"attachments"`
	// Told are the elements of the Pod's status annotation that are ours, or may be.
	Told []StatusKey `json:"told,omitempty"`
}

// Empty reports whether there is nothing to keep.
func (r *Record) Empty() bool { return len(r.Attachments) == 0 && len(r.Told) == 0 }

// recordVersion is the form that this program writes.
const recordVersion = 1

// maxRecord bounds a file in bytes. A definition has 256 KiB at most, and a Pod 32 networks; few come near.
const maxRecord = 16 << 20

var uid = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]{0,63}$`)

// Put sets the attachment of its key, at its old place or at the end.
func (r *Record) Put(a Attachment) {
	for i := range r.Attachments {
		if r.Attachments[i].Key() == a.Key() {
			r.Attachments[i] = a
			return
		}
	}
	r.Attachments = append(r.Attachments, a)
}

// Drop removes the attachment of a key.
func (r *Record) Drop(key string) {
	r.Attachments = slices.DeleteFunc(r.Attachments, func(a Attachment) bool { return a.Key() == key })
}

// Store keeps the records, one file for each Pod. A change is complete or has not been made, whenever the process or the
// machine ends. One process uses a folder at a time (Lock). Calls for different Pods may be made at once.
type Store struct {
	dir  string
	lock *os.File
}

// ErrLocked is the error of Open when another process uses the folder.
var ErrLocked = errors.New("another pod-agent uses it")

// Open opens a folder and makes it if there is none. Only root may read it: configurations can hold secrets.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil { //nolint:gosec // the operator names the folder, and a UID is checked
		return nil, fmt.Errorf("make state_dir %s: %w", dir, err)
	}
	lock, err := lockFile(filepath.Join(dir, ".lock"))
	if err != nil {
		return nil, fmt.Errorf("lock state_dir %s: %w", dir, err)
	}
	return &Store{dir: dir, lock: lock}, nil
}

// Peek returns a Store of a folder that another process may be using, and that is only to be read.
func Peek(dir string) *Store { return &Store{dir: dir} }

// Close lets others use the folder.
func (s *Store) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close() //nolint:wrapcheck // it names the file
}

const suffix = ".json"

// Load returns all records and what is wrong with files that hold none. Those stay where they are, for people to look at.
func (s *Store) Load() (records []*Record, wrong []error, err error) {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read state_dir: %w", err)
	}
	for _, entry := range names {
		id, ours := strings.CutSuffix(entry.Name(), suffix)
		if !ours || !entry.Type().IsRegular() {
			if s.lock != nil && strings.HasSuffix(entry.Name(), temporary) { // of a process that ended while it wrote
				_ = os.Remove(filepath.Join(s.dir, entry.Name())) // tried again at the next start
			}
			continue
		}
		record, err := s.read(id)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("record %s: %w", filepath.Join(s.dir, entry.Name()), err))
			continue
		}
		records = append(records, record)
	}
	return records, wrong, nil
}

func (s *Store) read(id string) (*Record, error) {
	f, err := os.Open(s.path(id))
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if len(data) > maxRecord {
		return nil, fmt.Errorf("is larger than %d bytes", maxRecord)
	}
	return decode(id, data)
}

func decode(id string, data []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("is no record: %w", err)
	}
	switch {
	case r.Version != recordVersion:
		return nil, fmt.Errorf("has version %d, this program knows %d", r.Version, recordVersion)
	case r.UID != id || !uid.MatchString(r.UID):
		return nil, fmt.Errorf("is of Pod UID %q", r.UID)
	}
	for _, a := range r.Attachments {
		switch a.State {
		case Attaching, Attached, Detaching:
		default:
			return nil, fmt.Errorf("network %s has state %q", a.Path(), a.State)
		}
	}
	return &r, nil
}

const temporary = ".new"

func (s *Store) path(id string) string { return filepath.Join(s.dir, id+suffix) }

// Save makes the record durable. A record of nothing is removed.
func (s *Store) Save(r *Record) error {
	if !uid.MatchString(r.UID) {
		return fmt.Errorf("record of Pod %s/%s: %q is no UID", r.Namespace, r.Name, clip(r.UID))
	}
	var err error
	if r.Empty() {
		if err = os.Remove(s.path(r.UID)); errors.Is(err, fs.ErrNotExist) { //nolint:gosec // the operator names the folder, and a UID is checked
			return nil
		}
	} else {
		err = s.write(r)
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("record of Pod %s/%s: %w", r.Namespace, r.Name, err)
	}
	return nil
}

func (s *Store) write(r *Record) error {
	r.Version = recordVersion
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err //nolint:wrapcheck // wrapped by Save
	}
	if len(data) > maxRecord {
		return fmt.Errorf("is larger than %d bytes", maxRecord)
	}
	name := filepath.Join(s.dir, r.UID+temporary)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // the operator names the folder, and a UID is checked
	if err != nil {
		return err //nolint:wrapcheck // wrapped by Save
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if errClose := f.Close(); err == nil {
		err = errClose
	}
	if err == nil {
		err = os.Rename(name, s.path(r.UID)) //nolint:gosec // the operator names the folder, and a UID is checked
	}
	return err //nolint:wrapcheck // wrapped by Save
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the operator names the folder
	if err != nil {
		return err //nolint:wrapcheck // wrapped by Save
	}
	defer d.Close()
	return d.Sync() //nolint:wrapcheck // wrapped by Save
}
