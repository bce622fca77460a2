package receiver

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// reloadEvery is how often files are looked at while they are in use.
const reloadEvery = 5 * time.Second

// reloaded is a value made of files. It is made again when their content changes, which is noticed when it is used;
// while the new content is no good, the old value stays.
type reloaded[T any] struct {
	files []string
	parse func(contents [][]byte) (T, error)
	log   *slog.Logger
	now   func() time.Time

	mu      sync.Mutex
	value   T
	sum     [sha256.Size]byte
	checked time.Time
	failing string
}

// newReloaded reads the files and fails if that is not possible now.
func newReloaded[T any](log *slog.Logger, files []string, parse func([][]byte) (T, error)) (*reloaded[T], error) {
	r := &reloaded[T]{files: files, parse: parse, log: log, now: time.Now}
	contents, sum, err := r.read()
	if err != nil {
		return nil, err
	}
	if r.value, err = parse(contents); err != nil {
		return nil, err
	}
	r.sum, r.checked = sum, r.now()
	return r, nil
}

func (r *reloaded[T]) read() ([][]byte, [sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	h := sha256.New()
	var contents [][]byte
	for _, name := range r.files {
		b, err := os.ReadFile(name) //nolint:gosec // the operator names the files
		if err != nil {
			return nil, sum, err
		}
		contents = append(contents, b)
		_, _ = fmt.Fprintf(h, "%d\n", len(b))
		_, _ = h.Write(b)
	}
	h.Sum(sum[:0])
	return contents, sum, nil
}

// get returns the present value.
func (r *reloaded[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if now.Sub(r.checked) < reloadEvery {
		return r.value
	}
	r.checked = now
	contents, sum, err := r.read()
	if err == nil && sum == r.sum {
		r.told(nil)
		return r.value
	}
	if err == nil {
		var value T
		if value, err = r.parse(contents); err == nil {
			r.value, r.sum = value, sum
			r.log.Info("files were read again", "files", r.files)
		}
	}
	r.told(err)
	return r.value
}

func (r *reloaded[T]) told(err error) {
	switch {
	case err == nil && r.failing != "":
		r.failing = ""
		r.log.Info("files are in order again", "files", r.files)
	case err != nil && err.Error() != r.failing:
		r.failing = err.Error()
		r.log.Error("changed files cannot be used; what they held before stays in force", "files", r.files, "error", err)
	}
}

// Token is a secret that a file holds. Surrounding white space does not count.
type Token struct {
	sum *reloaded[[sha256.Size]byte]
}

// minToken is the least length of a token, in bytes.
const minToken = 16

// matches compares in constant time.
func (t *Token) matches(secret string) bool {
	want, got := t.sum.get(), sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// NewToken reads the token in a file; it is read again when the file changes.
func NewToken(log *slog.Logger, file string) (*Token, error) {
	sum, err := newReloaded(log, []string{file}, func(contents [][]byte) ([sha256.Size]byte, error) {
		secret := bytes.TrimSpace(contents[0])
		if len(secret) < minToken {
			return [sha256.Size]byte{}, fmt.Errorf("the token has %d bytes, at least %d are needed", len(secret), minToken)
		}
		return sha256.Sum256(secret), nil
	})
	if err != nil {
		return nil, fmt.Errorf("token file %s: %w", file, err)
	}
	return &Token{sum: sum}, nil
}

var errNoCertificate = errors.New("it holds no certificate in PEM")
