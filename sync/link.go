package sync

import (
	"fmt"
	"slices"
	"strings"
)

// Rule is a way of telling which directory user a person is.
type Rule string

// The rules. Hand is a person's decision and outranks the others.
const (
	RuleExternalID Rule = "externalId"
	RuleEmail      Rule = "email"
	RuleOtherEmail Rule = "otherEmail"
	RuleHand       Rule = "hand"
)

// Reason says why a person or a user is not written.
type Reason string

// The reasons, as the contract names them.
const (
	Unmatched  Reason = "unmatched"
	Ambiguous  Reason = "ambiguous"
	Conflict   Reason = "conflict"
	Unwritable Reason = "unwritable"
	Refused    Reason = "refused"
	Reverted   Reason = "reverted"
)

// Person is one human on the NameCoach side: all participants that share an address, else an institution id.
type Person struct {
	Key            string   // see PersonKey
	Email          string   // folded; empty where there is none
	InstitutionIDs []string // distinct
	Hand           int64    // the user that someone linked this person to by hand, 0: nobody did
}

// PersonKey names the person that a participant belongs to: by address, else by institution id, else by the row itself.
func PersonKey(foldedEmail, institutionID, row string) string {
	switch {
	case foldedEmail != "":
		return "email:" + foldedEmail
	case institutionID != "":
		return "id:" + institutionID
	}
	return "row:" + row
}

// Candidate is a directory user as the rules see it.
type Candidate struct {
	UserID      int64
	ExternalID  string
	Email       string   // the user name, folded
	OtherEmails []string // addresses that users edit themselves, folded
	Shared      bool     // another user of the directory has the same externalId
}

// Decision is what the rules say about one person: a link, or a hold with its reason.
type Decision struct {
	Person string
	UserID int64 // 0: no link
	Rule   Rule
	Reason Reason // empty: linked
	Detail string // for people to read; holds no address
	Users  []int64
	Tried  []Tried
}

// Tried is one rule with one key, and whom it named.
type Tried struct {
	Rule  Rule
	Key   string
	Users []int64
}

// Link decides for one person. candidates must hold every directory user that bears one of the person's keys, in any
// order. A link needs exactly one user by every rule that names anybody: two users by one key are ambiguous, different
// users by different keys are a conflict. A user whose externalId another user has too is never linked but by hand.
func Link(p Person, candidates []Candidate, matchBy []Rule) Decision {
	d := Decision{Person: p.Key}
	if p.Hand != 0 {
		d.UserID, d.Rule, d.Users = p.Hand, RuleHand, []int64{p.Hand}
		return d
	}
	named := map[int64]bool{}
	var first *Tried
	ambiguous := ""
	for _, t := range try(p, candidates, matchBy) {
		d.Tried = append(d.Tried, t)
		if len(t.Users) == 0 {
			continue
		}
		if first == nil {
			first = &d.Tried[len(d.Tried)-1]
			d.Rule = t.Rule
		}
		if len(t.Users) > 1 && ambiguous == "" {
			ambiguous = fmt.Sprintf("%d users have this %s", len(t.Users), keyName(t.Rule))
		}
		for _, u := range t.Users {
			named[u] = true
		}
	}
	for u := range named {
		d.Users = append(d.Users, u)
	}
	slices.Sort(d.Users)
	if ambiguous != "" {
		d.Users = d.Users[:min(len(d.Users), maxNamed)]
	}
	switch {
	case len(d.Users) == 0:
		d.Reason, d.Detail, d.Rule = Unmatched, unmatchedDetail(p, matchBy), ""
	case ambiguous != "":
		d.Reason, d.Detail, d.Rule = Ambiguous, ambiguous, ""
	case len(d.Users) > 1:
		d.Reason, d.Detail, d.Rule = Conflict, conflictDetail(d.Tried), ""
	case slices.Contains(matchBy, RuleExternalID) && shared(candidates, d.Users[0]):
		d.Reason, d.Detail, d.Rule = Ambiguous, "another user has the same externalId", ""
	default:
		d.UserID = d.Users[0]
	}
	return d
}

func try(p Person, candidates []Candidate, matchBy []Rule) []Tried {
	var out []Tried
	add := func(rule Rule, key string, bears func(Candidate) bool) {
		t := Tried{Rule: rule, Key: key}
		for _, c := range candidates {
			if bears(c) {
				t.Users = append(t.Users, c.UserID)
			}
		}
		slices.Sort(t.Users)
		t.Users = slices.Compact(t.Users)
		out = append(out, t)
	}
	ids := slices.Clone(p.InstitutionIDs)
	slices.Sort(ids)
	for _, rule := range matchBy {
		switch rule {
		case RuleExternalID:
			for _, id := range slices.Compact(ids) {
				if id != "" {
					add(rule, id, func(c Candidate) bool { return c.ExternalID == id })
				}
			}
		case RuleEmail:
			if p.Email != "" {
				add(rule, p.Email, func(c Candidate) bool { return c.Email == p.Email })
			}
		case RuleOtherEmail:
			if p.Email != "" {
				add(rule, p.Email, func(c Candidate) bool { return slices.Contains(c.OtherEmails, p.Email) })
			}
		}
	}
	return out
}

func shared(candidates []Candidate, user int64) bool {
	return slices.ContainsFunc(candidates, func(c Candidate) bool { return c.UserID == user && c.Shared })
}

func keyName(r Rule) string {
	if r == RuleExternalID {
		return "externalId"
	}
	return "address"
}

func unmatchedDetail(p Person, matchBy []Rule) string {
	var had []string
	if slices.Contains(matchBy, RuleExternalID) && len(p.InstitutionIDs) > 0 {
		had = append(had, "institution id")
	}
	if p.Email != "" && (slices.Contains(matchBy, RuleEmail) || slices.Contains(matchBy, RuleOtherEmail)) {
		had = append(had, "address")
	}
	if len(had) == 0 {
		return "NameCoach has no key for this person that MATCH_BY uses"
	}
	return "no user of the directory has this " + strings.Join(had, " or ")
}

// maxNamed is how many users a hold names: a placeholder ("N/A") may be the key of thousands.
const maxNamed = 20

func conflictDetail(tried []Tried) string {
	var parts []string
	for _, t := range tried {
		for _, u := range t.Users {
			if len(parts) == maxNamed {
				return strings.Join(append(parts, "and more"), ", ")
			}
			parts = append(parts, fmt.Sprintf("%s names user %d", t.Rule, u))
		}
	}
	return strings.Join(parts, ", ")
}
