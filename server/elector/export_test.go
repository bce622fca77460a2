package elector

import "context"

// Sweep looks at all clusters once, as Run does.
func (e *Elector) Sweep(ctx context.Context) { e.sweep(ctx) }
