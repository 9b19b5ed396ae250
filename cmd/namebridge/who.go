package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"namebridge/state"
	bridgesync "namebridge/sync"
)

// whoHelp says what WHO may be.
const whoHelp = `WHO is an address, an institution id, or a BLN user id, as "holds list" shows it. Where that means several, the name stands in
full: email:ADDRESS, id:INSTITUTION_ID, or user:USER_ID.`

// The forms of WHO that mean one alone.
const userPrefix = "user:"

var exactPrefixes = []string{"email:", "id:", "row:", userPrefix}

func hasExactPrefix(s string) bool {
	return slices.ContainsFunc(exactPrefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// whoIs is how the one that a hold is about is called, such that WHO understands it.
func whoIs(h state.ListedHold) string {
	if h.Kind == state.HeldUser {
		return h.Subject
	}
	return personName(h.Subject)
}

// personName is a person's address or institution id; the whole key where that alone could be taken for something else.
func personName(key string) string {
	kind, name, _ := strings.Cut(key, ":")
	switch {
	case kind == "row", hasExactPrefix(name), strings.HasPrefix(name, "-"):
		return key
	case kind == "id" && (strings.Contains(name, "@") || strings.TrimSpace(name) != name):
		return key
	}
	return name
}

// quoted makes a word that a shell takes as it stands: it may be anybody's text, and people copy what they read.
func quoted(word string) string {
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("@._:+-", r)
	}
	if strings.ContainsFunc(word, func(r rune) bool { return !plain(r) }) {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}

// parseWho reads WHO. Its errors do not repeat it: it may be somebody's address.
func parseWho(cmd *cobra.Command, arg string) (state.Who, error) {
	var who state.Who
	kind, rest, _ := strings.Cut(arg, ":")
	switch {
	case strings.HasPrefix(arg, userPrefix):
		who.UserID = userID(rest)
	case kind == "email" && bridgesync.Fold(rest) != "":
		who.Person = "email:" + bridgesync.Fold(rest)
	case (kind == "id" || kind == "row") && bridgesync.Key(rest) != "":
		who.Person = kind + ":" + bridgesync.Key(rest)
	case !hasExactPrefix(arg):
		who.Email, who.ID, who.UserID = bridgesync.Fold(arg), bridgesync.Key(arg), userID(arg)
	}
	if who == (state.Who{}) {
		return who, usageError{fmt.Errorf("WHO is neither an address, nor an institution id, nor a BLN user id\n\nHelp: %s --help", cmd.CommandPath())}
	}
	return who, nil
}

// userID reads a BLN user id, 0 for what is none.
func userID(s string) int64 {
	id, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || id <= 0 {
		return 0
	}
	return id
}

// severalError says that WHO means more than one. Who they are is for stdout: an error must not show an address.
type severalError struct {
	what string
	list []string
}

func (e *severalError) Error() string {
	return e.what + "; name one of those above, as it stands there"
}

// showSeveral prints whom a severalError is about.
func (a *app) showSeveral(err error) error {
	if several, ok := errors.AsType[*severalError](err); ok {
		for _, line := range several.list {
			fmt.Fprintln(a.stdout, "  "+bridgesync.CleanText(line))
		}
		if len(several.list) >= state.FoundLimit {
			fmt.Fprintln(a.stdout, "  …")
		}
	}
	return err
}
