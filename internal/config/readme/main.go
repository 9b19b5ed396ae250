// Command readme writes the table of all variables into README.md, between its two marks; with -check it only says whether it is there.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"namebridge/internal/config"
)

const (
	begin = "<!-- variables: written by make generate -->\n"
	end   = "<!-- end of variables -->\n"
)

func main() {
	check := flag.Bool("check", false, "change nothing; fail where the table is not the current one")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: readme [-check] README.md")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *check); err != nil {
		fmt.Fprintln(os.Stderr, "readme:", err)
		os.Exit(1)
	}
}

func run(name string, check bool) error {
	old, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: the table's marks are missing:\n%s%s", name, begin, end)
	}
	current := before + begin + "\n" + config.Markdown() + "\n" + end + after
	switch {
	case current == string(old):
		return nil
	case check:
		return errors.New("the table of variables in " + name + " is not the current one: make generate")
	}
	return os.WriteFile(name, []byte(current), 0o644)
}
