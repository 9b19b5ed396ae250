package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"syscall"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"namebridge/bln"
	"namebridge/internal/httpapi"
	"namebridge/internal/postgres"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// exitCode is the code that an error ends a command with.
func exitCode(err error) int {
	var (
		other  *state.OtherOrganizationError
		signIn *bln.SignInError
		denied *bridgesync.PermissionError
	)
	switch {
	case errors.Is(err, bridgesync.ErrHalted):
		return exitLook
	case errors.As(err, &other), errors.As(err, &signIn), errors.As(err, &denied), isNameCoach401(err), isUnknownOrganization(err):
		return exitUsage
	}
	return exitFailed
}

func apiError(err error) *httpapi.Error {
	var e *httpapi.Error
	errors.As(err, &e)
	return e
}

func isNameCoach401(err error) bool {
	e := apiError(err)
	return e != nil && e.API == "namecoach" && (e.Status == 401 || e.Status == 403)
}

func isUnknownOrganization(err error) bool {
	e := apiError(err)
	return e != nil && e.API == "bln" && e.Endpoint == "organizations.get" && (e.Status == 404 || e.Status == 403)
}

// explain says what failed and what to do next.
func explain(err error, alarmed func(string) string) string {
	at := &bridgeError{}
	if errors.As(err, &at) {
		return at.bridge.Named(explainOf(err, at, alarmed))
	}
	return explainOf(err, at, alarmed)
}

// explainOf is explain with the bridge that it befell, which may be none, and variables under their bare names.
func explainOf(err error, at *bridgeError, alarmed func(string) string) string {
	var (
		stopped  *interruptedError
		halted   *bridgesync.HaltedError
		earlier  *haltedBeforeError
		other    *state.OtherOrganizationError
		signIn   *bln.SignInError
		denied   *bridgesync.PermissionError
		database *databaseError
		api      = apiError(err)
	)
	switch {
	case errors.As(err, &stopped):
		return stopped.Error()
	case errors.As(err, &halted):
		before, look := "", "namebridge status"
		if errors.As(err, &earlier) {
			before = "nothing was done: the bridge was halted before this " + string(earlier.kind) + " began.\n"
		}
		if halted.Run != uuid.Nil {
			look = "namebridge runs show " + halted.Run.String()[:8] + at.flag
		}
		return fmt.Sprintf(`%s%s since %s
%s
No further write will be made until someone has looked.
Look:    %s
Go on:   namebridge resume --reason "…"%s`, before, alarmed("HALTED"), stamp(halted.Since), halted.Reason, look, at.flag)
	case errors.As(err, &other):
		return fmt.Sprintf("%v.\n%s.", other, otherOrganization(other))
	case errors.Is(err, context.Canceled):
		return "interrupted. Nothing is lost."
	case api == nil && errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("%v.\nAnother namebridge serve, perhaps: end it, or give this one another address, as LISTEN_ADDR=:8081. Any number of them\n"+
			"may run on one database.", err)
	case errors.As(err, &database), errors.As(err, new(*pgconn.ConnectError)):
		if errors.Is(err, postgres.ErrNotInstalled) || errors.Is(err, postgres.ErrInUse) {
			return fmt.Sprintf("%v.", err) // its own words name the cure
		}
		text, cure := databaseTrouble(err)
		if database == nil {
			return fmt.Sprintf("the database is away: %s.\nNothing is lost. What to do: %s. The same command goes on where this one stopped.", text, cure)
		}
		return fmt.Sprintf("%s.\nNothing was done. What to do: %s.", text, cure)
	case isNameCoach401(err):
		return fmt.Sprintf("NAMECOACH_TOKEN was not accepted: %v.\nIt is the access token of your NameCoach account.", api)
	case errors.As(err, &signIn) && !at.bridge.BLNAccessToken.Empty():
		return fmt.Sprintf("BLN_ACCESS_TOKEN was not accepted: %v.\nGet a new token, or set BLN_USERNAME and BLN_PASSWORD instead: then one is fetched by itself.", api)
	case errors.As(err, &signIn):
		return fmt.Sprintf("%v.\nCheck BLN_USERNAME and BLN_PASSWORD, and that BLN_ORGANIZATION_ID is the organization this user belongs to.", err)
	case isUnknownOrganization(err):
		return fmt.Sprintf("BLN_ORGANIZATION_ID: %v.\nThere is no such organization, or this user may not see it.", api)
	case errors.As(err, &denied):
		return fmt.Sprintf("%v.\nGive the user of BLN_USERNAME (or BLN_ACCESS_TOKEN) the role admin in the organization of BLN_ORGANIZATION_ID.", err)
	case api != nil && silent(api) && at.error != nil:
		name, url, variable := "BLN", at.bridge.BLNURL, "BLN_URL"
		if api.API == "namecoach" {
			name, url, variable = "NameCoach", at.bridge.NameCoachURL, "NAMECOACH_URL"
		}
		return fmt.Sprintf("%s at %s does not answer %s (%v).\nCheck %s; namebridge doctor%s looks further. The same command goes on where this one stopped.",
			name, hostOf(url), api.Endpoint, api.Err, variable, at.flag)
	case api != nil:
		return fmt.Sprintf("%v.\nThe same command goes on where this one stopped.", err)
	}
	return err.Error() + "."
}

// silent says that no answer came, other than because nobody is to ask for a while.
func silent(e *httpapi.Error) bool {
	return e.Status == 0 && e.Err != nil && !errors.As(e.Err, new(*httpapi.PausedError)) && !errors.Is(e.Err, httpapi.ErrLate)
}

// hostOf is the host of a URL that was read before, with its port.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "?"
	}
	return u.Host
}

// otherOrganization says what to do where a bridge is stored for another organization.
func otherOrganization(e *state.OtherOrganizationError) string {
	switch e.Known {
	case state.KnowsNothing:
		return fmt.Sprintf("Nothing has come of %d yet, but a process still runs with it: end it, or correct its BLN_ORGANIZATION_ID; then run this again", e.Stored)
	case state.KnowsPeople:
		return fmt.Sprintf("BLN_ORGANIZATION_ID is wrong, or DATABASE_URL names another deployment's database: each organization needs its own.\n"+
			"If %d is right: nothing of %d was ever seen, so begin anew in an empty database, or in this one after\n"+
			"DELETE FROM bridges WHERE bridge = '%s'", e.Requested, e.Stored, e.Bridge)
	}
	return "BLN_ORGANIZATION_ID is wrong, or DATABASE_URL names another deployment's database: each organization needs its own"
}
