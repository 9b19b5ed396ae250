package sync_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"namebridge/internal/simulator"
)

// Traps 27c, 33: what both APIs' JSON may hold and Postgres or a URL may not.
var nasty = map[string]string{
	"NUL":              "A\x00B",
	"only NUL":         "\x00",
	"lone surrogate":   "A\xed\xa0\xbdB",
	"low surrogate":    "\xed\xb0\x80",
	"invalid UTF-8":    "A\xff\xfe\xc3(B",
	"cut UTF-8":        "Caf\xc3",
	"20 kB":            strings.Repeat("é", 10_000),
	"20 kB of NUL":     strings.Repeat("\x00", 20_000),
	"bidi":             "\u202egnp.exe\u202c \u2066x\u2069",
	"quotes":           `"'\` + "`" + `$$; DROP TABLE links; --`,
	"markup":           "<script>alert(1)</script>&amp;",
	"controls":         "a\x01\x1f\x7f\u0085\u2028b",
	"template":         "{{.Password}} ${jndi:ldap://evil.example} %s%n",
	"array in text":    `{a,"b",NULL}`,
	"null in words":    "null",
	"padded":           " \t\n\u00a0x\u3000 ",
	"combining":        "Z" + strings.Repeat("\u0300", 2000),
	"byte order marks": "\ufeffx\ufeff",
}

func TestNothingThatNameCoachSendsStopsARun(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 71, Users: 40, Put: simulator.DeepMerge})
	for name, text := range nasty {
		slug := strings.ReplaceAll(name, " ", "-")
		ada := w.user(slug+"@demo.example", "")
		p := speaker(slug, slug+"@demo.example", "", ada)
		p.FirstName, p.LastName, p.EventTitle, p.EventSlug, p.EventCode, p.Photo, p.Phonetic, p.Notes = text, text, text, text, text, text, text, text
		p.RecordingDate = text
		p.Custom = map[string]string{"custom_gender_pronouns": text, "custom_" + slug: text}
		w.AddParticipant(p)
		// The keys themselves: nobody's.
		for i := range 4 {
			p := speaker(fmt.Sprint(slug, i), "nobody."+slug+"@demo.example", "", 0)
			switch i {
			case 0:
				p.Email = text
			case 1:
				p.InstitutionID = text
			case 2:
				p.Email, p.InstitutionID = "", text
			case 3:
				p.EventAccessCode = text
			}
			w.AddParticipant(p)
		}
	}
	big := speaker("big", "big@demo.example", "", w.user("big@demo.example", ""))
	big.FirstName, big.Updated = strings.Repeat("é", 1<<19), big.Updated.Add(time.Hour)
	w.AddParticipant(big)
	truth := w.Truth()
	res := w.backfill(t)
	w.right(t)
	if res.Written != truth.Totals.Written || res.Linked != truth.Totals.Linked || res.Participants != truth.Totals.Participants {
		t.Errorf("%+v, the truth is %+v", res, truth.Totals)
	}
	if res := w.backfill(t); res.Written != 0 || w.asked("bln users.get") != 0 {
		t.Errorf("a second backfill: %+v", res)
	}
}

func TestNothingThatBLNSendsStopsARun(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 72, Users: 40})
	for name, text := range nasty {
		slug := strings.ReplaceAll(name, " ", "-")
		ada := w.AddUser(simulator.NewUser{Username: slug + "@demo.example", FirstName: text, LastName: text, OtherInfo: `{"jobTitle":"x","raw":` + quoted(text) + `}`})
		w.AddParticipant(speaker(slug, slug+"@demo.example", "", ada))
		w.AddUser(simulator.NewUser{Username: text, ExternalID: text, FirstName: text, LastName: text})
	}
	w.AddUser(simulator.NewUser{Username: "big", FirstName: strings.Repeat("é", 1<<19), OtherInfo: `{"big":` + quoted(strings.Repeat("x", 1<<20)) + `}`})
	truth := w.Truth()
	res := w.backfill(t)
	for id, u := range truth.Users {
		if u.Fragment != nil && w.fragment(t, id) == nil && w.reasons(t)[fmt.Sprint(id)] == "" {
			t.Errorf("user %d is neither written nor held", id)
		}
	}
	if res.Users != truth.Totals.Users || res.Linked != truth.Totals.Linked {
		t.Errorf("%+v, the truth is %+v", res, truth.Totals)
	}
	if res := w.backfill(t); res.Written != 0 || w.asked("bln users.get") != 0 {
		t.Errorf("a second backfill: %+v", res)
	}
}

// quoted writes text as JSON that holds its bytes as they are, but for what JSON forbids.
func quoted(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(text) {
		switch c := text[i]; {
		case c < 0x20:
			fmt.Fprintf(&b, `\u%04x`, c)
		case c == '"', c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Traps 1, 12, 13: links are refused, not repaired, and nothing of that participant is written.
func TestHostileLinksAreRefused(t *testing.T) {
	t.Parallel()
	const badge, mp3 = "https://www.name-coach.com/", "https://namewaves.s3.amazonaws.com/"
	bad := []string{
		"http://www.name-coach.com/x", "ftp://www.name-coach.com/x", "javascript:alert(1)", "data:text/html,x", "//www.name-coach.com/x", "www.name-coach.com/x", "/x",
		"https://www.name-coach.com.evil.example/x", "https://evil.example/www.name-coach.com", "https://www.name-coach.com@evil.example/", "https://a:b@www.name-coach.com/x",
		"https://www.name-coach.com\\@evil.example/", "https://evil.example#@www.name-coach.com/", "https://evil.example?@www.name-coach.com/", "https:///www.name-coach.com/x",
		"https:www.name-coach.com/x", "https://www.name-coach.com:8443/x", "https://www.nаme-coach.com/x", "https://www.name-coach.com./x", "https://127.0.0.1/x", "https://[::1]/x",
		badge + "a b", badge + "a\nb", badge + "a\x00b", badge + "a\x7fb", badge + "\u202ea", badge + "\xff", badge + "\xed\xa0\x80", badge + `"onclick="x`, badge + "<x>",
		badge + strings.Repeat("a", 2000), badge + strings.Repeat("a", 1<<20), "%68ttps://www.name-coach.com/x", "https://%77ww.name-coach.com/x", "ｈttps://www.name-coach.com/x",
	}
	w := start(t, simulator.Options{})
	want := map[string]string{}
	for i, link := range bad {
		for _, field := range []string{"badge", "recording"} {
			slug := fmt.Sprintf("%s%d", field, i)
			id := w.user(slug+"@demo.example", "")
			p := speaker(slug, slug+"@demo.example", "", id)
			if field == "badge" {
				p.NameBadgeLink = link
			} else {
				p.RecordingLink = link
			}
			w.AddParticipant(p)
			want[fmt.Sprint(id)] = "refused"
		}
	}
	good := map[int64]string{}
	for i, link := range []string{"HTTPS://WWW.NAME-COACH.COM/x", badge + "x?y=1#z", "  " + badge + "padded\n", badge + "%C3%A9", badge + "é", "https://www.name-coach.com:443/x", badge + strings.Repeat("a", 2000-len(badge))} {
		slug := fmt.Sprintf("good%d", i)
		id := w.user(slug+"@demo.example", "")
		p := speaker(slug, slug+"@demo.example", "", id)
		p.NameBadgeLink, p.RecordingLink = link, "\t"+mp3+"x.mp3 "
		w.AddParticipant(p)
		good[id] = strings.TrimSpace(link)
	}
	res := w.backfill(t)
	w.wantReasons(t, want)
	for id, link := range good {
		if f := w.fragment(t, id); says(f, "name_badge_link") != link || says(f, "recording_link") != mp3+"x.mp3" {
			t.Errorf("want %s, stored %s", link, w.UserOtherInfo(id))
		}
	}
	if res.Written != len(good) {
		t.Errorf("%+v", res)
	}
	for subject := range want {
		var id int64
		if _, err := fmt.Sscan(subject, &id); err != nil || w.fragment(t, id) != nil {
			t.Errorf("user %s has a fragment", subject)
		}
	}
}
