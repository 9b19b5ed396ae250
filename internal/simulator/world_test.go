package simulator

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newWorldOf(t *testing.T, o Options) *Simulator {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheSameSeedGivesTheSameWorld(t *testing.T) {
	t.Parallel()
	a, b := newWorldOf(t, Options{Seed: 7, Users: 700}), newWorldOf(t, Options{Seed: 7, Users: 700})
	if diff := cmp.Diff(a.Participants(), b.Participants()); diff != "" {
		t.Errorf("participants differ:\n%.2000s", diff)
	}
	if diff := cmp.Diff(a.Users(), b.Users()); diff != "" {
		t.Errorf("users differ:\n%.2000s", diff)
	}
	if diff := cmp.Diff(a.ForeignDigests(), b.ForeignDigests()); diff != "" {
		t.Errorf("otherInfo differs:\n%.2000s", diff)
	}
	if c := newWorldOf(t, Options{Seed: 8, Users: 700}); cmp.Equal(a.Users(), c.Users()) {
		t.Error("another seed gave the same users")
	}
}

// The decree (Participant.For and Held) is compared with what two plain maps of the visible keys say.
func TestWhoseARowIsAgreesWithItsKeys(t *testing.T) {
	t.Parallel()
	agreesWithKeys(t, newWorldOf(t, Options{Seed: 3, Users: 4000}))
}

func agreesWithKeys(t *testing.T, s *Simulator) {
	t.Helper()
	byUsername, byExternal := map[string][]int64{}, map[string][]int64{}
	for _, u := range s.Users() {
		name := strings.ToLower(strings.TrimSpace(u.Username))
		byUsername[name] = append(byUsername[name], u.ID)
		if id := strings.TrimSpace(u.ExternalID); id != "" {
			byExternal[id] = append(byExternal[id], u.ID)
		}
	}
	rows := map[string][]Participant{}
	for _, p := range s.Participants() {
		if p.Person() == "" {
			t.Fatalf("participant %d is nobody", p.ID)
		}
		rows[p.Person()] = append(rows[p.Person()], p)
	}
	for person, rows := range rows {
		all := map[int64]bool{}
		ambiguous, shared := false, false // two users with the same externalId hold both
		note := func(ids []int64) {
			ambiguous = ambiguous || len(ids) > 1
			for _, id := range ids {
				all[id] = true
				if x := strings.TrimSpace(s.world.users[id].externalID); x != "" && len(byExternal[x]) > 1 {
					shared = true
				}
			}
		}
		for _, p := range rows {
			note(byUsername[strings.ToLower(strings.TrimSpace(p.Email))])
			note(byExternal[strings.TrimSpace(p.InstitutionID)])
		}
		want, held := int64(0), ""
		switch {
		case len(all) == 0:
			held = "unmatched"
		case ambiguous || shared && len(all) == 1:
			held = "ambiguous"
		case len(all) > 1:
			held = "conflict"
		default:
			want = slices.Collect(maps.Keys(all))[0]
		}
		for _, p := range rows {
			got := p.Held
			if p.For == 0 && got == "" {
				got = "unmatched"
			}
			if p.For != want || got != held {
				t.Errorf("%s (%s): decreed for user %d, held %q; its keys say user %d, held %q", person, p.Kind, p.For, got, want, held)
			}
		}
	}
}

func TestEveryKindIsThereInItsShare(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 29, 30, 31, 100, 5000} {
		s := newWorldOf(t, Options{Seed: 1, Users: n})
		truth := s.Truth()
		kinds := map[Kind]int{}
		rowIDs := map[int64]bool{}
		for _, u := range s.Users() {
			kinds[u.Kind]++
			rowIDs[u.RowID] = true
			if u.ID == u.RowID && n > 1 {
				t.Errorf("%d users: row id and user id of %d are the same", n, u.ID)
			}
			held := truth.Users[u.ID].Held
			switch {
			case (u.Kind == Unwritable || u.Kind == Refused) && held != string(u.Kind),
				(u.Kind == Recorded || u.Kind == BadgeOnly) && truth.Users[u.ID].Fragment == nil,
				u.Kind == Recorded && truth.Users[u.ID].Fragment.RecordingLink == nil,
				u.Kind == BadgeOnly && truth.Users[u.ID].Fragment.RecordingLink != nil,
				(u.Kind == Nothing || u.Kind == Ambiguous || u.Kind == Conflict) && (truth.Users[u.ID].Rows > 0 || held != ""):
				t.Errorf("%d users: %s user %d: %+v", n, u.Kind, u.ID, truth.Users[u.ID])
			}
		}
		if len(rowIDs) != n || len(truth.Users) != n {
			t.Errorf("%d users: %d row ids, %d truths", n, len(rowIDs), len(truth.Users))
		}
		if n >= 30 {
			for _, k := range []Kind{Recorded, BadgeOnly, Nothing, Ambiguous, Conflict, Unwritable, Refused} {
				if kinds[k] == 0 {
					t.Errorf("%d users: none is %s", n, k)
				}
			}
			for reason, count := range truth.Totals.Held {
				if count == 0 && reason != "reverted" {
					t.Errorf("%d users: nobody is held %s", n, reason)
				}
			}
		}
		if n == 5000 {
			for k, part := range map[Kind]float64{Recorded: .62, BadgeOnly: .16, Nothing: .17} {
				if got := float64(kinds[k]) / float64(n); got < part-.03 || got > part+.03 {
					t.Errorf("%s: %.3f of all, want about %.2f", k, got, part)
				}
			}
		}
	}
}

// Users are unwritable by construction; the hand-written validator must see it the same way.
func TestGeneratedOtherInfoWritesUnlessItIsMadeNotTo(t *testing.T) {
	t.Parallel()
	s := newWorldOf(t, Options{Seed: 5, Users: 8000})
	varieties := map[string]bool{}
	for id, a := range s.world.users {
		if why := unwritable(a.otherInfo, "namecoach"); (why != "") != (a.unwritable != "") {
			t.Errorf("user %d: made to be %q, validator says %q: %s", id, a.unwritable, why, a.otherInfo)
		}
		if a.kind == Unwritable {
			varieties[a.unwritable] = true
		}
	}
	if want := len(unwritables) + 1; len(varieties) != want {
		t.Errorf("%d varieties of unwritable, want %d", len(varieties), want)
	}
}

func TestTheWorldIsAsMessyAsRealOnes(t *testing.T) {
	t.Parallel()
	s := newWorldOf(t, Options{Seed: 1, Users: 5000})
	signs := map[string]int{}
	perUser, perUpdate, perCreated := map[int64]int{}, map[time.Time]int{}, map[time.Time]int{}
	mostRows, bulkRows, bulkUsers := 0, 0, 0
	for _, p := range s.Participants() {
		if p.For != 0 {
			perUser[p.For]++
			mostRows = max(mostRows, perUser[p.For])
		}
		perUpdate[p.Updated]++
		bulkRows = max(bulkRows, perUpdate[p.Updated])
		for sign, there := range map[string]bool{
			"mixed case": p.Email != strings.ToLower(p.Email), "padded address": p.Email != strings.TrimSpace(p.Email), "no address": p.Email == "",
			"no institution id": p.InstitutionID == "", "number as id": p.RecordingIDNumber, "blank link": p.RecordingLink != "" && !p.recorded(),
			"title with NUL": strings.Contains(p.EventTitle, "\x00"), "no title": p.EventTitle == "", "no badge": p.NameBadgeLink == "",
		} {
			if there {
				signs[sign]++
			}
		}
	}
	most := 0
	for _, a := range s.world.users {
		perCreated[a.created]++
		bulkUsers = max(bulkUsers, perCreated[a.created])
		if n, err := parse(a.otherInfo); err == nil {
			most = max(most, len(n.members))
		}
		for sign, there := range map[string]bool{
			"NUL in a name": strings.Contains(a.firstName, "\x00"), "lone surrogate in a name": strings.Contains(a.lastName, "\xed\xb0"), "emoji": strings.Contains(a.firstName, "🦊"),
			"right to left": strings.Contains(a.firstName, "\u202e"), "very long name": len(a.lastName) > 255, "username no address": !strings.Contains(a.username, "@"),
			"no externalId": a.externalID == "", "invited": a.invited, "otherInfo absent": a.otherInfo == "", "otherInfo null": a.otherInfo == "null",
			"big number": strings.Contains(a.otherInfo, "12345678901234567890"), "1.10": strings.Contains(a.otherInfo, "1.10"), "escapes": strings.Contains(a.otherInfo, `\u0000`),
		} {
			if there {
				signs[sign]++
			}
		}
	}
	for _, sign := range []string{
		"mixed case", "padded address", "no address", "no institution id", "number as id", "blank link", "title with NUL", "no title", "no badge", "NUL in a name",
		"lone surrogate in a name", "emoji", "right to left", "very long name", "username no address", "no externalId", "invited", "otherInfo absent", "otherInfo null", "big number",
		"1.10", "escapes",
	} {
		if signs[sign] == 0 {
			t.Errorf("no %s", sign)
		}
	}
	if mostRows < 30 || bulkRows < 50 || bulkUsers <= 100 || most < 60 {
		t.Errorf("most rows of one user %d, most rows of one moment %d, most users of one second %d, most keys %d", mostRows, bulkRows, bulkUsers, most)
	}
}

func TestTheTruthFollowsWhatPeopleDo(t *testing.T) {
	t.Parallel()
	s := newWorldOf(t, Options{})
	amina := s.AddUser(NewUser{Username: "amina@demo.example", OtherInfo: `{"jobTitle":"Welder"}`})
	first := s.AddParticipant(Participant{Email: "amina@demo.example", EventTitle: "B", EventAccessCode: "B0000", NameBadgeLink: "https://www.name-coach.com/b", For: amina})
	fragment := func() string {
		f := s.Truth().Users[amina].Fragment
		if f == nil {
			return ""
		}
		return f.JSON()
	}
	check := func(did, want string) {
		t.Helper()
		if got := fragment(); got != want {
			t.Errorf("%s: got %s, want %s", did, got, want)
		}
	}
	badge := func(letter string) string {
		return fmt.Sprintf(`{"name_badge_link":"https://www.name-coach.com/%s","recording_link":null,"recording_id":null,"recording_date":null,"event_title":"%s"}`, letter, strings.ToUpper(letter))
	}
	check("a badge", badge("b"))
	second := s.AddParticipant(Participant{Email: "AMINA@demo.example", EventTitle: "A", EventAccessCode: "A0000", NameBadgeLink: "https://www.name-coach.com/a", For: amina})
	check("an event with a smaller access code", badge("a"))
	s.UpdateParticipant(first, func(p *Participant) {
		p.RecordingLink, p.RecordingID = " https://namewaves.s3.amazonaws.com/1.mp3?digest=x\n", "1"
	})
	check("a recording beats the access code",
		`{"name_badge_link":"https://www.name-coach.com/b","recording_link":"https://namewaves.s3.amazonaws.com/1.mp3?digest=x","recording_id":"1","recording_date":null,"event_title":"B"}`)
	s.RemoveRecording(first)
	check("the recording is gone", badge("a"))
	s.UpdateParticipant(second, func(p *Participant) { p.NameBadgeLink = "http://www.name-coach.com/a" })
	if u := s.Truth().Users[amina]; u.Held != "refused" || u.Fragment != nil {
		t.Errorf("an http link: %+v", u)
	}
	s.DeleteParticipant(second)
	check("the row with the bad link is gone", badge("b"))
	if err := s.EditOtherInfo(amina, "trades", "null"); err != nil {
		t.Fatal(err)
	}
	if u := s.Truth().Users[amina]; u.Held != "unwritable" || u.Wanted == nil {
		t.Errorf("trades null: %+v", u)
	}
	s.SetOtherInfo(amina, `{"jobTitle":"Welder","namecoach":`+badge("b")+`}`)
	if m := s.Mismatches(0); len(m) != 0 {
		t.Errorf("the right fragment stands there: %v", m)
	}
	if got := s.Truth().Totals; got.Unchanged != 1 || got.Written != 0 || got.Linked != 1 || got.Participants != 1 {
		t.Errorf("totals %+v", got)
	}
	s.RemoveUser(amina)
	if got := s.Truth(); got.People["amina@demo.example"] != "unmatched" || got.Totals.Held["unmatched"] != 1 {
		t.Errorf("the user is gone: %+v", got)
	}
}

// Text rules of the fragment: what is dropped, trimmed and cut.
func TestTextIsCleaned(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"  Fall \t": "Fall", "a\x00b": "ab", "\u202eevil\u202c": "evil", "\u2066x\u2069": "x", "lone \xed\xa0\xbd.": "lone .", "\x00 ": "", "c1\u0085": "c1", "a\nb": "ab",
		strings.Repeat("é", 300): strings.Repeat("é", 255), "\u200dkept": "\u200dkept", "🎓": "🎓", "\x7fdel": "del",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
