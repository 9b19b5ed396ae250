package config

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Problems is the error of Load: everything that is wrong, in the order of the variables' table.
type Problems struct {
	List []Problem // not empty
}

// Problem is one thing that is wrong.
type Problem struct {
	Variable string // the one to mend, under the name that it was found or is missed by
	Text     string // what is wrong and how to mend it; follows the name in a sentence. Never a secret
}

// Error is a heading, one aligned line for each problem, and where to look further.
func (p *Problems) Error() string {
	var b strings.Builder
	if len(p.List) == 1 {
		b.WriteString("1 problem with the configuration\n\n")
	} else {
		fmt.Fprintf(&b, "%d problems with the configuration\n\n", len(p.List))
	}
	width := 0
	for _, q := range p.List {
		width = max(width, utf8.RuneCountInString(q.Variable))
	}
	for _, q := range p.List {
		fmt.Fprintf(&b, "  %-*s    %s\n", width, q.Variable, q.Text)
	}
	b.WriteString("\nEvery variable: namebridge config --help")
	return b.String()
}
