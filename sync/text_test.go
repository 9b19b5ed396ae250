package sync

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestTextIsCleaned(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"nothing":                               {"", ""},
		"nothing to clean":                      {"Māori Studies – 101", "Māori Studies – 101"},
		"white space around":                    {" \t\u00a0\u2003Jane\u3000\n", "Jane"},
		"white space inside stays":              {"Jane  Doe", "Jane  Doe"},
		"only white space":                      {" \t\u2029 ", ""},
		"NUL (trap 27c)":                        {"Ja\x00ne", "Jane"},
		"C0":                                    {"\x01Ja\x1bne\x1f", "Jane"},
		"DEL and C1":                            {"Ja\x7f\u0080\u0085\u009fne", "Jane"},
		"line breaks and tabs":                  {"Ja\r\n\tne", "Jane"},
		"bidi embeddings and overrides":         {"\u202aJ\u202ba\u202cn\u202d\u202ee", "Jane"},
		"bidi isolates":                         {"\u2066J\u2067a\u2068n\u2069e", "Jane"},
		"bidi marks":                            {"\u200eJ\u200fa\u061cne", "Jane"},
		"a bidi mark around white space":        {"\u200e \u200eJane \u200e \u200e", "Jane"},
		"only bidi marks and white space":       {"\u200f \u202e\u2003\u200f", ""},
		"bytes that are not UTF-8":              {"Ja\xff\xc3ne", "Jane"},
		"a lone surrogate, as decoded":          {"Ja\ufffdne", "Jane"},
		"a lone surrogate, as WTF-8":            {"Ja\xed\xa0\x80ne", "Jane"},
		"joiners that spell words and emoji":    {"می\u200cخواهم 👩\u200d🎓", "می\u200cخواهم 👩\u200d🎓"},
		"right-to-left letters":                 {"שלום", "שלום"},
		"what JSON and HTML would escape stays": {`<a href="x">&\`, `<a href="x">&\`},
		"255 characters":                        {strings.Repeat("é", 255), strings.Repeat("é", 255)},
		"256 characters, counted as characters": {strings.Repeat("é", 256), strings.Repeat("é", 255)},
		"cut before white space":                {strings.Repeat("a", 254) + " b", strings.Repeat("a", 254)},
		"what is dropped does not count":        {strings.Repeat("a\u200e", 255) + "b", strings.Repeat("a", 255)},
	} {
		if got := CleanText(c.in); got != c.want {
			t.Errorf("%s: got %+q, want %+q", name, got, c.want)
		}
	}
}

// checkClean holds what every cleaned text must hold.
func checkClean(t interface{ Fatalf(string, ...any) }, in string) {
	got := CleanText(in)
	if again := CleanText(got); again != got {
		t.Fatalf("%+q cleaned is %+q, and cleaned twice %+q", in, got, again)
	}
	if !utf8.ValidString(got) || strings.ContainsRune(got, utf8.RuneError) {
		t.Fatalf("%+q cleaned is not text: %+q", in, got)
	}
	if n := utf8.RuneCountInString(got); n > 255 {
		t.Fatalf("%d characters are left", n)
	}
	if strings.TrimSpace(got) != got {
		t.Fatalf("white space is left around %+q", got)
	}
	for _, r := range got {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			t.Fatalf("%U is left of %+q", r, in)
		}
		if !strings.ContainsRune(in, r) {
			t.Fatalf("%U was not in %+q", r, in)
		}
	}
	if got != Storable(got, 4*maxText) {
		t.Fatalf("Postgres refuses %+q", got)
	}
}

// anyText draws text of all kinds: letters, what is dropped, what is not UTF-8.
func anyText() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{" ", "\x00", "\u200e", "\u202e", "\ufffd", "\xff", "a", "é", "\u3000", "\u2028", "\U0001F393", "\t", "\u0130", "\u212a"}), 0, 600),
			func(p []string) string { return strings.Join(p, "") }))
}

func TestCleanedTextIsCleanAndStaysAsItIs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) { checkClean(t, anyText().Draw(t, "text")) })
}

func TestEveryBidiControlIsDropped(t *testing.T) {
	t.Parallel()
	for _, r16 := range unicode.Bidi_Control.R16 {
		for r := rune(r16.Lo); r <= rune(r16.Hi); r += rune(r16.Stride) {
			if !dropped(r) {
				t.Errorf("%U stays", r)
			}
		}
	}
}

// Trap 27: the two sides spell one address in different cases.
func TestAddressesAreComparedTrimmedAndInLowerCase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{" Jane.Doe@Example.EDU\t", "jane.doe@example.edu"},
		{"ÉMILIE@EXAMPLE.EDU", "émilie@example.edu"},
		{"ΣΊΣΥΦΟΣ@example.edu", "σίσυφοσ@example.edu"},
		{"ÄÖÜ@example.edu", "äöü@example.edu"},
		{"", ""},
		{" ", ""},
		{"ja\x00ne@example.edu", ""},
		{"ja\ufffdne@example.edu", ""},
		{"ja\xffne@example.edu", ""},
		{"ja\nne@example.edu", ""},
		{strings.Repeat("a", 1020), strings.Repeat("a", 1020)},
		{strings.Repeat("a", 1021), ""},
	} {
		if got := Fold(c.in); got != c.want {
			t.Errorf("%+q: got %+q, want %+q", c.in, got, c.want)
		}
	}
}

// An address that merely looks like another's must not open that person's record.
func TestNoLetterOutsideASCIIFoldsIntoASCII(t *testing.T) {
	t.Parallel()
	for r := rune(utf8.RuneSelf); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		folded := Fold("a" + string(r) + "a") // inside, where nothing is trimmed
		if folded == "" {
			continue // a control character: no key
		}
		for _, f := range strings.TrimSuffix(strings.TrimPrefix(folded, "a"), "a") {
			if f < utf8.RuneSelf {
				t.Errorf("%U folds into %q", r, f)
			}
		}
	}
	for _, pair := range [][2]string{
		{"\u212Aim@example.edu", "kim@example.edu"},        // the Kelvin sign
		{"\u0130da@example.edu", "ida@example.edu"},        // I with a dot
		{"\u017Fam@example.edu", "sam@example.edu"},        // long s
		{"\uFF4Ban@example.edu", "kan@example.edu"},        // full width
		{"jane@ex\u0430mple.edu", "jane@example.edu"},      // Cyrillic a
		{"jane@example\u3002edu", "jane@example.edu"},      // ideographic full stop
		{"jane\u200b@example.edu", "jane@example.edu"},     // zero width space
		{"stra\u00dfe@example.edu", "strasse@example.edu"}, // sharp s
		{"e\u0301milie@example.edu", "émilie@example.edu"}, // not composed
		{"jane@example.edu,x@example.edu", "jane@example.edu"},
	} {
		if Fold(pair[0]) == Fold(pair[1]) {
			t.Errorf("%+q and %+q are taken for one", pair[0], pair[1])
		}
	}
}

// checkFold holds what every folded address must hold.
func checkFold(t interface{ Fatalf(string, ...any) }, in string) {
	got := Fold(in)
	if again := Fold(got); again != got {
		t.Fatalf("%+q folded is %+q, and folded twice %+q", in, got, again)
	}
	if upper := Fold(" " + got + "\t"); upper != got {
		t.Fatalf("white space around %+q makes it %+q", got, upper)
	}
	if len(got) > maxKey || Storable(got, maxKey) != got || Key(got) != got {
		t.Fatalf("%+q is no key", got)
	}
	ascii := func(s string) (n int) {
		for _, r := range s {
			if r < utf8.RuneSelf {
				n++
			}
		}
		return n
	}
	if got != "" && ascii(got) != ascii(strings.TrimSpace(in)) {
		t.Fatalf("folding %+q to %+q made or lost ASCII letters", in, got)
	}
}

func TestFoldingTwiceIsFoldingOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) { checkFold(t, anyText().Draw(t, "address")) })
	checkFold(t, strings.Repeat("\u023A", maxKey/2)) // lower case takes a byte more each
}

func TestKeysAreComparedExactlyButForWhiteSpaceAround(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{" 222-444-666 ", "222-444-666"},
		{"AbC", "AbC"},
		{"00123", "00123"},
		{"a b", "a b"},
		{"a\x00", ""},
		{"a\xff", ""},
		{"a\ufffd", ""},
		{"a\u0085b", ""},
		{"\u0085a", "a"},
		{strings.Repeat("k", 1021), ""},
		{strings.Repeat("k", 1020) + "   ", strings.Repeat("k", 1020)},
	} {
		if got := Key(c.in); got != c.want {
			t.Errorf("%+q: got %+q, want %+q", c.in, got, c.want)
		}
	}
}

// Trap 27c.
func TestWhatPostgresRefusesIsNeverStored(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{
		{"plain", 10, "plain"},
		{"a\x00b", 10, "a\ufffdb"},
		{"a\xffb", 10, "a\ufffdb"},
		{"a\xed\xa0\x80b", 10, "a\ufffdb"},
		{"abcdef", 3, "abc"},
		{"aé", 2, "a\ufffd"}, // cut in the middle of a letter
	} {
		if got := Storable(c.in, c.max); got != c.want {
			t.Errorf("%+q cut at %d: got %+q, want %+q", c.in, c.max, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in, limit := anyText().Draw(t, "text"), rapid.IntRange(0, 3000).Draw(t, "max")
		got := Storable(in, limit)
		if !utf8.ValidString(got) || strings.ContainsRune(got, 0) {
			t.Fatalf("%+q stored is %+q", in, got)
		}
		if len(got) > 3*limit {
			t.Fatalf("%d bytes are left of at most %d", len(got), limit)
		}
		good := utf8.ValidString(in) && !strings.ContainsRune(in, 0) && len(in) <= limit
		// A U+FFFD that is cut becomes one again.
		if good && got != in || !good && got == in && !strings.ContainsRune(in, utf8.RuneError) {
			t.Fatalf("%+q stored is %+q", in, got)
		}
	})
}

func FuzzCleanText(f *testing.F) {
	for _, s := range []string{"", " Jane\u200e ", "a\x00b\xffc", "\ufffd", strings.Repeat("é ", 200), "\u202e\u2066x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkClean(t, s) })
}

func FuzzFold(f *testing.F) {
	for _, s := range []string{"", "Jane@Example.edu ", "\u212A@\u0130", strings.Repeat("\u023A", 510), "a\xff", "Σ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkFold(t, s) })
}
