package simulator

import (
	"encoding/json"
	"testing"
)

func TestTextSurvivesReadingAndWriting(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		`""`, `"plain"`, `"\u0000"`, `"\ud83d"`, `"\udc00 \ud83d x"`, `"🦊"`, `"\"\\"`, `"\u001f"`, `"é\u2028"`,
	} {
		n, err := parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(string(appendString(nil, n.text)))
		if err != nil || again.text != n.text {
			t.Errorf("%s: became %q, %v", raw, again.text, err)
		}
	}
	if n, _ := parse(`"\ud83e\udd8a\/\b\f\n\r\t"`); n.text != "🦊/\b\f\n\r\t" {
		t.Errorf("escapes: got %q", n.text)
	}
}

func TestCanonicalFormIsBlindToSpellingOnly(t *testing.T) {
	t.Parallel()
	canonical := func(raw string) string {
		n, err := parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		return string(appendCanonical(nil, &n))
	}
	for _, same := range [][2]string{
		{`{"a":1,"b":[true, null]}`, ` { "b" : [true,null] , "a" : 1 } `},
		{`"caf\u00e9 \/"`, `"café /"`},
	} {
		if canonical(same[0]) != canonical(same[1]) {
			t.Errorf("%s and %s are the same value", same[0], same[1])
		}
	}
	for _, other := range [][2]string{
		{"1.10", "1.1"}, {"12345678901234567890", "12345678901234567000"}, {`"\ud800"`, `"\ufffd"`}, {`"\u0000"`, `""`}, {`[1,2]`, `[2,1]`}, {`{"a":null}`, `{}`}, {"1", `"1"`},
	} {
		if canonical(other[0]) == canonical(other[1]) {
			t.Errorf("%s and %s are different values", other[0], other[1])
		}
	}
}

func TestMergingKeepsWhatTheBodyDoesNotName(t *testing.T) {
	t.Parallel()
	old, _ := parse(`{"a":1.10,"n":{"x":1,"y":"\ud800"},"l":[1]}`)
	body, _ := parse(`{"n":{"x":2},"l":[],"new":null}`)
	for deep, want := range map[bool]string{
		false: `{"a":1.10,"n":{"x":2},"l":[],"new":null}`,
		true:  `{"a":1.10,"n":{"x":2,"y":"\ud800"},"l":[],"new":null}`,
	} {
		if got := merge(old, body, deep).raw; got != want {
			t.Errorf("deep %t: got %s, want %s", deep, got, want)
		}
	}
}

func FuzzParseAgreesWithTheStandardLibrary(f *testing.F) {
	f.Add(`{"a":[1,-0.5e+3,{"b":"\ud83d\ude00\u0000"}],"c":[true,false,null,[],{}]}`)
	f.Fuzz(func(t *testing.T, raw string) {
		n, err := parse(raw)
		if (err == nil) != json.Valid([]byte(raw)) {
			t.Fatalf("valid or not: %v", err)
		}
		if err != nil {
			return
		}
		canonical := appendCanonical(nil, &n)
		again, err := parse(n.raw)
		if err != nil || string(appendCanonical(nil, &again)) != string(canonical) {
			t.Fatalf("%q: a value read from its own text differs: %v", raw, err)
		}
	})
}
