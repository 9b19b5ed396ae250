package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"namebridge/bln"
	"namebridge/internal/config"
	"namebridge/internal/httpapi"
)

const (
	// The privileges in an organization that a bridge needs, in the document's words (BLN 372-420).
	mayUpdate = "update user in organization"
	mayView   = "view users in organization"
	// tokenSoon is how long before the end of a fixed token it is time to get another.
	tokenSoon = 2 * 24 * time.Hour
)

// bln signs in, and looks whether the account may do what a bridge does. It gives the client; nil where it cannot be used to write.
func (e *examination) bln(ctx context.Context, b config.Bridge) *bln.Client {
	if b.BLNURL == "" || b.BLNOrganizationID == 0 || b.BLNAccessToken.Empty() && (b.BLNUsername == "" || b.BLNPassword.Empty()) {
		e.found(Warning, b.Name, BLN, "not asked, since its configuration is wrong", "mend what is named above, then run this again")
		return nil
	}
	w := newWitness()
	defer w.close()
	client, err := bln.New(bln.Options{
		BaseURL: b.BLNURL, OrganizationID: b.BLNOrganizationID, Username: b.BLNUsername, Password: b.BLNPassword.Reveal(), AccessToken: b.BLNAccessToken.Reveal(),
		PerSecond: max(b.BLNRequestsPerSecond, 0.1), Concurrency: 1, Patience: e.Patience / 2, Transport: w,
	})
	if err != nil {
		e.found(Problem, b.Name, BLN, err.Error(), "correct BLN_URL and the variables of the sign-in")
		return nil
	}
	look := &account{examination: e, b: b, client: client, w: w}
	usable := look.signedIn(ctx) && look.privileges(ctx)
	if offset, known := client.Clock(); known {
		e.clock(b.Name, "BLN's", offset,
			"The end of a sign-in is told by BLN's clock, which is reckoned with; the times of what was written are shown by this machine's")
	}
	if !usable {
		return nil
	}
	return client
}

// account is the BLN account that a bridge signs in as.
type account struct {
	*examination
	b      config.Bridge
	client *bln.Client
	w      *witness
}

// asked carries one question out, within the patience, and reports what failed. ok: there is an answer.
func (a *account) asked(ctx context.Context, what string, do func(context.Context) error) (ok bool) {
	err := a.try(ctx, do)
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		text, cure := a.says(ctx, what, err)
		a.found(Problem, a.b.Name, BLN, text, cure)
	}
	return false
}

func (a *account) try(ctx context.Context, do func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, a.Patience)
	defer cancel()
	watched, give := a.w.watch(bounded)
	defer give()
	return do(watched)
}

// signedIn signs in and finds the organization.
func (a *account) signedIn(ctx context.Context) bool {
	if !a.asked(ctx, "sign in", a.client.SignIn) {
		return false
	}
	var o bln.Organization
	if !a.asked(ctx, "read the organization", func(ctx context.Context) (err error) {
		o, err = a.client.Organization(ctx)
		return err
	}) {
		return false
	}
	user := ""
	if id, ok := a.client.UserID(); ok {
		user = fmt.Sprintf(" (user %d)", id)
	}
	organization := fmt.Sprintf("organization %d is “%s” (%s)", o.ID, plain(o.Name), plain(o.Key))
	if a.b.BLNAccessToken.Empty() {
		a.ok(a.b.Name, BLN, "signs in as the user of BLN_USERNAME%s; %s", user, organization)
	} else { // everybody may read an organization: only the list of users shows whether the token is accepted
		a.ok(a.b.Name, BLN, "%s; BLN_ACCESS_TOKEN%s is tried next", organization, user)
	}
	a.tokenEnd()
	return true
}

// tokenEnd reports when a fixed token ends: nobody renews it.
func (a *account) tokenEnd() {
	if a.b.BLNAccessToken.Empty() {
		return
	}
	const cure = "BLN_USERNAME and BLN_PASSWORD instead of BLN_ACCESS_TOKEN: then a new one is fetched by itself"
	end, known := a.client.TokenExpires()
	offset, _ := a.client.Clock()
	left := end.Sub(a.Now().Add(offset))
	switch {
	case !known:
		a.found(Warning, a.b.Name, BLN,
			"BLN_ACCESS_TOKEN does not tell when it ends, and BLN's were seen to last about 7 days; then the bridge stops", cure)
	case left <= 0:
		a.found(Warning, a.b.Name, BLN, "BLN_ACCESS_TOKEN says that it ended "+length(left)+" ago", cure)
	case left < tokenSoon:
		a.found(Warning, a.b.Name, BLN, "BLN_ACCESS_TOKEN ends in "+length(left)+"; then the bridge stops", cure)
	default:
		a.ok(a.b.Name, BLN, "BLN_ACCESS_TOKEN ends in %s; then the bridge stops", length(left))
	}
}

// says is what a failed question means.
func (a *account) says(ctx context.Context, what string, err error) (text, cure string) {
	if text, cure, ok := a.unanswered(a.w, err, "BLN_URL"); ok {
		return "BLN cannot be asked to " + what + ": " + text, cure
	}
	const rightURL = "set BLN_URL to https://bln-api.coursepark.com, without a path"
	status := a.w.failedWith(err)
	if refused, ok := errors.AsType[*bln.SignInError](err); ok {
		if refused.Reason == bln.TokenRefused && !a.b.BLNAccessToken.Empty() {
			return fmt.Sprintf("BLN does not accept BLN_ACCESS_TOKEN (%d)", status),
				"get a new token, or set BLN_USERNAME and BLN_PASSWORD instead: then one is fetched by itself"
		}
		return a.refusedSignIn(ctx, status)
	}
	answer, _ := errors.AsType[*httpapi.Error](err)
	switch {
	case status == 403:
		return fmt.Sprintf("BLN does not let this account %s (403) in organization %d", what, a.b.BLNOrganizationID),
			"correct BLN_ORGANIZATION_ID, or give the account the role admin there"
	case status == 404 && answer.Code == "notFound" && what == "read the organization":
		return fmt.Sprintf("BLN knows no organization %d (404)", a.b.BLNOrganizationID), "set BLN_ORGANIZATION_ID to the number of your organization"
	case status == 404:
		return "there is no such API at BLN_URL (404)", rightURL
	case status >= 300 && status < 400:
		return fmt.Sprintf("BLN_URL leads elsewhere (%d), and a sign-in follows no redirect", status), rightURL
	case status >= 500:
		return fmt.Sprintf("BLN fails to %s (%d)", what, status), "run this again in some minutes; if it stays, tell BLN"
	case status != 0:
		return fmt.Sprintf("BLN refuses to %s (%d)", what, status), "check BLN_URL and BLN_ORGANIZATION_ID"
	}
	// An answer that came and is none: the transport saw a status, the client could not use what came with it.
	if seen, _ := a.w.seen(); seen >= 200 && seen < 300 {
		return fmt.Sprintf("what answers at BLN_URL is not BLN: asked to %s, it says something that cannot be used", what), rightURL
	}
	return "BLN's answer breaks off", "run this again; if it stays, look at the proxy or firewall on the way"
}

// refusedSignIn tells a wrong password from a wrong organization, as far as BLN does: 401 and 403 are both documented for sign-in, and not
// told apart (BLN 93-140). What is public about the organization tells whether there is one.
func (a *account) refusedSignIn(ctx context.Context, status int) (text, cure string) {
	there := a.organizationThere(ctx)
	switch {
	case there == no:
		return fmt.Sprintf("BLN refuses the sign-in (%d), and knows no organization %d", status, a.b.BLNOrganizationID),
			"set BLN_ORGANIZATION_ID to the number of your organization"
	case status == 403 || status == 404:
		return fmt.Sprintf("BLN knows the user name and password, but not as a member of organization %d (%d)", a.b.BLNOrganizationID, status),
			"set BLN_ORGANIZATION_ID to the number of your organization, or add the user of BLN_USERNAME to it"
	case status == 401:
		return "BLN does not accept the user name or the password (401)",
			"correct BLN_USERNAME and BLN_PASSWORD; try them in the browser first: repeated refusals lock the account"
	case there == yes:
		return fmt.Sprintf("BLN refuses the sign-in (%d); the organization %d is there, so it is the user name or the password", status, a.b.BLNOrganizationID),
			"correct BLN_USERNAME and BLN_PASSWORD: a password has at least 8 characters"
	}
	return fmt.Sprintf("BLN refuses the sign-in (%d): the user name, the password or the organization is wrong", status),
		"correct BLN_USERNAME, BLN_PASSWORD and BLN_ORGANIZATION_ID"
}

type answer int

const (
	unknown answer = iota
	yes
	no
)

// organizationThere asks for what everybody may know of the organization (BLN 7840), without signing in.
func (a *account) organizationThere(ctx context.Context) answer {
	anonymous, err := httpapi.New(httpapi.Options{API: "bln", BaseURL: a.b.BLNURL, PerSecond: 1, Attempts: 1, Transport: a.w})
	if err != nil {
		return unknown
	}
	err = a.try(ctx, func(ctx context.Context) error {
		_, _, err := anonymous.Fetch(ctx, httpapi.Request{
			Endpoint: "organizations.get", Method: http.MethodGet, Path: fmt.Sprintf("/organizations/%d", a.b.BLNOrganizationID),
			Header: http.Header{"Accept": {"application/json"}},
		})
		return err
	})
	if failed, ok := errors.AsType[*httpapi.Error](err); ok && failed.Status == http.StatusNotFound && failed.Code == "notFound" {
		return no
	}
	if err != nil {
		return unknown
	}
	return yes
}

// privileges looks whether the account may list and update users: from the list itself, from what BLN says that it may do, and from its own
// record. ok: as far as can be told it may write.
func (a *account) privileges(ctx context.Context) (ok bool) {
	var users []bln.User
	err := a.try(ctx, func(ctx context.Context) error {
		page, err := a.client.Users(ctx, bln.Cursor{})
		users = page.Users
		return err
	})
	if ctx.Err() != nil {
		return false
	}
	if _, refused := errors.AsType[*bln.SignInError](err); err != nil && (refused || statusOf(err) != 403) {
		text, cure := a.says(ctx, "list the users", err)
		a.found(Problem, a.b.Name, BLN, text, cure)
		return false
	}
	if !a.b.BLNAccessToken.Empty() {
		a.ok(a.b.Name, BLN, "signs in with BLN_ACCESS_TOKEN")
	}
	mayList := err == nil
	acl, said := a.acl(ctx)
	role, known := a.role(ctx)
	if ctx.Err() != nil {
		return false
	}
	who := "the account"
	if known {
		who = fmt.Sprintf("the account has the role %s, which", plain(role))
	}
	const cure = "give the user of BLN_USERNAME (or of BLN_ACCESS_TOKEN) the role admin in this organization"
	var missing []string
	if !mayList || said && !slices.Contains(acl, mayView) && !slices.Contains(acl, mayUpdate) {
		missing = append(missing, "list the users of the organization (“"+mayView+"”)")
	}
	if said && !slices.Contains(acl, mayUpdate) || known && role != "admin" || !mayList {
		missing = append(missing, "update users (“"+mayUpdate+"”)")
	}
	switch {
	case len(missing) > 0:
		a.found(Problem, a.b.Name, Privileges, who+" may not "+strings.Join(missing, ", nor "), cure)
	case !said && !known:
		a.found(Warning, a.b.Name, Privileges,
			fmt.Sprintf("the account may list users (%d on the first page); whether it may update them is not told by BLN before the first write", len(users)),
			"make sure that it has the role admin in this organization, or try it: namebridge doctor --probe-write USER_ID")
	default:
		as := ""
		if known {
			as = ", role " + plain(role)
		}
		a.ok(a.b.Name, Privileges, "may list and update users%s; %s on the first page", as, count(int64(len(users)), "user"))
	}
	if mayList && len(users) == 0 {
		a.found(Warning, a.b.Name, Privileges, "the list of users is empty",
			"see in BLN whether the organization has members; nobody can be linked without")
	}
	return len(missing) == 0
}

// acl is what BLN says that the account may do in the organization; said is false where it says nothing that the document knows.
func (a *account) acl(ctx context.Context) (privileges []string, said bool) {
	err := a.try(ctx, func(ctx context.Context) error {
		all, err := a.client.ACL(ctx, "organization")
		privileges = all["organization"]
		return err
	})
	// Its words are not documented as such: only those that are known from the list of privileges (BLN 372-420) count.
	known := slices.ContainsFunc(privileges, func(p string) bool { return strings.HasSuffix(p, " organization") })
	return privileges, err == nil && known
}

// role is the account's own in the organization, where its record can be found.
func (a *account) role(ctx context.Context) (role string, known bool) {
	err := a.try(ctx, func(ctx context.Context) error {
		if a.b.BLNUsername == "" {
			id, ok := a.client.UserID()
			if !ok {
				return nil
			}
			u, err := a.client.User(ctx, id)
			role, known = u.Role, u.Role != ""
			return err
		}
		users, err := a.client.UsersByIdentifier(ctx, []string{a.b.BLNUsername})
		for _, u := range users {
			if strings.EqualFold(u.Username, a.b.BLNUsername) {
				role, known = u.Role, u.Role != ""
			}
		}
		return err
	})
	return role, known && err == nil
}
