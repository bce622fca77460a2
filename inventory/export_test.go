package inventory

// Residue counts the records of all indexes, to prove that nothing outlives its entries.
func Residue(inv *Inventory) int {
	n := len(inv.entries) + len(inv.odd) + len(inv.versions) + len(inv.namespaces) + len(inv.labels) + len(inv.owners) +
		len(inv.configMaps) + len(inv.links) + len(inv.services) + len(inv.referrers) + len(inv.contested) + len(inv.hosts) +
		len(inv.nodes) + len(inv.networks.lost.of) + len(inv.addresses) + len(inv.identities) + inv.collisions + inv.networks.orphans[0].count + inv.networks.orphans[1].count
	for _, count := range inv.reasons {
		n += count
	}
	return n
}
