package logging

import (
	"context"
	"log/slog"

	"github.com/go-logr/logr"
)

// ClientGo is a logger for klog.NewContext. It passes client-go's own messages on at debug level: what matters of them,
// whoever uses client-go says better.
func ClientGo(l *slog.Logger) logr.Logger { return logr.FromSlogHandler(&debugHandler{l.Handler()}) }

type debugHandler struct{ slog.Handler }

// Enabled lets through what client-go says at verbosity 2 and below; each step of verbosity is one level less.
func (h *debugHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo-2 && h.Handler.Enabled(ctx, slog.LevelDebug)
}

func (h *debugHandler) Handle(ctx context.Context, r slog.Record) error {
	// logr does not ask before it hands over an error.
	if !h.Handler.Enabled(ctx, slog.LevelDebug) {
		return nil
	}
	r.Level = slog.LevelDebug
	return h.Handler.Handle(ctx, r)
}

func (h *debugHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &debugHandler{h.Handler.WithAttrs(attrs)}
}

func (h *debugHandler) WithGroup(name string) slog.Handler {
	return &debugHandler{h.Handler.WithGroup(name)}
}
