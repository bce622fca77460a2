//go:build !race

package resources

const raceDetector = false
