package inventory

// versionInfo is the *version.Info entry.
type versionInfo struct {
	object
	gitVersion string
}

func (d *decoder) version() entity {
	v := &versionInfo{object: d.object}
	d.scanner.object(func(key []byte) {
		if string(key) == "gitVersion" {
			v.gitVersion = d.text()
			return
		}
		d.skip()
	})
	return v
}
