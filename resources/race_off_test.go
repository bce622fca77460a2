//go:build !race

package resources

// raceDetector is false: pools keep what they are given, and allocations can be counted.
const raceDetector = false
