//go:build race

package inventory_test

// raceDetector tells that the tests run under the race detector, where sync.Pool forgets at random.
const raceDetector = true
