package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	bridgesync "namebridge/sync"
)

// thousands writes a number with commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// seconds writes a span of seconds as people say it.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// heldWords lists the reasons that hold anybody.
func heldWords(h bridgesync.Held) string {
	var parts []string
	for _, r := range []struct {
		name string
		n    int
	}{
		{"unmatched", h.Unmatched}, {"ambiguous", h.Ambiguous}, {"conflict", h.Conflict},
		{"unwritable", h.Unwritable}, {"refused", h.Refused}, {"reverted", h.Reverted},
	} {
		if r.n > 0 {
			parts = append(parts, r.name+" "+thousands(r.n))
		}
	}
	return strings.Join(parts, " · ")
}
