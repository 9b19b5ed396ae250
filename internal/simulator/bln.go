package simulator

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func (s *Simulator) blnHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /auth/login", s.handle("bln", "auth.login", (*exchange).signIn))
	// Basic information about an organization is always public (BLN 7840).
	mux.HandleFunc("GET /organizations/{organization}", s.handle("bln", "organization.get", (*exchange).organization))
	for pattern, h := range map[string]struct {
		name  string
		serve func(*exchange)
	}{
		"GET /user/acl": {"acl", (*exchange).acl},
		"GET /organizations/{organization}/users":      {"users.list", (*exchange).listUsers},
		"GET /organizations/{organization}/users/{id}": {"users.get", (*exchange).getUser},
		"PUT /organizations/{organization}/users/{id}": {"users.put", (*exchange).putUser},
	} {
		mux.HandleFunc(pattern, s.handle("bln", h.name, func(e *exchange) {
			if e.blnAllowed() {
				h.serve(e)
			}
		}))
	}
	mux.HandleFunc("/", s.handle("bln", "unknown", func(e *exchange) {
		// Among them PUT /user and PUT /users/{userId}, which can send mail (BLN 11656, 12109), and everything that creates users.
		e.s.violation("bln: " + e.r.Method + " of a path that a bridge has no business with")
		e.blnError(http.StatusNotFound, "")
	}))
	return mux
}

// blnError answers with the error schema (BLN 588-620).
func (e *exchange) blnError(status int, message string) {
	code, ok := map[int]string{
		400: "invalid", 401: "unauthorized", 403: "forbidden", 404: "notFound", 500: "internal", 502: "internal", 503: "internal", 504: "internal",
	}[status]
	if !ok {
		code = "general"
	}
	e.json(status)
	b := appendString([]byte(`{"code":`), code)
	b = appendString(append(b, `,"message":`...), cmp.Or(message, http.StatusText(status)))
	e.w.writeString(string(append(b, '}')))
}

// signIn is POST /auth/login (BLN 22-140).
func (e *exchange) signIn() {
	if e.r.Header.Get("Authorization") != "" {
		e.s.violation("bln: sign-in with an Authorization header")
	}
	body, ok := e.body()
	if !ok {
		return
	}
	for _, m := range body.members {
		var right bool
		switch m.key {
		case "username":
			right = m.value.kind == '"' && len(m.value.text) <= 255
		case "password":
			right = m.value.kind == '"' && len(m.value.text) >= 8 && len(m.value.text) <= 255
		case "organizationId", "duration":
			right = integer(&m.value)
		default:
			right = false
		}
		if !right {
			e.blnError(http.StatusBadRequest, m.key+" does not match the schema")
			return
		}
	}
	username, password, organization := body.get("username"), body.get("password"), body.get("organizationId")
	switch {
	case username == nil || password == nil || organization == nil:
		e.blnError(http.StatusBadRequest, "username, password and organizationId are required")
	case !strings.EqualFold(username.text, blnUsername) || password.text != blnPassword:
		e.blnError(http.StatusUnauthorized, "the credentials are not valid")
	case organization.text != strconv.Itoa(organizationID):
		e.blnError(http.StatusForbidden, "no member of this organization")
	default:
		e.json(http.StatusOK)
		e.w.writeString(`{"accessToken":"` + e.s.issueToken() + `"}`)
	}
}

// issueToken makes a token that is valid from now on: a JWT whose nbf and exp are in milliseconds (BLN 34) and whose nbf lies minutes
// back, or opaque hex (BLN 93).
func (s *Simulator) issueToken() string {
	o := s.options()
	expires := o.blnNow().Add(o.TokenLife)
	var noise [32]byte
	rand.Read(noise[:])
	token := hex.EncodeToString(noise[:])
	if !o.OpaqueTokens {
		text := base64.RawURLEncoding
		token = text.EncodeToString([]byte(`{"typ":"JWT","alg":"HS256"}`)) + "." + text.EncodeToString(fmt.Appendf(nil,
			`{"userId":%d,"organizationId":%d,"returnUrl":null,"login":true,"nbf":%d,"exp":%d,"jti":"%x"}`,
			selfUserID, organizationID, o.blnNow().Add(-5*time.Minute).UnixMilli(), expires.UnixMilli(), noise[:8]))
		mac := hmac.New(sha256.New, []byte("simulated"))
		mac.Write([]byte(token))
		token += "." + text.EncodeToString(mac.Sum(nil))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = expires
	s.sessions[token] = fmt.Sprintf("session %d", len(s.sessions)+1)
	return token
}

func (s *Simulator) knownToken(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.tokens[token]
	return known
}

// blnAllowed checks the Authorization header.
func (e *exchange) blnAllowed() bool {
	header := e.r.Header.Get("Authorization")
	token, bearer := strings.CutPrefix(header, "Bearer ")
	if token == nameCoachToken {
		e.s.violation("bln: was sent NameCoach's token")
	}
	e.s.mu.Lock()
	expires, known := e.s.tokens[token]
	e.s.mu.Unlock()
	switch {
	case !bearer && header != "":
		e.s.violation("bln: Authorization without Bearer")
	case bearer && known && e.o.blnNow().Before(expires):
		if e.r.Method == http.MethodPut && !strings.HasPrefix(e.r.Header.Get("Content-Type"), "application/json") {
			e.s.violation("bln: a body without Content-Type: application/json")
		}
		return true
	}
	e.blnError(http.StatusUnauthorized, "")
	return false
}

// inOrganization checks the path's organization: its id or its key; another one that exists is forbidden.
func (e *exchange) inOrganization() bool {
	switch name := e.r.PathValue("organization"); name {
	case strconv.Itoa(organizationID), organizationKy:
		return true
	case strconv.Itoa(organizationID + 1):
		e.blnError(http.StatusForbidden, "")
	default:
		e.blnError(http.StatusNotFound, "")
	}
	return false
}

const organizationHead = `"id":4711,"key":"demo-college","name":"Demo College","logo":{"url":null,"fileName":null}`

func (e *exchange) organization() {
	if !e.inOrganization() {
		return
	}
	e.json(http.StatusOK)
	e.w.writeString("{" + organizationHead + `,"theme":{"headerBgColor":"#ffffff","themeColor":"#000000"},"configuration":{` +
		`"termsOfService":null,"homepageUrl":"http://www.demo.example"},"created":"2014-07-25T07:54:41-07:00"}`)
}

// acl answers the privileges of BLN 330-380 for resources that name an organization, none for others.
func (e *exchange) acl() {
	var resources []string
	v := e.r.URL.Query()
	for _, text := range append(v["resource"], v["resource[]"]...) {
		resources = append(resources, splitList(text)...)
	}
	member := []string{"view organization", "view users in organization"}
	auditor := append([]string{"view reports in organization", "view employers in organization"}, member...)
	privileges := map[string][]string{
		RoleMember:       member,
		RoleNetworkAdmin: append([]string{"add new user to organization"}, member...),
		RoleAuditor:      auditor,
		RoleAdmin:        append([]string{"update organization", "manage user roles for organization", "update user in organization"}, auditor...),
	}[e.o.Role]
	b := []byte{'{'}
	for i, resource := range resources {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, resource), ":["...)
		if strings.HasPrefix(resource, "organization") {
			for j, p := range privileges {
				if j > 0 {
					b = append(b, ',')
				}
				b = appendString(b, p)
			}
		}
		b = append(b, ']')
	}
	e.json(http.StatusOK)
	e.w.writeString(string(append(b, '}')))
}
