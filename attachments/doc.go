// Package attachments decides what networks a running Pod is to be attached to, what it is attached to, and which steps
// lie between.
//
// It parses the annotations, keeps durable records and computes steps. It neither runs plugins nor speaks to a cluster:
// time and what a node shows come in from outside, so that every history can be played. It promises that a text that does
// not parse yields no networks at all but an error with the place, that a record is either as before or as after a change
// whenever the process ends, and that carrying out the steps and planning again leaves no step.
package attachments
