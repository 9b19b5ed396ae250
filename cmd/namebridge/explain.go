package main

import (
	"context"
	"errors"
	"fmt"

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
	var (
		stopped  *interruptedError
		halted   *bridgesync.HaltedError
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
		return fmt.Sprintf(alarmed("HALTED")+` since %s
%s
No further write will be made until someone has looked.
Look:    namebridge status
Go on:   namebridge resume --reason "…"`, halted.Since.Local().Format("2006-01-02 15:04:05"), halted.Reason)
	case errors.As(err, &other):
		return fmt.Sprintf("%v.\nBLN_ORGANIZATION_ID is wrong, or DATABASE_URL names another deployment's database: each organization needs its own.", err)
	case errors.Is(err, context.Canceled):
		return "interrupted. Nothing is lost."
	case errors.As(err, &database):
		if errors.Is(err, postgres.ErrNotInstalled) || errors.Is(err, postgres.ErrInUse) {
			return fmt.Sprintf("%v.", err) // its own words name the cure
		}
		return fmt.Sprintf("%v.\nNothing was done. Check DATABASE_URL, and that Postgres 14 or newer runs there.", err)
	case isNameCoach401(err):
		return fmt.Sprintf("NAMECOACH_TOKEN was not accepted: %v.\nIt is the access token of your NameCoach account.", api)
	case errors.As(err, &signIn):
		return fmt.Sprintf("%v.\nCheck BLN_USERNAME and BLN_PASSWORD (or BLN_ACCESS_TOKEN), and that BLN_ORGANIZATION_ID is the organization this user belongs to.", err)
	case isUnknownOrganization(err):
		return fmt.Sprintf("BLN_ORGANIZATION_ID: %v.\nThere is no such organization, or this user may not see it.", api)
	case errors.As(err, &denied):
		return fmt.Sprintf("%v.\nGive the user of BLN_USERNAME (or BLN_ACCESS_TOKEN) the role admin in the organization of BLN_ORGANIZATION_ID.", err)
	case api != nil:
		return fmt.Sprintf("%v.\nThe same command goes on where this one stopped.", err)
	}
	return err.Error() + "."
}
