package budget

// How the memory of the program is divided, each a part of what it may use: a container's limit less what the kernel needs
// (limits.memory). What is left is for the program itself, the API and the garbage collector.
const (
	// ConnectionShare is for what each connection takes: 1/10.
	ConnectionShare = 10
	// WaitingShare is for requests that wait for their turn: 1/16.
	WaitingShare = 16
	// MediumShare is for requests of middle size: 1/16.
	MediumShare = 16
	// LargeSixteenths is for large requests.
	LargeSixteenths = 3
	// EntriesShare is for large objects that are decompressed at once: 1/16.
	EntriesShare = 16
	// EntryShare is for one decompressed object: 1/128.
	EntryShare = 128

	clusterEighths = 3 // for what lasts
	cacheShare     = 4 // of what lasts, for indexes that nobody uses, and the same for inventories
)

// Caches are how many bytes are kept of what can be made again and nobody uses; 0: all.
type Caches struct {
	Indexes, Inventories int64
}

// Divide returns how many bytes of the memory of the program are for what lasts of clusters, and how much of that for the caches
// that are wanted. Without a limit, which is 0, nothing is bounded but the caches.
func Divide(memory int64, want Caches) (clusters int64, have Caches) {
	if memory <= 0 {
		return 0, want
	}
	clusters = memory / 8 * clusterEighths
	lower := func(n int64) int64 {
		if most := clusters / cacheShare; n == 0 || n > most {
			return most
		}
		return n
	}
	return clusters, Caches{Indexes: lower(want.Indexes), Inventories: lower(want.Inventories)}
}
