package sync

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	nested = Layout{
		Key: "namecoach", LinkHosts: []string{"www.name-coach.com", "namewaves.s3.amazonaws.com", "*.media.example.ink"},
		Fields: []Field{{"pronouns", "custom_gender_pronouns"}, {"phonetic", "phonetic_spelling"}},
	}
	flat = Layout{Key: "namecoach", Flat: true, LinkHosts: nested.LinkHosts, Fields: nested.Fields}
)

// Trap 13: links are opaque. They are refused or written as they are, never built or mended.
func TestLinksAreRefusedNotRepaired(t *testing.T) {
	t.Parallel()
	const good = "https://www.name-coach.com/"
	for _, c := range []struct{ link, why string }{
		{good + "jane-doe", ""},
		{good, ""},
		{"https://www.name-coach.com", ""},
		{"HTTPS://WWW.Name-Coach.COM/Jane", ""},
		{"https://www.name-coach.com:443/jane", ""},
		{"https://namewaves.s3.amazonaws.com/a/b%20c.mp3?digest=1&x=%3D#t", ""},
		{good + "Zoë/ż?q=ü", ""},
		{good + "?next=http://evil.example@x:1/", ""},
		{"https://a.media.example.ink/x", ""},
		{"https://a.b.media.example.ink/x", ""},
		{good + strings.Repeat("a", 2000-len(good)), ""},

		{good + strings.Repeat("a", 2001-len(good)), "is over 2000 bytes"},
		{good + strings.Repeat("é", (2002-len(good))/2), "is over 2000 bytes"},
		{"http://www.name-coach.com/jane", "is not https"},
		{"ftp://www.name-coach.com/jane", "is not https"},
		{"javascript:alert(1)//www.name-coach.com", "is not https"},
		{"//www.name-coach.com/jane", "is not https"},
		{"www.name-coach.com/jane", "is not https"},
		{"jane", "is not https"},
		{"https:///x", "host"},
		{"https://", "host"},
		{"https:", "host"},
		{"https:www.name-coach.com/jane", "host"},
		{"https:/www.name-coach.com/jane", "host"},
		{"https://?www.name-coach.com", "host"},
		{"https://evil.example/www.name-coach.com", "host"},
		{"https://www.name-coach.com.evil.example/", "host"},
		{"https://evilwww.name-coach.com/", "host"},
		{"https://name-coach.com/", "host"},
		{"https://www.name-coach.com./", "host"},
		{"https://.www.name-coach.com/", "host"},
		{"https://s3.amazonaws.com/namewaves/x.mp3", "host"},
		{"https://media.example.ink/x", "host"},
		{"https://.media.example.ink/x", "host"},
		{"https://a..media.example.ink/x", "host"},
		{"https://evilmedia.example.ink/x", "host"},
		{"https://a.media.example.ink.evil.example/x", "host"},
		{"https://*.media.example.ink/x", "host"},
		{"https://a.media.example.\u0130nk/x", "host"},         // lower case makes an i of it, and browsers another name
		{"https://a.media.example.in\u212A/x", "host"},         // the Kelvin sign
		{"https://www.name\u2010coach.com/", "host"},           // another hyphen
		{"https://\uff57\uff57\uff57.name-coach.com/", "host"}, // full width
		{"https://www.name-coach\u3002com/", "host"},           // ideographic full stop
		{"https://www.n\u0430me-coach.com/", "host"},           // Cyrillic a
		{"https://xn--www-name-coach-xyz.com/", "host"},
		{"https://[::1]/x", "host"},
		{"https://127.0.0.1/x", "host"},
		{"https://[www.name-coach.com]/x", "link"},
		{"https://[::1%25www.name-coach.com]/x", ""},
		{"https://www%2ename-coach.com/", "link"},
		{"https://www.name-coach.com%00.evil.example/", "link"},
		{"https://www.name-coach.com:444/jane", "names a port"},
		{"https://www.name-coach.com:0443/jane", "names a port"},
		{"https://www.name-coach.com:x/jane", "link"},
		{"https://www.name-coach.com@evil.example/", "carries user info"},
		{"https://jane@www.name-coach.com/", "carries user info"},
		{"https://jane:secret@www.name-coach.com/", "carries user info"},
		{"https://@www.name-coach.com/", "carries user info"},
		{"https://evil.example\\@www.name-coach.com/", "do not belong in a link"},
		{"https://evil.example\\www.name-coach.com/", "do not belong in a link"},
		{"https:\\\\www.name-coach.com\\x", "do not belong in a link"},
		{good + "<script>", "do not belong in a link"},
		{good + `"onclick="`, "do not belong in a link"},
		{good + "\xff", "invisible"},
		{good + "\ufffd", "invisible"},
		{good + "\x00", "invisible"},
		{good + "\x1b[1m", "invisible"},
		{good + "\u0085", "invisible"},
		{good + "a\r\nSet-Cookie: b", "invisible"},
		{good + "jane doe", "invisible"},
		{good + "jane\u00a0doe", "invisible"},
		{" " + good, "invisible"},
		{good + "\u202egpm.live", "invisible"},
		{good + "\u2066", "invisible"},
		{good + "\u200f", "invisible"},
		{"https://www.name-coach.com\u200e/", "invisible"},
		{good + "%zz", "link"},
		{"https://www.name-coach.com /", "invisible"},
	} {
		for _, field := range []string{badgeKey, recordingKey} {
			p := Participant{NameBadgeLink: good + "badge", RecordingLink: c.link}
			if field == badgeKey {
				p.NameBadgeLink, p.RecordingLink = c.link, good+"a.mp3"
			}
			f, err := nested.Build(p)
			var refusal *Refusal
			switch {
			case strings.HasPrefix(c.link, "https://[::1%25"): // whatever the parser makes of it, but never a link
				if err == nil {
					t.Errorf("%+q was accepted", c.link)
				}
			case c.why == "":
				if err != nil || *f[field] != c.link {
					t.Errorf("%+q: got %v", c.link, err)
				}
			case !errors.As(err, &refusal) || refusal.Field != field || !strings.Contains(refusal.Why, c.why):
				t.Errorf("%+q: got %v, want a refusal of %s for its %q", c.link, err, field, c.why)
			case f != nil:
				t.Errorf("%+q: something of the participant would be written: %v", c.link, f)
			case strings.Contains(err.Error(), "name-coach") || strings.Contains(err.Error(), "evil"):
				t.Errorf("the refusal repeats the link: %v", err)
			}
		}
	}
}

func TestNoHostIsAllowedWhereNoneIsListed(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"https://www.name-coach.com/", "https:///x", "https:", "https:x"} {
		if err := (Layout{}).checkLink(badgeKey, link); err == nil {
			t.Errorf("%q was accepted", link)
		}
	}
}

func TestAFragmentHasAlwaysAllOfItsKeys(t *testing.T) {
	t.Parallel()
	const badge, recording = "https://www.name-coach.com/jane", "https://www.name-coach.com/jane.mp3?digest=1"
	all := func(change map[string]*string) Fragment {
		f := Fragment{badgeKey: nil, recordingKey: nil, recordingIDKey: nil, recordingDateKey: nil, eventTitleKey: nil, "pronouns": nil, "phonetic": nil}
		maps.Copy(f, change)
		return f
	}
	for name, c := range map[string]struct {
		in   Participant
		want Fragment
	}{
		"everything": {
			Participant{
				NameBadgeLink: badge, RecordingLink: recording, RecordingID: "19", RecordingDate: "2024-01-01T00:00:00+0000", EventTitle: "Graduation",
				Attributes: map[string]string{"custom_gender_pronouns": "she/her", "phonetic_spelling": "jayn", "notes": "not asked for"},
			},
			all(map[string]*string{
				badgeKey: new(badge), recordingKey: new(recording), recordingIDKey: new("19"), recordingDateKey: new("2024-01-01T00:00:00+0000"),
				eventTitleKey: new("Graduation"), "pronouns": new("she/her"), "phonetic": new("jayn"),
			}),
		},
		"a badge without a recording: all recording keys are null": {
			Participant{NameBadgeLink: badge, RecordingID: "19", RecordingDate: "2024-01-01T00:00:00+0000", EventTitle: "Graduation"},
			all(map[string]*string{badgeKey: new(badge), eventTitleKey: new("Graduation")}),
		},
		"a recording without a badge": {
			Participant{RecordingLink: recording, RecordingID: "recording_6684"},
			all(map[string]*string{recordingKey: new(recording), recordingIDKey: new("recording_6684")}),
		},
		"text is cleaned": {
			Participant{
				NameBadgeLink: badge, RecordingLink: recording, RecordingID: " 1\x009 ", RecordingDate: "\u200e", EventTitle: " Gradu\u202eation\n",
				Attributes: map[string]string{"custom_gender_pronouns": strings.Repeat("é", 300), "phonetic_spelling": " \ufffd "},
			},
			all(map[string]*string{
				badgeKey: new(badge), recordingKey: new(recording), recordingIDKey: new("19"),
				eventTitleKey: new("Graduation"), "pronouns": new(strings.Repeat("é", 255)),
			}),
		},
		"nothing": {Participant{}, all(nil)},
	} {
		got, err := nested.Build(c.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got): %s", name, diff)
		}
	}
}

func TestWhatLandsInOtherInfoToTheByte(t *testing.T) {
	t.Parallel()
	f, err := nested.Build(Participant{
		NameBadgeLink: "https://www.name-coach.com/j?a=1&b=2", RecordingLink: "https://www.name-coach.com/j.mp3", RecordingID: "19",
		EventTitle: `Arts & "Crafts" <1>\` + "\u2028é👩", Attributes: map[string]string{"custom_gender_pronouns": "she/her"},
	})
	if err != nil {
		t.Fatal(err)
	}
	type object = map[string]json.RawMessage
	const (
		title = `"Arts & \"Crafts\" <1>\\\u2028é👩"`
		own   = `"name_badge_link":"https://www.name-coach.com/j?a=1&b=2","recording_link":"https://www.name-coach.com/j.mp3","recording_id":"19","recording_date":null,` +
			`"event_title":` + title + `,"pronouns":"she/her","phonetic":null`
	)
	for name, c := range map[string]struct {
		layout Layout
		f      Fragment
		seen   object
		want   []string // key, value, …
	}{
		"nested, nothing there":        {nested, f, nil, []string{"namecoach", "{" + own + "}"}},
		"nested, null there":           {nested, f, object{"namecoach": json.RawMessage("null")}, []string{"namecoach", "{" + own + "}"}},
		"nested, an older one there":   {nested, f, object{"namecoach": json.RawMessage(`{"name_badge_link":"x","recording_id":null}`)}, []string{"namecoach", "{" + own + "}"}},
		"nested, a string there":       {nested, f, object{"namecoach": json.RawMessage(`"x"`)}, []string{"namecoach", "{" + own + "}"}},
		"nested, an array there":       {nested, f, object{"namecoach": json.RawMessage(`[1]`)}, []string{"namecoach", "{" + own + "}"}},
		"nested, members nobody wants": {nested, f, object{"namecoach": json.RawMessage(`{"zeta":1,"old & \"x\"":{"a":1},"gone":null}`)}, []string{"namecoach", "{" + own + `,"old & \"x\"":null,"zeta":null}`}},
		"nested, cleared":              {nested, nil, object{"namecoach": json.RawMessage(`{"zeta":1}`)}, []string{"namecoach", "null"}},
		"flat": {flat, f, object{"namecoach_pronouns": json.RawMessage(`{"zeta":1}`), "namecoach_zeta": json.RawMessage("1")}, []string{
			"namecoach_name_badge_link", `"https://www.name-coach.com/j?a=1&b=2"`, "namecoach_recording_link", `"https://www.name-coach.com/j.mp3"`,
			"namecoach_recording_id", `"19"`, "namecoach_recording_date", "null", "namecoach_event_title", title,
			"namecoach_pronouns", `"she/her"`, "namecoach_phonetic", "null",
		}},
		"flat, cleared": {flat, nil, nil, []string{
			"namecoach_name_badge_link", "null", "namecoach_recording_link", "null", "namecoach_recording_id", "null", "namecoach_recording_date", "null",
			"namecoach_event_title", "null", "namecoach_pronouns", "null", "namecoach_phonetic", "null",
		}},
	} {
		var got []string
		for _, m := range c.layout.Members(c.f, c.seen) {
			got = append(got, m.Key, string(m.Value))
			if !c.layout.Owns(m.Key) {
				t.Errorf("%s: %s is not ours", name, m.Key)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got): %s", name, diff)
		}
	}
}

func TestOnlyOurOwnKeysAreOurs(t *testing.T) {
	t.Parallel()
	for key, ours := range map[string][2]bool{ // nested, flat
		"namecoach": {true, false}, "namecoach_name_badge_link": {false, true}, "namecoach_pronouns": {false, true},
		"namecoach_": {}, "namecoach_notes": {}, "NameCoach": {}, "namecoach2": {}, "name_badge_link": {}, "namecoachname_badge_link": {},
		"namecoach_namecoach_pronouns": {}, "": {}, "jobTitle": {},
	} {
		if nested.Owns(key) != ours[0] || flat.Owns(key) != ours[1] {
			t.Errorf("%q: nested %t, flat %t, want %v", key, nested.Owns(key), flat.Owns(key), ours)
		}
	}
	for _, l := range []Layout{nested, flat} {
		for _, k := range l.Keys() {
			if !l.Owns(k) {
				t.Errorf("%s is a key of ours, and yet not ours", k)
			}
		}
	}
}

// at reads what stands in an otherInfo.
func at(object map[string]json.RawMessage) func(string) (json.RawMessage, bool) {
	return func(key string) (json.RawMessage, bool) {
		raw, ok := object[key]
		return raw, ok
	}
}

// in is an otherInfo with only that under our key.
func in(value string) func(string) (json.RawMessage, bool) {
	return at(map[string]json.RawMessage{"namecoach": json.RawMessage(value)})
}

// Traps 12 and 51.
func TestWhatSaysTheSameIsTheSame(t *testing.T) {
	t.Parallel()
	want := Fragment{badgeKey: new("https://b"), recordingKey: new("https://r?sig=1"), recordingIDKey: new("19"), recordingDateKey: nil, eventTitleKey: new("é")}
	withoutID := Fragment{badgeKey: new("https://b"), recordingKey: new("https://r?sig=1")}
	for name, c := range map[string]struct {
		there string
		f     Fragment
		same  bool
	}{
		"the same":                                        {`{"name_badge_link":"https://b","recording_link":"https://r?sig=1","recording_id":"19","recording_date":null,"event_title":"é"}`, want, true},
		"in another order, spelled another way":           {" {\"event_title\" : \"\\u00e9\",\n\"recording_id\":\"19\",\"recording_link\":\"https:\\/\\/r?sig=1\",\"name_badge_link\":\"https://b\",\"recording_date\":null}", want, true},
		"null is missing (trap 51)":                       {`{"name_badge_link":"https://b","recording_link":"https://r?sig=1","recording_id":"19","event_title":"é","zeta":null}`, want, true},
		"another signature, the same recording (trap 12)": {`{"name_badge_link":"https://b","recording_link":"https://r?sig=2","recording_id":"19","event_title":"é"}`, want, true},
		"another link, the same recording (trap 11)":      {`{"name_badge_link":"https://b","recording_link":"https://q","recording_id":"19","event_title":"é"}`, want, true},
		"another recording":                               {`{"name_badge_link":"https://b","recording_link":"https://r?sig=1","recording_id":"20","event_title":"é"}`, want, false},
		"no recording":                                    {`{"name_badge_link":"https://b","recording_id":"19","event_title":"é"}`, want, false},
		"no recording id":                                 {`{"name_badge_link":"https://b","recording_link":"https://r?sig=1","event_title":"é"}`, want, false},
		"another badge":                                   {`{"name_badge_link":"https://c","recording_link":"https://r?sig=1","recording_id":"19","event_title":"é"}`, want, false},
		"another title":                                   {`{"name_badge_link":"https://b","recording_link":"https://r?sig=1","recording_id":"19","event_title":"e"}`, want, false},
		"a member more":                                   {`{"name_badge_link":"https://b","recording_link":"https://r?sig=1","recording_id":"19","event_title":"é","zeta":""}`, want, false},
		"a value that is no string":                       {`{"name_badge_link":"https://b","recording_link":"https://r?sig=1","recording_id":19,"event_title":"é"}`, want, false},
		"without ids, another signature (trap 12)":        {`{"name_badge_link":"https://b","recording_link":"https://r?sig=2#x"}`, withoutID, true},
		"without ids, another link":                       {`{"name_badge_link":"https://b","recording_link":"https://q?sig=1"}`, withoutID, false},
		"nothing and nothing":                             {`null`, Fragment{badgeKey: nil}, true},
		"an empty object and nothing":                     {`{}`, nil, true},
		"all null and nothing":                            {`{"name_badge_link":null,"zeta":null}`, nil, true},
		"an empty string is not nothing":                  {`{"name_badge_link":""}`, nil, false},
		"a foreign string is not nothing":                 {`"x"`, nil, false},
		"a foreign array is not nothing":                  {`[]`, nil, false},
		"a foreign false is not nothing":                  {`false`, nil, false},
		"a foreign number is not nothing":                 {`0`, nil, false},
		"a key in another case is not ours":               {`{"Name_Badge_Link":"https://b","recording_link":"https://r"}`, withoutID, false},
		"a value cannot pose as two":                      {`{"name_badge_link":"https://b\"\n\"recording_link\":\"https://r"}`, Fragment{badgeKey: new("https://b"), recordingKey: new("https://r")}, false},
	} {
		if got := bytes.Equal(nested.Seen(in(c.there)), c.f.Digest()); got != c.same {
			t.Errorf("%s: same %t, want %t", name, got, c.same)
		}
	}
	if nested.Seen(at(nil)) != nil {
		t.Error("where there is no key, something is seen")
	}
}

func TestForeignValuesUnderOurKeyAreToldApart(t *testing.T) {
	t.Parallel()
	values := []string{`"x"`, `[]`, `[1]`, `false`, `0`, `1`, `{"a":1}`, `{"a":2}`, `{"b":1}`, `{"a":1,"b":2}`, `{"a":1,"b":3}`, `{"b":[],"name_badge_link":"https://b"}`, `{"b":[],"name_badge_link":"https://c"}`}
	seen := map[string]string{}
	for _, v := range values {
		digest := string(nested.Seen(in(v)))
		if other, ok := seen[digest]; ok {
			t.Errorf("%s and %s are taken for one", v, other)
		}
		seen[digest] = v
		for range 20 { // whatever the order in which a map is walked
			if again := string(nested.Seen(in(v))); again != digest {
				t.Fatalf("%s is summed up as %x, and then as %x", v, digest, again)
			}
		}
	}
	several := at(map[string]json.RawMessage{"namecoach_pronouns": json.RawMessage("1"), "namecoach_phonetic": json.RawMessage("[2]"), "namecoach_recording_id": json.RawMessage("3")})
	first := flat.Seen(several)
	for range 20 {
		if again := flat.Seen(several); !bytes.Equal(first, again) {
			t.Fatalf("flat: summed up as %x, and then as %x", first, again)
		}
	}
	if other := flat.Seen(at(map[string]json.RawMessage{"namecoach_pronouns": json.RawMessage("1")})); bytes.Equal(first, other) || len(other) == 0 {
		t.Error("flat: two foreign values are taken for one")
	}
}

// drawFragment draws what Build could make.
func drawFragment(t *rapid.T, l Layout) Fragment {
	ps := drawParticipants(t, 1)
	if len(ps) == 0 {
		return nil
	}
	p := ps[0]
	p.EventTitle = anyText().Draw(t, "title")
	p.Attributes["phonetic_spelling"] = rapid.String().Draw(t, "phonetic")
	f, err := l.Build(p)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// drawSeen draws what may stand in an otherInfo: foreign keys, and under ours an older fragment or something foreign.
func drawSeen(t *rapid.T, l Layout) map[string]json.RawMessage {
	values := rapid.SampledFrom([]string{`null`, `"x"`, `""`, `1`, `[1,null]`, `{}`, `{"zeta":1,"name_badge_link":"https://old"}`, `{"a":{"b":[]},"recording_id":null,"old":"x"}`})
	out := map[string]json.RawMessage{}
	for _, k := range append(l.Keys(), "jobTitle", "namecoach_zeta") {
		if rapid.Bool().Draw(t, "there") {
			out[k] = json.RawMessage(values.Draw(t, k))
		}
	}
	return out
}

// servers are the ways in which a server may take the members in (trap 47).
var servers = map[string]func(before map[string]json.RawMessage, ms []Member) map[string]json.RawMessage{
	"replaces": func(before map[string]json.RawMessage, ms []Member) map[string]json.RawMessage {
		after := maps.Clone(before) // the caller sends everything else as it was
		for _, m := range ms {
			after[m.Key] = m.Value
		}
		return after
	},
	"drops null members": func(before map[string]json.RawMessage, ms []Member) map[string]json.RawMessage {
		after := maps.Clone(before)
		for _, m := range ms {
			after[m.Key] = m.Value
			if string(m.Value) == "null" {
				delete(after, m.Key)
			}
		}
		return after
	},
	"merges deeply": func(before map[string]json.RawMessage, ms []Member) map[string]json.RawMessage {
		after := maps.Clone(before)
		for _, m := range ms {
			after[m.Key] = mergeDeeply(after[m.Key], m.Value)
		}
		return after
	},
}

func mergeDeeply(old, value json.RawMessage) json.RawMessage {
	var a, b map[string]json.RawMessage
	if json.Unmarshal(old, &a) != nil || json.Unmarshal(value, &b) != nil || a == nil || b == nil {
		return value
	}
	for k, v := range b {
		a[k] = mergeDeeply(a[k], v)
	}
	raw, err := json.Marshal(a)
	if err != nil {
		panic(err)
	}
	return raw
}

// Traps 47 and 51: after a write the answer shows the fragment, however the server merges.
func TestWhatWasWrittenIsSeenHoweverTheServerMerges(t *testing.T) {
	t.Parallel()
	for name, server := range servers {
		for _, l := range []Layout{nested, flat} {
			rapid.Check(t, func(t *rapid.T) {
				f, before := drawFragment(t, l), drawSeen(t, l)
				after := server(before, l.Members(f, before))
				if !bytes.Equal(l.Seen(at(after)), f.Digest()) {
					t.Fatalf("a server that %s shows %s, want %s", name, after, l.Members(f, nil))
				}
				if f == nil && l.Seen(at(after)) != nil {
					t.Fatalf("cleared, and yet there is %s", after)
				}
				for k, v := range before {
					if !l.Owns(k) && !bytes.Equal(after[k], v) {
						t.Fatalf("%s was changed to %s", k, after[k])
					}
				}
				if again := server(after, l.Members(f, after)); !bytes.Equal(l.Seen(at(again)), f.Digest()) {
					t.Fatalf("written again, it shows %s", again)
				}
			})
		}
	}
}

func TestBothLayoutsSumUpAlike(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFragment(t, nested)
		object := map[string]json.RawMessage{}
		for _, l := range []Layout{nested, flat} {
			for _, m := range l.Members(f, nil) {
				object[m.Key] = m.Value
			}
		}
		if !bytes.Equal(nested.Seen(at(object)), flat.Seen(at(object))) {
			t.Fatalf("of %s", object)
		}
		raw, err := json.Marshal(f) // as it is kept until it is written
		if err != nil {
			t.Fatal(err)
		}
		var kept Fragment
		if err := json.Unmarshal(raw, &kept); err != nil || !cmp.Equal(kept, f) {
			t.Fatalf("kept as %s: %v, %v", raw, kept, err)
		}
	})
}

func FuzzCheckLink(f *testing.F) {
	for _, s := range []string{
		"https://www.name-coach.com/jane", "https://WWW.name-coach.com:443", "https://a.media.example.ink/?x#y", "https://x@www.name-coach.com",
		"https://[www.name-coach.com]/", "https://a.media.example.\u0130nk", "https:///", "https://www.name-coach.com\u202e/", "https://.media.example.ink",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, link string) {
		if nested.checkLink(badgeKey, link) != nil {
			return
		}
		u, err := url.Parse(link)
		if err != nil || u.Scheme != "https" || u.User != nil || u.Opaque != "" || len(link) > 2000 || !utf8.ValidString(link) {
			t.Fatalf("accepted %q", link)
		}
		for _, r := range link {
			if unicode.IsControl(r) || unicode.IsSpace(r) || r == '\\' || r == utf8.RuneError || unicode.Is(unicode.Bidi_Control, r) {
				t.Fatalf("accepted %q with %U", link, r)
			}
		}
		host := strings.TrimSuffix(u.Host, ":443")
		host = strings.TrimSuffix(host, ":")
		for _, r := range host {
			if r >= utf8.RuneSelf {
				t.Fatalf("accepted the host %+q", host)
			}
		}
		if slices.Contains([]string{"www.name-coach.com", "namewaves.s3.amazonaws.com"}, strings.ToLower(host)) {
			return
		}
		labels, ok := strings.CutSuffix(strings.ToLower(host), ".media.example.ink")
		if !ok || slices.Contains(strings.Split(labels, "."), "") {
			t.Fatalf("accepted the host %q", host)
		}
	})
}

func FuzzSeen(f *testing.F) {
	for _, s := range []string{`null`, `{}`, `[]`, `"x"`, `1e999`, `{"a":null}`, `{"name_badge_link":"https://b","recording_link":"https://r?1"}`, `{"a":"\ud800"}`, `{"a":1,"b":[]}`, ` {"a" : "b"} `, `{`, ``} {
		f.Add([]byte(s), "https://b")
	}
	f.Fuzz(func(t *testing.T, raw []byte, badge string) {
		seen := nested.Seen(in(string(raw)))
		if again := nested.Seen(in(string(raw))); !bytes.Equal(seen, again) {
			t.Fatalf("%s is summed up as %x, and then as %x", raw, seen, again)
		}
		_ = flat.Seen(at(map[string]json.RawMessage{"namecoach_pronouns": raw, "namecoach_recording_link": raw}))
		if !json.Valid(raw) {
			return
		}
		var object map[string]*string
		isFragment := json.Unmarshal(raw, &object) == nil
		if isFragment != (len(seen) == 0 || len(seen) == 16) {
			t.Fatalf("%s is summed up in %d bytes", raw, len(seen))
		}
		mine := Fragment{badgeKey: new(CleanText(badge))}
		if bytes.Equal(seen, mine.Digest()) && (!isFragment || object[badgeKey] == nil || *object[badgeKey] != CleanText(badge)) {
			t.Fatalf("%s is taken for %s", raw, badge)
		}
		after := map[string]json.RawMessage{}
		for _, m := range nested.Members(mine, map[string]json.RawMessage{"namecoach": raw}) {
			if !json.Valid(m.Value) {
				t.Fatalf("%s is no JSON", m.Value)
			}
			after[m.Key] = m.Value
		}
		if !bytes.Equal(nested.Seen(at(after)), mine.Digest()) {
			t.Fatalf("written over %s, %s shows something else", raw, after)
		}
	})
}
