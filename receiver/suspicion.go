package receiver

import "time"

// SuspicionOptions refuse reports that would remove too much at once.
type SuspicionOptions struct {
	Enabled bool
	// MaxRemovedShare is the share of a cluster's objects that one report may remove, more than 0 and at most 1.
	MaxRemovedShare float64
	// ConfirmAfter is how long after a refusal the same content is accepted.
	ConfirmAfter time.Duration
}

// acceptance is how long an operator's acceptance waits for the report that it lets pass.
const acceptance = time.Hour
