package viewer

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Light checks are kept as documents, many in one, so that a restart need not read the objects of all clusters again. A check that is
// older than what is stored is brought up to date as any other; one that is too old is made anew.
const (
	checksKind  = "check"
	checksBytes = 512 << 10 // of a document, about
	// saveEvery is how often they are saved while the Viewer runs; the last time is at its end.
	saveEvery    = 10 * time.Minute
	savePatience = 10 * time.Second
)

// savedCheck is the check of one cluster.
type savedCheck struct {
	Cluster string          `json:"cluster"`
	Of      point           `json:"of"`
	Check   json.RawMessage `json:"check"`
}

// keepsChecks tells whether checks are kept: other replicas of a shared storage have their own, and memory does not last.
func (v *Viewer) keepsChecks() bool {
	_, ok := v.opts.Store.Backend().(*store.Embedded)
	return ok
}

// loadChecks takes the saved checks over. Clusters whose check is damaged are checked anew, as if none had been saved.
func (v *Viewer) loadChecks(ctx context.Context) error {
	if !v.keepsChecks() {
		return nil
	}
	docs, err := v.opts.Store.Backend().Documents(ctx, checksKind)
	if err != nil {
		return fmt.Errorf("read checks: %w", err)
	}
	var damaged []error
	for _, d := range docs {
		var list []savedCheck
		if err := json.Unmarshal(d.Value, &list); err != nil {
			damaged = append(damaged, fmt.Errorf("document %s: %w", d.Key, err))
			continue
		}
		for _, saved := range list {
			check, err := inventory.LoadCheck(saved.Check)
			if err != nil {
				damaged = append(damaged, fmt.Errorf("cluster %s: %w", saved.Cluster, err))
				continue
			}
			if err := v.takeOver(ctx, v.cluster(saved.Cluster), check, saved.Of); err != nil {
				return err
			}
		}
	}
	if len(damaged) > 0 {
		v.log.Warn("what was saved of the checks of clusters is damaged in part: these clusters are checked anew, which reads their objects",
			"damaged", len(damaged), "first", damaged[0])
	}
	return nil
}

// takeOver makes a check that of a cluster, unless somebody looked at the cluster already.
func (v *Viewer) takeOver(ctx context.Context, c *cluster, check *inventory.Check, of point) error {
	if err := wait(ctx, c.lock, "the check of cluster "+c.id); err != nil {
		return err
	}
	defer func() { <-c.lock }()
	if c.inv == nil && c.check == nil {
		c.check, c.checkOf, c.loaded = check, of, true
		c.checked.Store(&checked{version: of.version()})
	}
	return nil
}

// saveChecks saves the checks of all clusters that are not suspicious: those that are get an inventory, which knows more.
func (v *Viewer) saveChecks(ctx context.Context) error {
	if !v.keepsChecks() {
		return nil
	}
	docs, err := v.opts.Store.Backend().Documents(ctx, checksKind)
	if err != nil {
		return fmt.Errorf("save checks: %w", err)
	}
	var list []savedCheck
	size, written := 0, 0
	write := func() error {
		d := store.Document{Key: fmt.Sprintf("%06d", written)}
		if written < len(docs) {
			d = docs[written]
		}
		if d.Value, err = json.Marshal(list); err != nil {
			return fmt.Errorf("save checks: %w", err)
		}
		list, size = nil, 0
		written++
		v.opts.Beat()
		_, err = v.opts.Store.Backend().PutDocument(ctx, checksKind, d)
		return err
	}
	for _, c := range v.all() {
		saved, ok, err := c.save()
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		list = append(list, saved)
		if size += len(saved.Check); size >= checksBytes {
			if err := write(); err != nil {
				return err
			}
		}
	}
	if len(list) > 0 {
		if err := write(); err != nil {
			return err
		}
	}
	for _, d := range docs[min(written, len(docs)):] {
		d.Value = nil
		if _, err := v.opts.Store.Backend().PutDocument(ctx, checksKind, d); err != nil {
			return err
		}
	}
	return nil
}

// save returns the check of a cluster; false: there is none, or somebody uses it.
func (c *cluster) save() (savedCheck, bool, error) {
	select {
	case c.lock <- struct{}{}:
		defer func() { <-c.lock }()
	default:
		return savedCheck{}, false, nil
	}
	if c.gone || c.check == nil || c.check.Suspicious() {
		return savedCheck{}, false, nil
	}
	b, err := c.check.Save()
	return savedCheck{Cluster: c.id, Of: c.checkOf, Check: b}, true, err
}
