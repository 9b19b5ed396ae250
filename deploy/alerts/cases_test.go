//go:build deploy

package alerts

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// short are values that make no case longer than some hours, for the deployment that the cases are about.
var short = values{replicas: 2, collectLateSeconds: 1800, sweepLateSeconds: 4 * 3600, censusLateSeconds: 8 * 3600, namespace: "prod", job: "namebridge"}

// calm is what two replicas tell, once a minute, of a bridge that is well: the series in promtool's words. Time begins in 1970.
var calm = map[string]string{
	`up`:                                         `1x1600`,
	`namebridge_build_info{version="1"}`:         `1x1600`,
	`namebridge_database_up`:                     `1x1600`,
	`process_start_time_seconds`:                 `5x1600`,
	`namebridge_halted{bridge="acme"}`:           `0x1600`,
	`namebridge_quarantined_runs{bridge="acme"}`: `0x1600`,
	`namebridge_last_success_timestamp_seconds{bridge="acme",kind="collect"}`:                              `0+60x1600`,
	`namebridge_last_success_timestamp_seconds{bridge="acme",kind="sweep"}`:                                `0+60x1600`,
	`namebridge_last_success_timestamp_seconds{bridge="acme",kind="census"}`:                               `0+60x1600`,
	`namebridge_cursor_timestamp_seconds{bridge="acme",stream="participants"}`:                             `-30+60x1600`,
	`namebridge_late_found_total{bridge="acme"}`:                                                           `3x1600`,
	`namebridge_participants{bridge="acme"}`:                                                               `5000x1600`,
	`namebridge_users{bridge="acme",state="pending"}`:                                                      `0x1600`,
	`namebridge_users{bridge="acme",state="synced"}`:                                                       `4000x1600`,
	`namebridge_holds{bridge="acme",reason="unmatched"}`:                                                   `100x1600`,
	`namebridge_holds{bridge="acme",reason="conflict"}`:                                                    `20x1600`,
	`namebridge_writes_total{action="write",bridge="acme",outcome="verified"}`:                             `0+2x1600`,
	`namebridge_api_requests_total{api="namecoach",bridge="acme",code="200",endpoint="participants.list"}`: `0+1x1600`,
	`namebridge_api_requests_total{api="namecoach",bridge="acme",code="401",endpoint="participants.list"}`: `0x1600`,
	`namebridge_api_requests_total{api="namecoach",bridge="acme",code="429",endpoint="participants.list"}`: `0x1600`,
	`namebridge_api_requests_total{api="bln",bridge="acme",code="200",endpoint="users.update"}`:            `0+2x1600`,
	`namebridge_api_requests_total{api="bln",bridge="acme",code="401",endpoint="users.update"}`:            `0x1600`,
	`namebridge_api_requests_total{api="bln",bridge="acme",code="403",endpoint="users.update"}`:            `0x1600`,
	`namebridge_api_requests_total{api="bln",bridge="acme",code="200",endpoint="auth.login"}`:              `1x1600`,
	`namebridge_api_requests_total{api="bln",bridge="acme",code="401",endpoint="auth.login"}`:              `0x1600`,
	`namebridge_api_budget_remaining{api="namecoach",bridge="acme"}`:                                       `900x1600`,
	`namebridge_run_duration_seconds_count{bridge="acme",kind="collect",status="done"}`:                    `0+1x1600`,
	`namebridge_run_duration_seconds_count{bridge="acme",kind="collect",status="failed"}`:                  `0x1600`,
	`namebridge_jobs{bridge="acme",state="retryable"}`:                                                     `0x1600`,
	`namebridge_jobs{bridge="acme",state="completed"}`:                                                     `70x1600`,
}

// The series that cases change.
const (
	up          = `up`
	build       = `namebridge_build_info{version="1"}`
	database    = `namebridge_database_up`
	started     = `process_start_time_seconds`
	halted      = `namebridge_halted{bridge="acme"}`
	quarantined = `namebridge_quarantined_runs{bridge="acme"}`
	collected   = `namebridge_last_success_timestamp_seconds{bridge="acme",kind="collect"}`
	swept       = `namebridge_last_success_timestamp_seconds{bridge="acme",kind="sweep"}`
	counted     = `namebridge_last_success_timestamp_seconds{bridge="acme",kind="census"}`
	backfilled  = `namebridge_last_success_timestamp_seconds{bridge="acme",kind="backfill"}`
	cursor      = `namebridge_cursor_timestamp_seconds{bridge="acme",stream="participants"}`
	late        = `namebridge_late_found_total{bridge="acme"}`
	pending     = `namebridge_users{bridge="acme",state="pending"}`
	unmatched   = `namebridge_holds{bridge="acme",reason="unmatched"}`
	verified    = `namebridge_writes_total{action="write",bridge="acme",outcome="verified"}`
	ncOK        = `namebridge_api_requests_total{api="namecoach",bridge="acme",code="200",endpoint="participants.list"}`
	ncRefused   = `namebridge_api_requests_total{api="namecoach",bridge="acme",code="401",endpoint="participants.list"}`
	ncBusy      = `namebridge_api_requests_total{api="namecoach",bridge="acme",code="429",endpoint="participants.list"}`
	blnOK       = `namebridge_api_requests_total{api="bln",bridge="acme",code="200",endpoint="users.update"}`
	blnExpired  = `namebridge_api_requests_total{api="bln",bridge="acme",code="401",endpoint="users.update"}`
	blnDenied   = `namebridge_api_requests_total{api="bln",bridge="acme",code="403",endpoint="users.update"}`
	loginOK     = `namebridge_api_requests_total{api="bln",bridge="acme",code="200",endpoint="auth.login"}`
	loginNo     = `namebridge_api_requests_total{api="bln",bridge="acme",code="401",endpoint="auth.login"}`
	budget      = `namebridge_api_budget_remaining{api="namecoach",bridge="acme"}`
	failedRuns  = `namebridge_run_duration_seconds_count{bridge="acme",kind="collect",status="failed"}`
	retryable   = `namebridge_jobs{bridge="acme",state="retryable"}`
)

// told is series by their names: of both replicas, unless they begin with "a " or "b ", or with "staging/a ", of a deployment beside.
// What is told nothing of, "", is not there.
type told map[string]string

// look is what fires at a moment, and nothing else does.
type look struct {
	at     string
	firing []string
}

// sort is what a case is for: each alert must have each.
type sort string

const (
	fires   sort = "fires"
	silent  sort = "is silent just under its threshold"
	restart sort = "takes a restart for what it is"
)

type ruleCase struct {
	alert string
	sort  sort
	name  string
	told  told
	looks []look
}

func none(at string) look { return look{at, nil} }

func one(at, firing string) look { return look{at, []string{firing}} }

// gone is that nobody tells anything any more after some minutes; with "" nobody ever has.
func gone(after string) told {
	all := told{}
	for series, values := range calm {
		all[series] = ""
		if after != "" {
			all[series] = strings.TrimSuffix(values, "1600") + after + " stale"
		}
	}
	return all
}

// staging is what the only replica of another deployment tells besides what is said of it, in the same Prometheus.
func staging(said told) told {
	all := told{}
	for series, values := range calm {
		all["staging/a "+series] = values
	}
	maps.Copy(all, said)
	return all
}

var ruleCases = []ruleCase{
	{"NamebridgeDown", fires, "no replica answers", gone(`20`), []look{none("25m"), one("27m", "NamebridgeDown"), one("3h", "NamebridgeDown")}},
	{"NamebridgeDown", fires, "there has never been one", gone(``), []look{none("4m"), one("6m", "NamebridgeDown")}},
	{"NamebridgeDown", fires, "there has never been one, but one of another deployment", staging(gone(``)), []look{none("4m"), one("6m", "NamebridgeDown")}},
	{"NamebridgeDown", silent, "one of two answers", told{"a " + build: `1x10 stale`}, []look{none("1h")}},
	{"NamebridgeDown", restart, "both are away for four minutes", told{build: `1x10 stale _x3 1x100`}, []look{none("15m"), none("40m")}},

	{"NamebridgeDatabaseDown", fires, "no replica reaches it", told{database: `1x10 0x100`}, []look{
		none("15m"), {"17m", []string{"NamebridgeDatabaseDown"}}, {"1h", []string{"NamebridgeDatabaseDown"}},
	}},
	{"NamebridgeDatabaseDown", silent, "one of two reaches it, or it is away for four minutes", told{"a " + database: `1x10 0x3 1x100`, "b " + database: `1x10 0x4 1x100`}, []look{none("15m"), none("40m")}},
	{"NamebridgeDatabaseDown", restart, "replicas that start have not reached it yet", told{database: `1x10 stale _x2 0x2 1x100`}, []look{none("16m"), none("30m")}},

	{"NamebridgeReplicasMissing", fires, "one does not answer", told{"a " + build: `1x10 stale`, "a " + database: `1x10 stale`}, []look{none("25m"), one("27m", "NamebridgeReplicasMissing")}},
	{"NamebridgeReplicasMissing", fires, "one does not reach the database", told{"a " + database: `1x10 0x100`}, []look{none("25m"), one("27m", "NamebridgeReplicasMissing")}},
	{"NamebridgeReplicasMissing", silent, "a third is more than enough", told{"c " + build: `1x60 stale`, "c " + database: `1x60 stale`}, []look{none("30m"), none("90m")}},
	{"NamebridgeReplicasMissing", silent, "another deployment is to have one only", staging(nil), []look{none("1h")}},
	{"NamebridgeReplicasMissing", restart, "one after the other is replaced", told{"a " + database: `1x10 stale _x10 1x100`, "b " + database: `1x22 stale _x10 1x100`}, []look{none("20m"), none("32m"), none("1h")}},

	{"NamebridgeRestarting", fires, "one is started anew three times", told{"a " + started: `5x10 700x10 1300x10 1900x100`}, []look{none("30m"), one("34m", "NamebridgeRestarting"), none("100m")}},
	{"NamebridgeRestarting", silent, "twice", told{"a " + started: `5x10 700x10 1300x100`}, []look{none("34m")}},
	{"NamebridgeRestarting", restart, "an upgrade starts each once, under new names", told{
		"a " + started: `5x10 stale`, "b " + started: `5x12 stale`, "a " + build: `1x10 stale`, "b " + build: `1x12 stale`,
		"c " + started: `_x9 600x100`, "d " + started: `_x11 700x100`, "c " + build: `_x9 1x100`, "d " + build: `_x11 1x100`,
		"a " + database: `1x10 stale`, "b " + database: `1x12 stale`, "c " + database: `_x9 1x100`, "d " + database: `_x11 1x100`,
	}, []look{none("30m"), none("1h")}},

	{"NamebridgeHalted", fires, "one replica knows first", told{"a " + halted: `0x10 1x100`, "b " + halted: `0x11 1x100`}, []look{none("10m"), one("11m", "NamebridgeHalted bridge=acme")}},
	{"NamebridgeHalted", silent, "it is resumed", told{halted: `0x10 1x10 0x100`}, []look{one("15m", "NamebridgeHalted bridge=acme"), one("21m", "NamebridgeHalted bridge=acme"), none("27m")}},
	{"NamebridgeHalted", restart, "nobody tells anything for three minutes, and is not paged anew", told{halted: `1x10 stale _x2 1x100`}, []look{
		one("10m", "NamebridgeHalted bridge=acme"), one("12m", "NamebridgeHalted bridge=acme"), one("20m", "NamebridgeHalted bridge=acme"),
	}},

	{"NamebridgeQuarantined", fires, "two runs wait", told{quarantined: `0x10 2x100`}, []look{none("10m"), one("11m", "NamebridgeQuarantined bridge=acme")}},
	{"NamebridgeQuarantined", silent, "they are approved", told{quarantined: `0x10 2x10 0x100`}, []look{one("20m", "NamebridgeQuarantined bridge=acme"), none("27m")}},
	{"NamebridgeQuarantined", restart, "nobody tells anything for three minutes", told{quarantined: `1x10 stale _x2 1x100`}, []look{
		one("10m", "NamebridgeQuarantined bridge=acme"), one("12m", "NamebridgeQuarantined bridge=acme"),
	}},

	{"NamebridgeSignInFailing", fires, "NameCoach refuses the token, once every five minutes", told{ncOK: `0+1x30 30x100`, ncRefused: `0x31 1x5 2x5 3x5 4x100`}, []look{
		none("34m"), one("45m", "NamebridgeSignInFailing bridge=acme api=namecoach"), one("60m", "NamebridgeSignInFailing bridge=acme api=namecoach"),
	}},
	// BLN is asked again after 1, 2, 4, 8, 16, 32 minutes.
	{"NamebridgeSignInFailing", fires, "BLN refuses the password, and is asked ever more seldom", told{
		blnOK: `0+2x30 60x200`, verified: `0+2x30 60x200`, loginNo: `0x31 1 2x2 3x4 4x8 5x16 6x32 7x60 8x30`,
	}, []look{
		none("35m"), one("40m", "NamebridgeSignInFailing bridge=acme api=bln"), one("75m", "NamebridgeSignInFailing bridge=acme api=bln"),
		one("140m", "NamebridgeSignInFailing bridge=acme api=bln"),
	}},
	{"NamebridgeSignInFailing", silent, "a token has ended and is renewed, and BLN is not asked for hours", told{
		blnOK: `0+2x30 62x200`, verified: `0+2x30 62x200`, blnExpired: `0x30 8x200`, loginOK: `1x30 2x200`,
	}, []look{none("33m"), none("45m"), none("90m")}},
	{"NamebridgeSignInFailing", silent, "BLN refuses to have one user written, at night", told{
		blnOK: `0+2x30 60x200`, verified: `0+2x30 60x200`, blnDenied: `0x30 1x200`,
	}, []look{none("45m"), none("90m")}},
	{"NamebridgeSignInFailing", restart, "it ends with the first answer, of a process that was started with the right token", told{
		ncOK: `0+1x30 30x19 stale _x2 0+1x100`, ncRefused: `0x31 1x5 2x5 3x8 stale _x2 0x100`,
	}, []look{one("49m", "NamebridgeSignInFailing bridge=acme api=namecoach"), none("60m")}},

	{"NamebridgeCollectLate", fires, "none succeeds", told{collected: `0+60x10 600x200`, cursor: `0+60x10 570x200`}, []look{
		none("49m"), one("52m", "NamebridgeCollectLate bridge=acme"), one("3h", "NamebridgeCollectLate bridge=acme"),
	}},
	{"NamebridgeCollectLate", fires, "none has ever succeeded", told{collected: ``, cursor: ``}, []look{none("39m"), one("45m", "NamebridgeCollectLate bridge=acme")}},
	{"NamebridgeCollectLate", silent, "every half hour less a minute one does", told{
		collected: `0x28 1740x28 3480x28 5220x28`, cursor: `0x28 1740x28 3480x28 5220x28`,
	}, []look{none("27m"), none("56m"), none("85m"), none("110m")}},
	{"NamebridgeCollectLate", silent, "a backfill has done it", told{collected: `0+60x10 600x200`, backfilled: `0+60x200`}, []look{none("2h")}},
	{"NamebridgeCollectLate", silent, "the very first comes forward", told{collected: ``, cursor: `1000000+3600x300`}, []look{none("2h")}},
	{"NamebridgeCollectLate", silent, "the bridge is halted: that has an alert of its own", told{collected: `0+60x10 600x200`, cursor: `0+60x10 570x200`, halted: `0x10 1x200`}, []look{
		one("2h", "NamebridgeHalted bridge=acme"),
	}},
	{"NamebridgeCollectLate", silent, "the database is away: that has an alert of its own", told{collected: `0+60x10 600x200`, cursor: `0+60x10 570x200`, database: `1x10 0x200`}, []look{
		one("2h", "NamebridgeDatabaseDown"),
	}},
	{"NamebridgeCollectLate", silent, "another deployment collects once a day, sweeps once a week and takes no census", staging(told{
		"staging/a " + collected: `0x600`, "staging/a " + cursor: `0x600`, "staging/a " + swept: `0x600`, "staging/a " + counted: ``,
	}), []look{none("1h"), none("10h")}},
	{"NamebridgeCollectLate", fires, "another bridge is halted, which is no reason for this one", told{
		collected: `0+60x10 600x200`, cursor: `0+60x10 570x200`, `namebridge_halted{bridge="globex"}`: `0x10 1x200`,
		`namebridge_last_success_timestamp_seconds{bridge="globex",kind="collect"}`: `0+60x200`, `namebridge_last_success_timestamp_seconds{bridge="globex",kind="sweep"}`: `0+60x200`,
	}, []look{{"1h", []string{"NamebridgeCollectLate bridge=acme", "NamebridgeHalted bridge=globex"}}}},
	{"NamebridgeCollectLate", restart, "both stop for a minute every five minutes, which makes nothing better", told{
		collected: strings.Repeat(`600x4 stale `, 30), cursor: strings.Repeat(`570x4 stale `, 30), halted: strings.Repeat(`0x4 stale `, 30),
		build: strings.Repeat(`1x4 stale `, 30), database: strings.Repeat(`1x4 stale `, 30),
	}, []look{none("49m"), one("55m", "NamebridgeCollectLate bridge=acme"), one("100m", "NamebridgeCollectLate bridge=acme")}},
	{"NamebridgeCollectLate", restart, "they were away for two hours, and collect at once when they are back", told{
		collected: `0+60x10 stale _x119 600x3 8040+60x100`, cursor: `0+60x10 stale _x119 600x3 8000+60x100`, halted: `0x10 stale _x119 0x100`,
	}, []look{none("133m"), none("150m")}},

	{"NamebridgeCursorStuck", fires, "collects succeed, the cursor stays", told{cursor: `0+60x20 1200x200`}, []look{
		none("59m"), one("65m", "NamebridgeCursorStuck bridge=acme"),
	}},
	{"NamebridgeCursorStuck", silent, "it moves, if only every 29 minutes", told{cursor: `0x28 1740x28 3480x28 5220x28`}, []look{none("56m"), none("80m"), none("110m")}},
	{"NamebridgeCursorStuck", restart, "nobody tells anything now and then, which makes nothing better", told{
		cursor: `0+60x20 1200x10 stale _x3 1200x10 stale _x3 1200x200`, collected: `0+60x30 stale _x3 2040+60x10 stale _x3 2880+60x100`,
	}, []look{one("70m", "NamebridgeCursorStuck bridge=acme")}},

	{"NamebridgeCollectLag", fires, "it is three hours behind and catches up", told{collected: `0+60x5 300x400`, cursor: `0+60x5 300x180 300+120x400`}, []look{
		// As long as it does not come forward it is late; then it is behind; then it is neither.
		one("3h", "NamebridgeCollectLate bridge=acme"), one("220m", "NamebridgeCollectLag bridge=acme"),
	}},
	{"NamebridgeCollectLag", silent, "it is 29 minutes behind", told{cursor: `-1740+60x600`}, []look{none("2h")}},
	{"NamebridgeCollectLag", silent, "it is years behind, in the very first collect", told{collected: ``, cursor: `-900000000+86400x600`}, []look{none("2h")}},
	{"NamebridgeCollectLag", restart, "nobody tells anything now and then while it catches up", told{
		cursor: `-10000+90x20 stale _x3 -7840+90x20 stale _x3 -5680+90x60`,
	}, []look{one("46m", "NamebridgeCollectLag bridge=acme"), one("55m", "NamebridgeCollectLag bridge=acme")}},

	{"NamebridgeLateFound", fires, "two more were found", told{late: `3x20 5x300`}, []look{none("20m"), one("25m", "NamebridgeLateFound bridge=acme"), none("150m")}},
	{"NamebridgeLateFound", silent, "as many as ever", told{late: `3x300`}, []look{none("3h")}},
	{"NamebridgeLateFound", restart, "replicas that are new tell what the old ones told", told{
		"a " + late: `3x20 stale`, "b " + late: `3x21 stale`, "c " + late: `_x19 3x100`, "d " + late: `_x20 3x100`,
	}, []look{none("22m"), none("1h")}},
	{"NamebridgeLateFound", restart, "what was found while one replaced the other is seen", told{
		"a " + late: `3x20 stale`, "b " + late: `3x21 stale`, "c " + late: `_x21 5x100`, "d " + late: `_x22 5x100`,
	}, []look{none("20m"), one("25m", "NamebridgeLateFound bridge=acme")}},

	{"NamebridgeWritesFailing", fires, "twelve wait and nothing is written", told{pending: `0x10 12x200`, verified: `0+2x10 20x200`}, []look{
		none("50m"), one("53m", "NamebridgeWritesFailing bridge=acme"),
	}},
	{"NamebridgeWritesFailing", silent, "nine wait", told{pending: `0x10 9x200`, verified: `0+2x10 20x200`}, []look{none("2h")}},
	{"NamebridgeWritesFailing", silent, "many wait, and one is written now and then", told{pending: `0x10 500-1x200`, verified: `0x20 1x20 2x20 3x20 4x20 5x20`}, []look{none("2h")}},
	{"NamebridgeWritesFailing", silent, "a command beside the daemons writes them", told{pending: `0x10 9000-10x400`, verified: `0+2x10 20x400`}, []look{none("1h"), none("3h")}},
	{"NamebridgeWritesFailing", silent, "a sweep finds forty, and after half an hour less five minutes they are written", told{
		pending: `0x59 40x24 0x200`, verified: `0x85 40x200`,
	}, []look{none("75m"), none("84m"), none("2h")}},
	{"NamebridgeWritesFailing", silent, "they wait for a person to approve", told{pending: `0x10 40x200`, verified: `0+2x10 20x200`, quarantined: `0x10 1x200`}, []look{
		one("2h", "NamebridgeQuarantined bridge=acme"),
	}},
	{"NamebridgeWritesFailing", restart, "the counters begin anew, and still nothing is written", told{
		pending: `0x10 12x30 stale _x2 12x200`, verified: `0+2x10 20x30 stale _x2 0x200`,
	}, []look{none("50m"), one("60m", "NamebridgeWritesFailing bridge=acme")}},

	{"NamebridgePendingStuck", fires, "two wait for four hours", told{pending: `0x10 2x400`}, []look{none("255m"), one("270m", "NamebridgePendingStuck bridge=acme")}},
	{"NamebridgePendingStuck", silent, "for once nobody waits", told{pending: `0x10 2x100 0 2x400`}, []look{none("265m"), none("350m")}},
	{"NamebridgePendingStuck", silent, "many wait, and they become fewer", told{pending: `0x10 90000-100x500`}, []look{none("265m"), none("400m")}},
	{"NamebridgePendingStuck", silent, "each sweep has something to write for 25 minutes", told{pending: strings.Repeat(`0x214 500x24 `, 3)}, []look{
		none("232m"), none("240m"), none("478m"), none("500m"),
	}},
	{"NamebridgePendingStuck", restart, "nobody tells anything now and then", told{pending: `0x10 2x100 stale _x3 2x100 stale _x3 2x400`}, []look{
		none("255m"), one("270m", "NamebridgePendingStuck bridge=acme"),
	}},

	{"NamebridgeHoldsGrowing", fires, "by 51 of 5000 within a day", told{unmatched: `100x1500 151x100`}, []look{none("1555m"), one("1575m", "NamebridgeHoldsGrowing bridge=acme")}},
	{"NamebridgeHoldsGrowing", silent, "by 50 of 5000", told{unmatched: `100x1500 150x100`}, []look{none("1570m")}},
	{"NamebridgeHoldsGrowing", silent, "on the first day a sweep has found them all", told{unmatched: `0x100 151x1500`, swept: `_x100 6000+60x1500`}, []look{none("1500m")}},
	{"NamebridgeHoldsGrowing", restart, "nobody tells anything for some minutes, now and a day ago", told{unmatched: `100x80 stale _x3 100x1419 stale _x3 151x90`}, []look{
		none("1520m"), one("1580m", "NamebridgeHoldsGrowing bridge=acme"),
	}},

	{"NamebridgeSweepLate", fires, "none succeeds for four hours", told{swept: `0+60x10 600x500`}, []look{none("275m"), one("295m", "NamebridgeSweepLate bridge=acme")}},
	{"NamebridgeSweepLate", fires, "none has ever succeeded", told{swept: ``}, []look{none("265m"), one("285m", "NamebridgeSweepLate bridge=acme")}},
	{"NamebridgeSweepLate", silent, "one does every four hours", told{swept: `0x239 14400x239 28800x200`}, []look{none("239m"), none("270m"), none("479m")}},
	{"NamebridgeSweepLate", silent, "a run waits to be approved: that has an alert of its own", told{swept: `0+60x10 600x500`, quarantined: `0x10 1x500`, pending: `0x10 30x500`}, []look{
		one("6h", "NamebridgeQuarantined bridge=acme"),
	}},
	{"NamebridgeSweepLate", restart, "both were started anew an hour ago", told{
		swept: `0+60x10 600x210 stale _x4 600x300`, halted: `0x220 stale _x4 0x300`, started: `5x220 stale _x4 13500x300`,
	}, []look{none("275m"), one("295m", "NamebridgeSweepLate bridge=acme")}},

	{"NamebridgeCensusLate", fires, "none succeeds for eight hours", told{counted: `0+60x10 600x700`}, []look{none("515m"), one("535m", "NamebridgeCensusLate bridge=acme")}},
	{"NamebridgeCensusLate", fires, "none has ever succeeded", told{counted: ``}, []look{none("505m"), one("525m", "NamebridgeCensusLate bridge=acme")}},
	{"NamebridgeCensusLate", silent, "one does every eight hours", told{counted: `0x479 28800x479`}, []look{none("479m"), none("510m"), none("900m")}},
	{"NamebridgeCensusLate", restart, "both were started anew an hour ago", told{
		counted: `0+60x10 600x440 stale _x4 600x300`, halted: `0x450 stale _x4 0x300`,
	}, []look{none("515m"), one("535m", "NamebridgeCensusLate bridge=acme")}},

	{"NamebridgeBudgetExhausted", fires, "no answer has told of ten requests", told{budget: `900x10 9x200`}, []look{none("50m"), one("52m", "NamebridgeBudgetExhausted bridge=acme api=namecoach")}},
	{"NamebridgeBudgetExhausted", fires, "a replica that last asked an hour ago knows of more", told{"b " + budget: `900x10 2x200`, "a " + ncOK: `0+1x5 5x200`}, []look{
		none("45m"), one("75m", "NamebridgeBudgetExhausted bridge=acme api=namecoach"), one("150m", "NamebridgeBudgetExhausted bridge=acme api=namecoach"),
	}},
	{"NamebridgeBudgetExhausted", fires, "nobody asks until the next period begins", told{budget: `900x10 2x200`, ncOK: `0+1x10 10x14 12x14 14x14 16x14 18x14 20x14 22x100`}, []look{
		none("45m"), one("75m", "NamebridgeBudgetExhausted bridge=acme api=namecoach"), one("90m", "NamebridgeBudgetExhausted bridge=acme api=namecoach"),
	}},
	{"NamebridgeBudgetExhausted", silent, "a replica that waits has nothing left, and the other has", told{"a " + budget: `900x10 0x200`, "b " + budget: `900x10 50x200`}, []look{none("1h"), none("2h")}},
	{"NamebridgeBudgetExhausted", silent, "each period begins with enough", told{budget: strings.Repeat(`900 400 100 3x11 `, 10)}, []look{none("50m"), none("100m")}},
	{"NamebridgeBudgetExhausted", silent, "ten are left", told{budget: `900x10 10x200`}, []look{none("2h")}},
	{"NamebridgeBudgetExhausted", restart, "who starts has had no answer yet", told{budget: `900x10 2x20 stale _x6 2x200`}, []look{
		none("50m"), one("55m", "NamebridgeBudgetExhausted bridge=acme api=namecoach"),
	}},

	{"NamebridgeThrottled", fires, "one of five is turned away", told{ncOK: `0+4x200`, ncBusy: `0x10 0+1x200`}, []look{none("30m"), one("60m", "NamebridgeThrottled bridge=acme api=namecoach")}},
	{"NamebridgeThrottled", silent, "one of six, at a bridge with little to ask", told{"a " + ncOK: `0x4 1x4 2x4 3x4 4x4 5x4 6x60`, "b " + ncOK: `0x200`, "a " + ncBusy: `0x12 1x200`, "b " + ncBusy: `0x200`}, []look{
		none("20m"), none("30m"), none("40m"),
	}},
	{"NamebridgeThrottled", silent, "one of eleven", told{ncOK: `0+10x200`, ncBusy: `0+1x200`}, []look{none("2h")}},
	{"NamebridgeThrottled", restart, "the counters begin anew", told{ncOK: `0+10x30 stale _x2 0+10x100`, ncBusy: `1000x30 stale _x2 0x100`}, []look{none("40m"), none("1h")}},

	{"NamebridgeRunsFailing", fires, "three collects within three hours", told{"a " + failedRuns: `0x10 1x10 2x10 3x300`}, []look{
		none("30m"), one("35m", "NamebridgeRunsFailing bridge=acme kind=collect"), none("220m"),
	}},
	{"NamebridgeRunsFailing", fires, "two by either replica", told{failedRuns: `0x14 1x2 2x200`}, []look{none("14m"), one("35m", "NamebridgeRunsFailing bridge=acme kind=collect")}},
	{"NamebridgeRunsFailing", silent, "one by either replica", told{failedRuns: `0x10 1x300`}, []look{none("1h")}},
	{"NamebridgeRunsFailing", restart, "the counters begin anew", told{failedRuns: `7x10 stale _x2 0x10 stale _x2 0x300`}, []look{none("30m"), none("1h")}},

	{"NamebridgeJobsFailing", fires, "one waits to be tried again, nearly all of the time", told{retryable: `0x10 ` + strings.Repeat(`1 1 1 0 `, 50)}, []look{
		none("40m"), one("60m", "NamebridgeJobsFailing bridge=acme"),
	}},
	{"NamebridgeJobsFailing", silent, "half of the time", told{retryable: strings.Repeat(`1 0 `, 100)}, []look{none("2h")}},
	{"NamebridgeJobsFailing", restart, "what a restart interrupts is tried again once", told{retryable: `0x10 stale _x2 4x3 0x200`}, []look{none("20m"), none("50m")}},
}

// minutes is how long the case takes.
func (c ruleCase) minutes() int {
	last, err := time.ParseDuration(c.looks[len(c.looks)-1].at)
	if err != nil {
		panic(err) // a mistake in the table
	}
	return int(last.Minutes())
}

// long is what takes so many hours that the rules are evaluated every five minutes only.
func (c ruleCase) long() bool { return c.minutes() > 250 }

// promtoolCases is cases as a file for promtool test rules: JSON is YAML.
func promtoolCases(t *testing.T, rules, every string, cases []ruleCase) string {
	t.Helper()
	var groups []any
	for _, c := range cases {
		var series []any
		add := func(replica, name, values string) {
			if values == "" {
				return
			}
			namespace, instance, ok := strings.Cut(replica, "/")
			if !ok {
				namespace, instance = "prod", replica
			}
			labels := fmt.Sprintf(`namespace=%q,job="namebridge",instance="%s:8080"`, namespace, instance)
			if bare, rest, ok := strings.Cut(name, "{"); ok {
				name = bare + "{" + labels + "," + rest
			} else {
				name += "{" + labels + "}"
			}
			series = append(series, map[string]any{"series": name, "values": strings.TrimSpace(values)})
		}
		own := map[string]bool{}
		for name, values := range c.told {
			if replica, rest, ok := strings.Cut(name, " "); ok {
				add(replica, rest, values)
				own[name] = true
				continue
			}
			for _, replica := range []string{"a", "b"} {
				if _, ok := c.told[replica+" "+name]; !ok {
					add(replica, name, values)
				}
				own[replica+" "+name] = true
			}
		}
		for name, values := range calm {
			for _, replica := range []string{"a", "b"} {
				if !own[replica+" "+name] {
					add(replica, name, strings.Replace(values, "x1600", fmt.Sprintf("x%d", c.minutes()), 1))
				}
			}
		}
		var looks []any
		for _, l := range c.looks {
			samples := []any{}
			for _, f := range l.firing {
				labels := []string{`namespace="prod"`, `job="namebridge"`}
				for i, word := range strings.Fields(f) {
					if i == 0 {
						word = "alertname=" + word
					}
					name, value, _ := strings.Cut(word, "=")
					labels = append(labels, fmt.Sprintf("%s=%q", name, value))
				}
				samples = append(samples, map[string]any{"labels": "{" + strings.Join(labels, ",") + "}", "value": 1})
			}
			looks = append(looks, map[string]any{
				"expr": `max by (alertname, namespace, job, bridge, api, kind) (ALERTS{alertstate="firing"})`, "eval_time": l.at, "exp_samples": samples,
			})
		}
		groups = append(groups, map[string]any{
			"name": fmt.Sprintf("%s %s: %s", c.alert, c.sort, c.name), "interval": "1m", "input_series": series, "promql_expr_test": looks,
		})
	}
	text, err := json.MarshalIndent(map[string]any{"rule_files": []string{rules}, "evaluation_interval": every, "tests": groups}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// samples is a series in promtool's words, minute by minute; nil is none, and the others are whole numbers or "stale".
func samples(values string) (all []any) {
	number := regexp.MustCompile(`^(-?\d+)([+-]\d+)?(?:x(\d+))?$`)
	atoi := func(s string) int {
		n, err := strconv.Atoi(cmp.Or(s, "0"))
		if err != nil {
			panic(err) // a mistake in the table
		}
		return n
	}
	for word := range strings.FieldsSeq(values) {
		if n, ok := strings.CutPrefix(word, "_"); ok {
			all = append(all, make([]any, max(1, atoi(strings.TrimPrefix(n, "x"))))...)
		} else if word == "stale" {
			all = append(all, word)
		} else {
			found := number.FindStringSubmatch(word)
			for i := range atoi(found[3]) + 1 {
				all = append(all, atoi(found[1])+i*atoi(found[2]))
			}
		}
	}
	return all
}

// replaced is a case in which each replica is replaced by a new one, under another name, again and again: a rollout, a node that is drained.
// The new one is there two minutes before the old one ends. What a process counts begins anew with it.
func (c ruleCase) replaced() ruleCase {
	life := 23
	if c.long() {
		life = 97
	}
	all := told{}
	series := maps.Clone(calm)
	for name, values := range c.told {
		if strings.Contains(name, " ") { // of another deployment
			all[name] = values
		} else {
			series[name] = values
		}
	}
	for name, values := range series {
		minutes := samples(values)
		if len(minutes) > c.minutes()+1 {
			minutes = minutes[:c.minutes()+1]
		}
		bare, _, _ := strings.Cut(name, "{")
		counter := bare != "namebridge_late_found_total" && (strings.HasSuffix(bare, "_total") || strings.HasSuffix(bare, "_count"))
		for slot, first := range map[string]int{"a": life, "b": life / 2} {
			all[slot+" "+name] = ""
			for pod, from, to := 0, 0, first; from < len(minutes); pod, from, to = pod+1, to-2, to+life {
				part := slices.Clone(minutes[from:min(to, len(minutes))])
				if begin := slices.IndexFunc(part, func(v any) bool { _, ok := v.(int); return ok }); begin >= 0 && counter && pod > 0 {
					base := part[begin].(int)
					for i, v := range part {
						if n, ok := v.(int); ok {
							part[i] = n - base
						}
					}
				}
				words := make([]string, from, len(minutes)+1)
				for i := range words {
					words[i] = "_"
				}
				for _, v := range part {
					if v == nil {
						v = "_"
					}
					words = append(words, fmt.Sprint(v))
				}
				all[fmt.Sprintf("%s%d %s", slot, pod, name)] = strings.Join(append(words, "stale"), " ")
			}
		}
	}
	return ruleCase{c.alert, c.sort, c.name + ", and replicas are replaced again and again", all, c.looks}
}

// replaceable is that it is nothing to the case which replica tells what.
func (c ruleCase) replaceable() bool {
	for name := range c.told {
		if replica, _, ok := strings.Cut(name, " "); ok && !strings.Contains(replica, "/") {
			return false
		}
	}
	return c.sort != restart
}

// Each alert fires when it should, does not just before, and is neither raised nor put off by a restart, nor by pods that are replaced; and
// nothing else fires beside it.
func TestEachAlertFiresWhenItShouldAndOnlyThen(t *testing.T) {
	t.Parallel()
	rules := save(t, "alerts.yaml", render(t, short))
	isLong := map[bool][]ruleCase{}
	for _, c := range ruleCases {
		isLong[c.long()] = append(isLong[c.long()], c)
		if c.replaceable() {
			isLong[c.long()] = append(isLong[c.long()], c.replaced())
		}
	}
	for long, every := range map[bool]string{true: "5m", false: "1m"} {
		t.Run("every "+every, func(t *testing.T) {
			t.Parallel()
			promtool(t, "test", "rules", save(t, "cases.yaml", promtoolCases(t, rules, every, isLong[long])))
		})
	}
}

// plainCases are of the rules that know of one replica only, or of no number.
var plainCases = []ruleCase{
	{"NamebridgeReplicasMissing", fires, "one host does not answer", told{
		"a " + up: `1x10 0x200`, "a " + build: `1x10 stale`, "a " + database: `1x10 stale`,
	}, []look{none("25m"), one("27m", "NamebridgeReplicasMissing"), one("2h", "NamebridgeReplicasMissing")}},
	{"NamebridgeReplicasMissing", fires, "one host does not reach the database", told{"a " + database: `1x10 0x100`}, []look{
		none("25m"), one("27m", "NamebridgeReplicasMissing"),
	}},
	{"NamebridgeReplicasMissing", silent, "none answers: that has an alert of its own", func() told {
		all := gone(`20`)
		all[up] = `1x20 0x200`
		return all
	}(), []look{one("27m", "NamebridgeDown"), one("1h", "NamebridgeDown")}},
	{"NamebridgeReplicasMissing", silent, "one is not asked any more", told{"a " + up: `1x10 stale`, "a " + build: `1x10 stale`, "a " + database: `1x10 stale`}, []look{none("1h")}},
	{"NamebridgeReplicasMissing", restart, "it is away for fourteen minutes", told{
		"a " + up: `1x10 0x13 1x100`, "a " + build: `1x10 stale _x13 1x100`, "a " + database: `1x10 stale _x13 1x100`,
	}, []look{none("24m"), none("40m")}},
}

// Without Kubernetes nobody says how many there should be: who is to be asked is known all the same.
func TestThePlainRulesTellOfAHostThatDoesNotWork(t *testing.T) {
	t.Parallel()
	plain, err := filepath.Abs("plain.yaml")
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, "test", "rules", save(t, "cases.yaml", promtoolCases(t, plain, "1m", plainCases)))
}

func TestEachAlertHasACaseOfEachSort(t *testing.T) {
	t.Parallel()
	seen, survives := map[string]map[sort]bool{}, map[string]bool{}
	for _, c := range ruleCases {
		survives[c.alert] = survives[c.alert] || c.replaceable() && c.sort == fires
		if seen[c.alert] == nil {
			seen[c.alert] = map[sort]bool{}
		}
		seen[c.alert][c.sort] = true
		fired := slices.ContainsFunc(c.looks, func(l look) bool {
			return slices.ContainsFunc(l.firing, func(f string) bool { return regexp.MustCompile(`^` + c.alert + `( |$)`).MatchString(f) })
		})
		if c.sort == fires && !fired {
			t.Errorf("%s, %s: it does not fire in the case that is to show that it does", c.alert, c.name)
		}
	}
	for _, r := range written(t, usual) {
		for _, s := range []sort{fires, silent, restart} {
			if !seen[r.alert][s] {
				t.Errorf("%s has no case in which it %s", r.alert, s)
			}
		}
		if looksBack := regexp.MustCompile(`\[(\d\dm|\d+[hd])|offset`).MatchString(r.expr); looksBack && !survives[r.alert] && r.alert != "NamebridgeRestarting" {
			t.Errorf("%s looks back, and has no case in which it fires though replicas are replaced", r.alert)
		}
		delete(seen, r.alert)
	}
	for alert := range seen {
		t.Errorf("there are cases of %s, and no such alert", alert)
	}
}
