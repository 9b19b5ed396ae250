package doctor

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/riverqueue/river/rivershared/levenshtein"

	"namebridge/internal/config"
)

// Stranger is a variable of the environment that reads like one of ours and is none. It may well be another program's: nothing is wrong for sure.
type Stranger struct {
	Name  string
	Meant string // the variable of ours that is nearest; "" where none is near
}

const isNone = "is no variable of namebridge and changes nothing"

// Text says so, with what was probably meant; it follows the name in a sentence.
func (s Stranger) Text() string {
	if s.Meant == "" {
		return isNone + "; all there are: namebridge config --help"
	}
	return isNone + "; did you mean " + s.Meant + "?"
}

// finding is the same for the doctor.
func (s Stranger) finding() (text, cure string) {
	const orNot = "; if it is another program's, all is well"
	if s.Meant == "" {
		return s.Name + " " + isNone, "namebridge config --help names all there are" + orNot
	}
	return s.Name + " " + isNone, "set " + s.Meant + " if that was meant" + orNot
}

// ownWords begin the names of our variables and hardly those of anybody else's. Whatever begins so and is none of ours is told; other names
// only where they are a slip away from one of ours that is not set.
var ownWords = []string{
	"NAMECOACH_", "BLN_", "OTHER_INFO_", "MATCH_", "LINK_", "COLLECT_", "SWEEP_", "CENSUS_", "WINDOW_", "GUARD_", "JOURNAL_",
}

var (
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// others are set by systems for programs of any name: Kubernetes for each of its services (here one called bln, say), systemd for
	// whoever logs to its journal.
	others = regexp.MustCompile(`^JOURNAL_STREAM$|_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$`)
)

// Strangers are the variables of an environment that nobody reads, though they look as if they were meant for us, in the order of their
// names. To config.Load, a variable that is misspelt is one that is not set.
func Strangers(e config.Environment) []Stranger {
	prefixes := config.Prefixes(e)
	ours := config.Names(prefixes)
	set := func(name string) bool { return strings.TrimSpace(e[name]) != "" }
	missing := slices.DeleteFunc(slices.Clone(ours), func(name string) bool {
		name = strings.TrimSuffix(name, config.FileSuffix)
		return set(name) || set(name+config.FileSuffix)
	})
	var all []Stranger
	for _, name := range slices.Sorted(maps.Keys(e)) {
		if !set(name) || slices.Contains(ours, name) || !variableName.MatchString(name) || others.MatchString(name) {
			continue
		}
		if beginsLikeOurs(name, prefixes) {
			all = append(all, Stranger{name, nearest(name, ours, len(name)/3)})
		} else if slip := nearest(name, missing, 2); slip != "" {
			all = append(all, Stranger{name, slip})
		}
	}
	return all
}

func beginsLikeOurs(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		rest, ok := strings.CutPrefix(name, p)
		return ok && slices.ContainsFunc(ownWords, func(w string) bool { return strings.HasPrefix(rest, w) })
	})
}

// nearest is the first of the candidates that the fewest letters tell from name; "" where more than most do, or more than one in a name so
// short that two make another word of it.
func nearest(name string, candidates []string, most int) string {
	const short = 9
	found := ""
	for _, c := range candidates {
		limit := most
		if min(len(name), len(c)) < short {
			limit = min(most, 1)
		}
		if d := levenshtein.ComputeDistance(strings.ToUpper(name), c); d <= limit && (found == "" || d < most) {
			found, most = c, d
		}
	}
	return found
}
