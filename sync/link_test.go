package sync

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	byBoth = []Rule{RuleExternalID, RuleEmail}
	byAll  = []Rule{RuleExternalID, RuleEmail, RuleOtherEmail}
)

// Every combination of nobody, one user and two users by each of the three rules, where users named by different rules
// are the same or different ones.
func TestALinkNeedsExactlyOneUserByEveryRuleThatNamesAnybody(t *testing.T) {
	t.Parallel()
	jane := Person{Key: "email:jane@example.edu", Email: "jane@example.edu", InstitutionIDs: []string{"17"}}
	sets := [][]int64{nil, {1}, {2}, {3}, {1, 2}, {2, 3}}
	for _, byID := range sets {
		for _, byEmail := range sets {
			for _, byOther := range sets {
				var candidates []Candidate
				for u := int64(1); u <= 3; u++ {
					c := Candidate{UserID: u, ExternalID: fmt.Sprint("other", u), Email: fmt.Sprintf("u%d@example.edu", u)}
					if slices.Contains(byID, u) {
						c.ExternalID, c.Shared = "17", len(byID) > 1
					}
					if slices.Contains(byEmail, u) {
						c.Email = jane.Email
					}
					if slices.Contains(byOther, u) {
						c.OtherEmails = []string{"x@example.edu", jane.Email}
					}
					candidates = append(candidates, c)
				}
				all := slices.Concat(byID, byEmail, byOther)
				slices.Sort(all)
				all = slices.Compact(all)
				want := Decision{Reason: Conflict}
				switch {
				case len(all) == 0:
					want.Reason = Unmatched
				case len(byID) > 1 || len(byEmail) > 1 || len(byOther) > 1:
					want.Reason = Ambiguous
				case len(all) == 1:
					want = Decision{UserID: all[0], Rule: RuleOtherEmail}
					if byEmail != nil {
						want.Rule = RuleEmail
					}
					if byID != nil {
						want.Rule = RuleExternalID
					}
				}
				got := Link(jane, candidates, byAll)
				if got.UserID != want.UserID || got.Rule != want.Rule || got.Reason != want.Reason || got.Person != jane.Key {
					t.Errorf("externalId %v, email %v, otherEmail %v: got %d %s %s, want %d %s %s",
						byID, byEmail, byOther, got.UserID, got.Rule, got.Reason, want.UserID, want.Rule, want.Reason)
				}
				if !slices.Equal(got.Users, all) {
					t.Errorf("externalId %v, email %v, otherEmail %v: names %v, want %v", byID, byEmail, byOther, got.Users, all)
				}
				if diff := cmp.Diff([]Tried{
					{Rule: RuleExternalID, Key: "17", Users: byID}, {Rule: RuleEmail, Key: jane.Email, Users: byEmail}, {Rule: RuleOtherEmail, Key: jane.Email, Users: byOther},
				}, got.Tried); diff != "" {
					t.Errorf("tried (-want +got): %s", diff)
				}
			}
		}
	}
}

func TestWhoAPersonIs(t *testing.T) {
	t.Parallel()
	jane := Candidate{UserID: 1, ExternalID: "17", Email: "jane@example.edu", OtherEmails: []string{"private@example.org"}}
	john := Candidate{UserID: 2, ExternalID: "18", Email: "john@example.edu"}
	noKeys := Candidate{UserID: 3}
	for name, c := range map[string]struct {
		person     Person
		candidates []Candidate
		matchBy    []Rule
		user       int64
		rule       Rule
		reason     Reason
		detail     string
	}{
		"both rules agree": {
			person: Person{Email: "jane@example.edu", InstitutionIDs: []string{"17"}}, candidates: []Candidate{jane, john},
			user: 1, rule: RuleExternalID,
		},
		"the order of MATCH_BY says which rule is told": {
			person: Person{Email: "jane@example.edu", InstitutionIDs: []string{"17"}}, candidates: []Candidate{jane, john},
			matchBy: []Rule{RuleEmail, RuleExternalID}, user: 1, rule: RuleEmail,
		},
		"an institution id that nobody has does not contradict": {
			person: Person{Email: "jane@example.edu", InstitutionIDs: []string{"99"}}, candidates: []Candidate{jane, john},
			user: 1, rule: RuleEmail,
		},
		"an address that nobody has does not contradict": {
			person: Person{Email: "jane@gmail.example", InstitutionIDs: []string{"17"}}, candidates: []Candidate{jane, john},
			user: 1, rule: RuleExternalID,
		},
		"the rules name two": {
			person: Person{Email: "jane@example.edu", InstitutionIDs: []string{"18"}}, candidates: []Candidate{jane, john},
			reason: Conflict, detail: "externalId names user 2, email names user 1",
		},
		"several institution ids of one user": { // nobody has two externalIds: the other one is unknown
			person: Person{Email: "jane@example.edu", InstitutionIDs: []string{"17", "99", "17"}}, candidates: []Candidate{jane, john},
			user: 1, rule: RuleExternalID,
		},
		"several institution ids of two users": {
			person: Person{Email: "x@example.edu", InstitutionIDs: []string{"18", "17"}}, candidates: []Candidate{jane, john},
			reason: Conflict, detail: "externalId names user 1, externalId names user 2",
		},
		"two users with one externalId": { // trap 42
			person: Person{InstitutionIDs: []string{"17"}}, candidates: []Candidate{{UserID: 1, ExternalID: "17", Shared: true}, {UserID: 4, ExternalID: "17", Shared: true}},
			reason: Ambiguous, detail: "2 users have this externalId",
		},
		"two users with one externalId hold an e-mail link too": { // trap 42; the other one bears none of the person's keys
			person: Person{Email: "jane@example.edu"}, candidates: []Candidate{{UserID: 1, ExternalID: "17", Email: "jane@example.edu", Shared: true}},
			reason: Ambiguous, detail: "another user has the same externalId",
		},
		"without the externalId rule a shared externalId does not matter": {
			person: Person{Email: "jane@example.edu"}, candidates: []Candidate{{UserID: 1, ExternalID: "17", Email: "jane@example.edu", Shared: true}},
			matchBy: []Rule{RuleEmail}, user: 1, rule: RuleEmail,
		},
		"two users with one address": {
			person: Person{Email: "jane@example.edu"}, candidates: []Candidate{jane, {UserID: 9, Email: "jane@example.edu"}},
			reason: Ambiguous, detail: "2 users have this address",
		},
		"one rule names two, another one of them": {
			person: Person{Email: "jane@example.edu", InstitutionIDs: []string{"17"}}, candidates: []Candidate{jane, {UserID: 9, Email: "jane@example.edu"}},
			reason: Ambiguous, detail: "2 users have this address",
		},
		"an address that users edit themselves counts only where the operator says so": { // trap 41
			person: Person{Email: "private@example.org"}, candidates: []Candidate{jane},
			reason: Unmatched, detail: "no user of the directory has this address",
		},
		"the operator says so": {
			person: Person{Email: "private@example.org"}, candidates: []Candidate{jane}, matchBy: byAll, user: 1, rule: RuleOtherEmail,
		},
		"somebody claims another's address": { // trap 41
			person:     Person{Email: "john@example.edu"},
			candidates: []Candidate{{UserID: 1, Email: "jane@example.edu", OtherEmails: []string{"john@example.edu"}}, john},
			matchBy:    byAll, reason: Conflict, detail: "email names user 2, otherEmail names user 1",
		},
		"a rule that is not chosen is not tried": {
			person: Person{Email: "jane@example.edu", InstitutionIDs: []string{"18"}}, candidates: []Candidate{jane, john},
			matchBy: []Rule{RuleEmail}, user: 1, rule: RuleEmail,
		},
		"nobody": {
			person: Person{Email: "x@example.edu", InstitutionIDs: []string{"99"}}, candidates: []Candidate{jane, john},
			reason: Unmatched, detail: "no user of the directory has this institution id or address",
		},
		"no directory": {
			person: Person{InstitutionIDs: []string{"17"}}, reason: Unmatched, detail: "no user of the directory has this institution id",
		},
		"no keys name nobody, also not those without keys": {
			person: Person{}, candidates: []Candidate{noKeys, {UserID: 4}}, reason: Unmatched,
			detail: "NameCoach has no key for this person that MATCH_BY uses",
		},
		"an empty institution id is none": { // trap 17
			person: Person{Email: "jane@example.edu", InstitutionIDs: []string{""}}, candidates: []Candidate{jane, noKeys}, user: 1, rule: RuleEmail,
		},
		"only a key that MATCH_BY does not use": {
			person: Person{InstitutionIDs: []string{"17"}}, candidates: []Candidate{jane}, matchBy: []Rule{RuleEmail},
			reason: Unmatched, detail: "NameCoach has no key for this person that MATCH_BY uses",
		},
		"externalIds are compared exactly": {
			person: Person{InstitutionIDs: []string{"ab", "0017", "1"}}, candidates: []Candidate{{UserID: 1, ExternalID: "AB"}, {UserID: 2, ExternalID: "17"}},
			reason: Unmatched, detail: "no user of the directory has this institution id",
		},
		"an externalId that is somebody's address is no address": {
			person: Person{Email: "17"}, candidates: []Candidate{jane}, reason: Unmatched, detail: "no user of the directory has this address",
		},
		"a link made by hand wins over every rule": {
			person: Person{Email: "jane@example.edu", InstitutionIDs: []string{"18"}, Hand: 7}, candidates: []Candidate{jane, john}, user: 7, rule: RuleHand,
		},
		"a link made by hand wins over a shared externalId": {
			person:     Person{Email: "jane@example.edu", Hand: 1},
			candidates: []Candidate{{UserID: 1, ExternalID: "17", Email: "jane@example.edu", Shared: true}}, user: 1, rule: RuleHand,
		},
		"a link made by hand needs no key": {person: Person{Hand: 7}, user: 7, rule: RuleHand},
	} {
		if c.matchBy == nil {
			c.matchBy = byBoth
		}
		c.person.Key = "email:key@example.edu"
		for range 2 {
			d := Link(c.person, c.candidates, c.matchBy)
			if d.UserID != c.user || d.Rule != c.rule || d.Reason != c.reason || d.Detail != c.detail {
				t.Errorf("%s: got user %d, rule %q, reason %q, detail %q; want %d, %q, %q, %q", name, d.UserID, d.Rule, d.Reason, d.Detail, c.user, c.rule, c.reason, c.detail)
			}
			if strings.Contains(d.Detail, "@") {
				t.Errorf("%s: the detail has an address: %s", name, d.Detail)
			}
			slices.Reverse(c.candidates) // and once more, the other way round
		}
	}
}

// Trap 27, and letters that merely look like others.
func TestOnlyAddressesThatAreTheSameLink(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		nameCoach, bln string
		same           bool
	}{
		{"Jane.Doe@Example.EDU ", "jane.doe@example.edu", true},
		{"ÉMILIE@example.edu", "émilie@EXAMPLE.edu", true},
		{"\u212Aim@example.edu", "kim@example.edu", false}, // the Kelvin sign
		{"kim@example.edu", "\u212Aim@example.edu", false},
		{"\u0130da@example.edu", "ida@example.edu", false},
		{"\u017Fam@example.edu", "sam@example.edu", false},
		{"jane+x@example.edu", "jane@example.edu", false},
		{"jane@example.edu.", "jane@example.edu", false},
		{"ja\x00ne@example.edu", "ja\x00ne@example.edu", false}, // no key at all
		{strings.Repeat("a", 1021), strings.Repeat("a", 1021), false},
	} {
		p := Person{Email: Fold(c.nameCoach)}
		d := Link(p, []Candidate{{UserID: 1, Email: Fold(c.bln)}}, byBoth)
		if (d.UserID == 1) != c.same {
			t.Errorf("%+q and %+q: linked %t, want %t", c.nameCoach, c.bln, d.UserID == 1, c.same)
		}
	}
}

func TestAPersonIsNamedByAddressElseInstitutionIDElseRow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ email, id, row, want string }{
		{"jane@example.edu", "17", "ab", "email:jane@example.edu"},
		{"", "17", "ab", "id:17"},
		{"", "", "ab", "row:ab"},
		{"", "email:jane@example.edu", "ab", "id:email:jane@example.edu"}, // nobody poses as somebody else
	} {
		if got := PersonKey(c.email, c.id, c.row); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// drawDirectory draws users with few keys among them, so that they collide; Shared is what the directory would say.
func drawDirectory(t *rapid.T, label string, from int64) []Candidate {
	email := rapid.SampledFrom([]string{"", "a@x", "b@x", "c@x"})
	var cs []Candidate
	for i := range rapid.Int64Range(0, 5).Draw(t, label) {
		cs = append(cs, Candidate{
			UserID:      from + i,
			ExternalID:  rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(t, "externalId"),
			Email:       email.Draw(t, "email"),
			OtherEmails: slices.DeleteFunc(rapid.SliceOfN(email, 0, 2).Draw(t, "other"), func(s string) bool { return s == "" }),
		})
	}
	return cs
}

func markShared(cs []Candidate) []Candidate {
	cs = slices.Clone(cs)
	for i := range cs {
		cs[i].Shared = cs[i].ExternalID != "" && slices.ContainsFunc(cs, func(o Candidate) bool {
			return o.UserID != cs[i].UserID && o.ExternalID == cs[i].ExternalID
		})
	}
	return cs
}

func drawPerson(t *rapid.T) Person {
	return Person{
		Key:            "email:somebody",
		Email:          rapid.SampledFrom([]string{"", "a@x", "b@x", "c@x", "z@x"}).Draw(t, "address"),
		InstitutionIDs: rapid.SliceOfN(rapid.SampledFrom([]string{"", "1", "2", "3", "9"}), 0, 3).Draw(t, "institution ids"),
	}
}

var someRules = rapid.SampledFrom([][]Rule{byBoth, byAll, {RuleEmail}, {RuleExternalID}, {RuleOtherEmail, RuleEmail}, {RuleEmail, RuleExternalID, RuleOtherEmail}})

// named is whom a rule names for a person, said another way than in link.go.
func named(p Person, cs []Candidate, rule Rule) map[string][]int64 {
	out := map[string][]int64{}
	for _, c := range cs {
		for _, id := range slices.Compact(slices.Sorted(slices.Values(p.InstitutionIDs))) {
			if rule == RuleExternalID && id != "" && id == c.ExternalID {
				out[id] = append(out[id], c.UserID)
			}
		}
		if p.Email != "" && (rule == RuleEmail && c.Email == p.Email || rule == RuleOtherEmail && slices.Contains(c.OtherEmails, p.Email)) {
			out[p.Email] = append(out[p.Email], c.UserID)
		}
	}
	return out
}

func TestRightPersonOrNoOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, cs, rules := drawPerson(t), markShared(drawDirectory(t, "users", 1)), someRules.Draw(t, "rules")
		d := Link(p, cs, rules)
		if diff := cmp.Diff(d, Link(p, rapid.Permutation(cs).Draw(t, "order"), rules)); diff != "" {
			t.Fatalf("in another order: %s", diff)
		}
		if doubled := Link(p, append(cs, cs...), rules); !cmp.Equal(d, doubled) {
			t.Fatalf("where each candidate stands twice: %s", cmp.Diff(d, doubled))
		}
		if (d.UserID == 0) == (d.Reason == "") || (d.Rule == "") != (d.UserID == 0) || (d.Detail == "") != (d.Reason == "") {
			t.Fatalf("neither a link nor a hold: %+v", d)
		}
		everybody := map[int64]bool{}
		for _, rule := range rules {
			for key, users := range named(p, cs, rule) {
				if len(users) > 1 && d.Reason != Ambiguous {
					t.Fatalf("%s names %v by %s, and yet %+v", rule, users, key, d)
				}
				for _, u := range users {
					everybody[u] = true
				}
			}
		}
		if len(everybody) != len(d.Users) {
			t.Fatalf("%v are named, want %v", d.Users, everybody)
		}
		if d.UserID != 0 {
			if len(everybody) != 1 || !everybody[d.UserID] {
				t.Fatalf("linked to %d, and the rules name %v", d.UserID, everybody)
			}
			if i := slices.IndexFunc(cs, func(c Candidate) bool { return c.UserID == d.UserID }); cs[i].Shared && slices.Contains(rules, RuleExternalID) {
				t.Fatalf("linked to %d, whose externalId another user has", d.UserID)
			}
		} else if (len(everybody) == 0) != (d.Reason == Unmatched) {
			t.Fatalf("%v are named, and yet %+v", everybody, d)
		}
	})
}

// More evidence makes a link of nobody known, or a hold of a link; it never moves a link to somebody else, and never
// lifts a hold between users.
func TestMoreEvidenceNeverLinksToSomebodyElse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, few, rules := drawPerson(t), drawDirectory(t, "users", 1), someRules.Draw(t, "rules")
		more := append(slices.Clone(few), drawDirectory(t, "more users", 100)...)
		q := p
		q.InstitutionIDs = append(slices.Clone(p.InstitutionIDs), rapid.SliceOfN(rapid.SampledFrom([]string{"1", "2", "3"}), 0, 2).Draw(t, "more ids")...)
		if p.Email == "" {
			q.Email = rapid.SampledFrom([]string{"", "a@x", "b@x"}).Draw(t, "an address")
		}
		before, after := Link(p, markShared(few), rules), Link(q, markShared(more), rules)
		switch {
		case before.UserID != 0 && after.UserID != 0 && after.UserID != before.UserID:
			t.Fatalf("moved from %d to %d", before.UserID, after.UserID)
		case (before.Reason == Ambiguous || before.Reason == Conflict) && after.UserID != 0:
			t.Fatalf("%s before, now linked to %d", before.Reason, after.UserID)
		case before.UserID != 0 && after.Reason == Unmatched:
			t.Fatalf("linked before, now nobody is named")
		}
		for _, u := range before.Users {
			if !slices.Contains(after.Users, u) {
				t.Fatalf("%d was named and is not any more", u)
			}
		}
	})
}

func TestALinkMadeByHandStaysWhateverTheDirectorySays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPerson(t)
		p.Hand = rapid.Int64Range(1, 200).Draw(t, "hand")
		d := Link(p, markShared(drawDirectory(t, "users", 1)), someRules.Draw(t, "rules"))
		if d.UserID != p.Hand || d.Rule != RuleHand || d.Reason != "" {
			t.Fatalf("linked by hand to %d, and yet %+v", p.Hand, d)
		}
	})
}
