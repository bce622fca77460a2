// Package logging makes the logger of both daemons.
package logging

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// New returns a logger that writes to w in the format "json" or "text", and the level that can be changed while it is
// in use. Levels are debug, info, warn and error.
func New(w io.Writer, format, level string) (*slog.Logger, *slog.LevelVar, error) {
	var lv slog.LevelVar
	if err := SetLevel(&lv, level); err != nil {
		return nil, nil, err
	}
	opts := &slog.HandlerOptions{Level: &lv}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), &lv, nil
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), &lv, nil
	default:
		return nil, nil, fmt.Errorf("log.format %q is unknown: use json or text", format)
	}
}

// SetLevel sets lv to the level of that name.
func SetLevel(lv *slog.LevelVar, level string) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return fmt.Errorf("log.level %q is unknown: use debug, info, warn or error", level)
	}
	lv.Set(l)
	return nil
}
