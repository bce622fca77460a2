package informers

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// versionWireType is the type under which the server files the apiserver's /version, which it cannot do without
// (docs/protocol.md, section 3).
const versionWireType = "*version.Info"

// watchVersion keeps the entry of the apiserver's /version, which changes when the cluster is upgraded.
func (s *Set) watchVersion(ctx context.Context) {
	enc := resources.NewEncoder()
	var entry *resources.Entry
	for {
		wait := versionInterval
		next, err := s.fetchVersion(ctx, enc, entry)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			f := failureOf("cannot get /version", err)
			s.metrics.errors.WithLabelValues(VersionID, "get", string(f.class)).Inc()
			s.version.failed(now, f)
			wait = max(versionRetry, retryAfter(err))
		default:
			if entry == nil {
				s.opts.Sink.Replace(VersionID, []*resources.Entry{next})
			} else if next != entry {
				s.opts.Sink.Upsert(VersionID, next)
			}
			entry = next
			setTime(s.metrics.lastList, VersionID, now)
			s.metrics.entries.WithLabelValues(VersionID).Set(1)
			s.version.update(now, func(r *record) { r.listed(now) })
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func (s *Set) fetchVersion(ctx context.Context, enc *resources.Encoder, known *resources.Entry) (*resources.Entry, error) {
	doc, err := s.client.get(ctx, VersionID, "/version", "", runtime.ContentTypeJSON, "")
	if err != nil {
		return nil, err
	}
	var info version.Info
	if err := jsonUnmarshal(doc.body, &info); err != nil {
		return nil, err
	}
	if info.GitVersion == "" {
		return nil, &dataError{"/version has no gitVersion"}
	}
	body, err := json.Marshal(info)
	if err != nil {
		return nil, errors.Join(errors.New("encode /version"), err)
	}
	return enc.Encode(resources.Content{WireType: versionWireType, UID: resources.ParseUID(versionWireType), JSON: body}, known), nil
}
