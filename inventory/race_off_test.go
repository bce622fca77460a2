//go:build !race

package inventory_test

// raceDetector is false: pools keep what they are given, and allocations can be counted.
const raceDetector = false
