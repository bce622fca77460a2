package store

// Remembered tells what a Store has of a cluster in its memory.
func Remembered(s *Store, id string, tell func(*View) string) string {
	if c := s.clusters[id]; c != nil {
		if v := c.view.Load(); v != nil {
			return tell(v)
		}
	}
	return "nothing"
}
