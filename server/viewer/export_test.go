package viewer

// Inventories is how many inventories are held.
func (v *Viewer) Inventories() int {
	v.held.mu.Lock()
	defer v.held.mu.Unlock()
	return len(v.held.of)
}

// Asked tells whether plugins have changed, and have been asked about every cluster since.
func (v *Viewer) Asked() bool {
	answers := v.answers.Load()
	for _, c := range v.all() {
		if !c.hasAsked(answers) {
			return false
		}
	}
	return answers > 0
}
