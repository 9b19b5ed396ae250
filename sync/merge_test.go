package sync

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"namebridge/bln"
	"namebridge/state"
)

// secret stands in every value that a test gives a person, and must not be told.
const secret = "S3CR3T"

// spelledValues are JSON values spelled in ways that a decoder and encoder would not give back, fit to be written (BLN 7348-7510).
var spelledValues = []string{
	`"` + secret + `"`, `"\u0053` + secret + `\/\ud800\u0000"`, `null`, `true`, `1978.10`, `12345678901234567890`, `1e400`, `-0.0`, ` "` + secret + "é👩\" ",
	`{ "z" : 1 , "a":"` + secret + `","n":null}`, `{}`, `[]`, `[ "` + secret + `",2 , true]`,
}

// refusedValues are readable and not writable (traps 48 and 49).
var refusedValues = []string{
	`{"x":{"employerName":"` + secret + `"}}`, `[["` + secret + `"]]`, `{"a b":"` + secret + `"}`, `[{"a":["` + secret + `"]}]`, `[null,"` + secret + `"]`,
}

var refusedKnown = map[string][]string{
	"birthYear": {`1978.0`, `1919`, `2021`, `"` + secret + `"`}, "trades": {`null`, `["` + secret + `","` + secret + `"]`, `[null]`}, "device": {`null`, `{"serial":"` + secret + `"}`},
	"address": {`{"post-office-box":"` + secret + `"}`, `{"planet":"` + secret + `"}`}, "dob": {`"` + secret + `"`, `"13/01/2000"`},
	"homePhone": {`15005550300`, `{"a":"` + secret + `"}`}, "homePhoneContactAllowed": {`null`, `"` + secret + `"`},
}

// drawForeign draws an otherInfo without our keys; fit tells whether it may be written as it is.
func drawForeign(t *rapid.T, l Layout) (text string, fit bool) {
	space := rapid.SampledFrom([]string{"", "", " ", "\n\t"})
	keys := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{
		"jobTitle", "personalEmail", "custom", "Custom", "learningRecords", "x-1", "namecoach_zeta", "NameCoach", "c\\u0061fe", "namecoach2",
	}), 0, 7, rapid.ID).Draw(t, "keys")
	fit = true
	var b strings.Builder
	member := func(key, value string) {
		if b.Len() > 1 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, `%s"%s"%s:%s%s%s`, space.Draw(t, "space"), key, space.Draw(t, "space"), space.Draw(t, "space"), value, space.Draw(t, "space"))
	}
	b.WriteString("{")
	for _, k := range keys {
		switch {
		case k == "jobTitle" || k == "personalEmail":
			member(k, rapid.SampledFrom([]string{`"` + secret + `"`, `null`, `"\u0000` + secret + `"`}).Draw(t, k))
		case rapid.IntRange(0, 9).Draw(t, "refused") == 0:
			member(k, rapid.SampledFrom(refusedValues).Draw(t, k))
			fit = false
		default:
			member(k, rapid.SampledFrom(spelledValues).Draw(t, k))
		}
	}
	if rapid.IntRange(0, 4).Draw(t, "known") == 0 {
		k := rapid.SampledFrom([]string{"birthYear", "trades", "device", "address", "dob", "homePhone", "homePhoneContactAllowed"}).Draw(t, "which")
		member(k, rapid.SampledFrom(refusedKnown[k]).Draw(t, k))
		fit = false
	}
	for k, v := range drawSeen(t, l) {
		if l.Owns(k) {
			member(k, string(v))
		}
	}
	b.WriteString(space.Draw(t, "space") + "}")
	return b.String(), fit
}

// claimOf is a user to be written to show f, or to be cleared.
func claimOf(t *rapid.T, f Fragment, applied []byte) state.Claimed {
	c := state.Claimed{UserID: 1, Action: string(Clear), AppliedDigest: applied}
	if f != nil {
		raw, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		c.Action, c.Wanted, c.WantedDigest = string(Write), raw, f.Digest()
	}
	return c
}

// Foreign data survives: a write changes the fragment and nothing else (traps 47 to 51). What cannot be echoed back is not written.
func TestAWriteHoldsEveryForeignKeyByteForByteOrIsNotMade(t *testing.T) {
	t.Parallel()
	for _, l := range []Layout{nested, flat} {
		for _, merging := range []bool{false, true} {
			r := &run{Bridge: &Bridge{Settings: Settings{Layout: l, MergingServer: merging}}}
			rapid.Check(t, func(t *rapid.T) {
				text, fit := drawForeign(t, l)
				before, err := bln.ParseOtherInfo([]byte(text))
				if err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				f := drawFragment(t, l)
				seen := l.Seen(before.Get)
				m, problem := r.merge(bln.User{HasOtherInfo: true, OtherInfo: before}, claimOf(t, f, rapid.SampledFrom([][]byte{seen, []byte("another digest")}).Draw(t, "applied")))
				if strings.Contains(problem, secret) || strings.Contains(problem, "@") {
					t.Fatalf("the problem tells a value: %s", problem)
				}
				if string(m.before.JSON()) != string(before.JSON()) {
					t.Fatalf("the before-image of %s is %s", text, m.before.JSON())
				}
				switch {
				case m.there:
					if !bytes.Equal(seen, f.Digest()) {
						t.Fatalf("%s is said to show %v", text, f)
					}
					return
				case m.notOurs:
					if f != nil {
						t.Fatal("a write was called off as if it were a clear")
					}
					return
				case problem != "":
					if fit || merging {
						t.Fatalf("%s can be written, and yet: %s", m.send.JSON(), problem)
					}
					return
				case !fit && !merging:
					t.Fatalf("%s would be refused, and would be sent", m.send.JSON())
				}
				if !bytes.Equal(l.Seen(m.send.Get), f.Digest()) {
					t.Fatalf("%s does not show %v", m.send.JSON(), f)
				}
				if again, err := bln.ParseOtherInfo(m.send.JSON()); err != nil || again.Validate() != nil {
					t.Fatalf("%s is not fit to be sent: %v", m.send.JSON(), err)
				}
				if merging {
					for _, k := range m.send.Keys() {
						if !l.Owns(k) {
							t.Fatalf("%s, which is not ours, would be sent", k)
						}
					}
					return
				}
				had := before.Keys()
				for i, k := range m.send.Keys() {
					was, there := before.Get(k)
					is, _ := m.send.Get(k)
					if !l.Owns(k) && (!there || string(was) != string(is)) {
						t.Fatalf("%s was %s and would be %s", k, was, is)
					}
					if i < len(had) && k != had[i] {
						t.Fatalf("the keys %q come in another order: %q", had, m.send.Keys())
					}
				}
				if len(m.send.Keys()) < len(had) {
					t.Fatalf("keys %q would be %q", had, m.send.Keys())
				}
				// Our members taken out of both, what is left is the same to the byte.
				left, leftBefore := m.send, before
				for _, k := range l.Keys() {
					left, leftBefore = left.Without(k), leftBefore.Without(k)
				}
				if string(left.JSON()) != string(leftBefore.JSON()) {
					t.Fatalf("beside our keys, %s would be %s", leftBefore.JSON(), left.JSON())
				}
			})
		}
	}
}

func TestOtherInfoThatCannotBeReadWithoutLossIsNotWritten(t *testing.T) {
	t.Parallel()
	r := &run{Bridge: &Bridge{Settings: Settings{Layout: nested}}}
	for _, text := range []string{
		`{"a":"` + secret + `","a":1}`, `["` + secret + `"]`, `"` + secret + `"`, "{\"a\":\"" + secret + "\xff\"}", `{"` + secret + `@example.edu":1,"` + secret + `@example.edu":2}`,
	} {
		_, err := bln.ParseOtherInfo([]byte(text))
		if err == nil {
			t.Fatalf("%s was read", text)
		}
		m, problem := r.merge(bln.User{OtherInfoErr: err}, state.Claimed{Action: string(Write), Wanted: json.RawMessage(`{"name_badge_link":"https://b"}`), WantedDigest: []byte("x")})
		if problem == "" || m.members != nil || strings.Contains(problem, secret) {
			t.Errorf("%s: %q, %s", text, problem, m.send.JSON())
		}
	}
}

// Trap 50.
func TestAHundredPropertiesAreTheMost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		layout Layout
		n      int
		fits   bool
	}{{nested, 99, true}, {nested, 100, false}, {flat, 93, true}, {flat, 94, false}} {
		for _, merging := range []bool{false, true} {
			var o bln.OtherInfo
			for i := range c.n {
				o = o.With(fmt.Sprint("k", i), json.RawMessage(`"`+secret+`"`))
			}
			r := &run{Bridge: &Bridge{Settings: Settings{Layout: c.layout, MergingServer: merging}}}
			_, problem := r.merge(bln.User{HasOtherInfo: true, OtherInfo: o}, state.Claimed{Action: string(Write), Wanted: json.RawMessage(`{"name_badge_link":"https://b"}`), WantedDigest: []byte("x")})
			if (problem == "") != c.fits || !c.fits && !strings.Contains(problem, "100") {
				t.Errorf("flat %t, merging %t, %d properties: %q", c.layout.Flat, merging, c.n, problem)
			}
		}
	}
	// Writing once more adds none.
	o := bln.OtherInfo{}.With("namecoach", json.RawMessage(`{"name_badge_link":"https://old"}`))
	for i := range 99 {
		o = o.With(fmt.Sprint("k", i), json.RawMessage("1"))
	}
	r := &run{Bridge: &Bridge{Settings: Settings{Layout: nested}}}
	if _, problem := r.merge(bln.User{HasOtherInfo: true, OtherInfo: o}, state.Claimed{Action: string(Write), Wanted: json.RawMessage(`{"name_badge_link":"https://b"}`), WantedDigest: []byte("x")}); problem != "" {
		t.Error(problem)
	}
}
