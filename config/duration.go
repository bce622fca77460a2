package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// units are those of Go and of humantime, which deepflow-agent uses.
var units = map[string]time.Duration{
	"ns": time.Nanosecond, "us": time.Microsecond, "µs": time.Microsecond, "ms": time.Millisecond,
	"s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": day, "day": day, "days": day, "w": 7 * day, "week": 7 * day, "weeks": 7 * day,
}

var (
	errNotDuration  = errors.New("is not a duration")
	errNegative     = errors.New("is negative")
	errNoUnit       = errors.New("has no unit")
	errLongDuration = errors.New("is too long a duration")
)

// parseDuration reads what Go and deepflow-agent write, such as "90s", "1h30m", "1.5h", "1h 30min" and "30d". Only zero
// needs no unit. There are no negative durations here.
func parseDuration(s string) (time.Duration, error) {
	rest := strings.TrimSpace(s)
	if rest == "0" {
		return 0, nil
	}
	if rest == "" {
		return 0, errNotDuration
	}
	if rest[0] == '-' {
		return 0, errNegative
	}
	var sum float64
	for rest != "" {
		n := 0
		for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || rest[n] == '.') {
			n++
		}
		count, err := strconv.ParseFloat(rest[:n], 64)
		if err != nil {
			return 0, errNotDuration
		}
		rest = strings.TrimLeft(rest[n:], " ")
		n = strings.IndexFunc(rest, func(r rune) bool { return r == ' ' || r >= '0' && r <= '9' })
		if n < 0 {
			n = len(rest)
		}
		if n == 0 {
			return 0, errNoUnit
		}
		unit, ok := units[rest[:n]]
		if !ok {
			return 0, errNotDuration
		}
		rest = strings.TrimLeft(rest[n:], " ")
		sum += count * float64(unit)
	}
	if sum >= math.MaxInt64 {
		return 0, errLongDuration
	}
	return time.Duration(math.Round(sum)), nil
}

// formatDuration writes a duration as an operator would: "90s" is 1m30s, but "10m0s" is 10m and 720h is 30d.
func formatDuration(d time.Duration) string {
	if d >= 2*day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
