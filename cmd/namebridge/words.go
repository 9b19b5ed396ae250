package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sethvargo/go-envconfig"

	bridgesync "namebridge/sync"
)

// noun is a word in the singular and the plural.
type noun struct{ one, many string }

// count writes "1 user" and "6,204 users".
func count(n int, of noun) string {
	if n == 1 {
		return "1 " + of.one
	}
	return thousands(n) + " " + of.many
}

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

// span writes a span of time as people say it.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}

// roughly writes a span of time that is only guessed, without figures that mean nothing.
func roughly(d time.Duration) string {
	switch {
	case d < 5*time.Second:
		return "a few seconds"
	case d < 55*time.Second:
		return fmt.Sprintf("about %d s", int(d.Round(5*time.Second).Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("about %d min", max(int(d.Round(time.Minute).Minutes()), 1))
	}
	return fmt.Sprintf("about %d h %d min", int(d.Hours()), int(d.Minutes())%60/10*10)
}

// ago is a span of time up to now in the words of a person.
func ago(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// when is a time to come in the words of a person.
func when(t, now time.Time) string {
	switch d := t.Sub(now); {
	case d <= 0:
		return "now"
	case d < 2*time.Hour:
		return "in " + ago(max(d, time.Second))
	case d < 20*time.Hour:
		return "at " + t.Local().Format("15:04 MST")
	}
	return t.Local().Format("Mon 2 Jan 15:04 MST")
}

// stamp is a moment with its zone: schedules and logs are in UTC.
func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// clean is text that may be anybody's, fit for a terminal, which obeys some of it: of any length, in one line.
func clean(text string) string {
	words := strings.Fields(text)
	for i, w := range words {
		words[i] = bridgesync.CleanText(w)
	}
	return strings.Join(words, " ")
}

// heldLines lists the reasons that hold anybody, three to a line.
func heldLines(h bridgesync.Held) []string {
	var parts []string
	for _, r := range []struct {
		name string
		n    int
	}{
		{"unmatched", h.Unmatched},
		{"ambiguous", h.Ambiguous},
		{"conflict", h.Conflict},
		{"unwritable", h.Unwritable},
		{"refused", h.Refused},
		{"reverted", h.Reverted},
	} {
		if r.n > 0 {
			parts = append(parts, r.name+" "+thousands(r.n))
		}
	}
	var lines []string
	for some := range slices.Chunk(parts, 3) {
		lines = append(lines, strings.Join(some, " · "))
	}
	return lines
}

// alarm is text that a person must not overlook: bold red on a terminal, unless NO_COLOR says otherwise.
func alarm(w io.Writer, environment envconfig.Lookuper, text string) string {
	none, _ := environment.Lookup("NO_COLOR")
	kind, _ := environment.Lookup("TERM")
	if !isTerminal(w) || none != "" || kind == "dumb" {
		return text
	}
	return "\x1b[1;31m" + text + "\x1b[0m"
}
