// Package resources knows the Kubernetes resources that deepflow-server understands, and what it reads of them.
//
// It holds the catalogue (names, groups and versions, wire types), the selection by api_resources, the projection of an
// object's JSON to what is sent (docs/projection.md), the encoding of that to an Entry, and the rules by which an entry
// depends on other objects. One table says which fields of a kind survive (table.go), small named rules what becomes of
// them (rules.go).
//
// It relies on internal/jsonscan for reading JSON, on internal/protoscan for reading the same from protobuf, and on nothing
// that watches or sends. It promises that equal objects give equal bytes, that an unchanged object gives the very same Entry
// without being compressed, that nothing harmful to the server and no secret leaves it, and that no input makes it panic.
package resources
