package main

import (
	"strings"

	"namebridge/deploy/dashboards/grafana"
)

// bridge is everything about one bridge.
func bridge() grafana.Dashboard {
	l := &layout{}
	standsNow(l)
	collecting(l)
	people(l)
	writing(l)
	asking(l)
	working(l)
	return dashboard(bridgeUID, "namebridge: one bridge", "Everything about one bridge. What a number means for people is behind each panel's i.", l, []grafana.Variable{
		choice("bridge", "Bridge", "One NameCoach account joined to one BLN organization.", `label_values(namebridge_halted{namespace=~"$namespace"}, bridge)`, false),
	}, grafana.Link{
		Title: "All bridges", Type: "link", Icon: "dashboard", Tooltip: "Back to all bridges", URL: "/d/" + fleetUID, Tags: []string{}, KeepTime: true,
	})
}

// foundLate is how many were found late in the time shown. The database counts, and goes on counting when a replica begins anew: so no increase.
const foundLate = "max by (bridge) (max_over_time(namebridge_late_found_total{" + one + "}[$__range]))" +
	" - min by (bridge) (min_over_time(namebridge_late_found_total{" + one + "}[$__range]))"

func users(state string) string { return highest("users", one+`,state="`+state+`"`, "bridge") }

func standsNow(l *layout) {
	l.row("Now")
	l.add(3, 4, stat("Writes", "HALTED: BLN lost data that is not ours, so nothing is written until a person has looked; what people record meanwhile waits. "+
		runbook("NamebridgeHalted"), number, highest("halted", one, "bridge"), thresholds(1.0, red), words(haltedWords), noValue("no process")))
	l.add(3, 4, stat("Waiting runs", "Runs that wait for a person: they would take the badge from more people than the guard lets through. `namebridge runs list` names them. "+
		runbook("NamebridgeQuarantined"), number, highest("quarantined_runs", one, "bridge"), thresholds(1.0, orange), noValue("?")))
	l.add(3, 4, stat("Lag", "What people recorded longer ago than this has been read from NameCoach. As the daemons saw it last, up to 15 s ago: "+
		"so it may differ from *Read up to*, which grows older between two looks. "+
		runbook("NamebridgeCollectLate", "NamebridgeCollectLag"), secs,
		highest("collect_lag_seconds", one, "bridge"), lagSteps, noValue("nothing collected")))
	l.add(3, 4, stat("Read up to", "The moment up to which everything that NameCoach changed is stored, on NameCoach's clock. "+
		"How long ago that is grows until the daemons look again, every 15 s; *Lag* is as of their last look. "+
		runbook("NamebridgeCursorStuck"), fromNow,
		highest("cursor_timestamp_seconds", one+`,stream="participants"`, "bridge")+" * 1000", base(blue), noValue("nothing collected")))
	l.add(3, 4, stat("Share that is right", "Of the BLN users who were found on NameCoach, those whose badge stands in BLN as it should. The rest is pending or held: who is held counts as not right.",
		share, users("synced")+" / "+users("linked"), shareSteps, base(red), noValue("nobody linked")))
	l.add(3, 4, stat("People to be written", "Who is decided on and not yet written to BLN. "+
		runbook("NamebridgeWritesFailing", "NamebridgePendingStuck"), number, users("pending"), base(blue), noValue("?")))
	l.add(3, 4, stat("People held", "People who are not written because something needs a decision: `namebridge holds list`. "+runbook("NamebridgeHoldsGrowing"),
		number, added(highest("holds", one, "bridge", "reason"), "bridge"), base(blue), noValue("?")))
	l.add(3, 4, stat("Found late", "Recordings that NameCoach's own list of changes did not bring and that a search has found, in the time shown: each had been missing in BLN. "+
		"The bridge looks further back by itself. "+runbook("NamebridgeLateFound"), number, foundLate, thresholds(0.5, yellow), noValue("?"), decimals(0)))
}

func collecting(l *layout) {
	const run = "run_duration_seconds"
	l.row("Collecting and runs")
	l.add(8, 8, graph("Lag", "How far the bridge is behind NameCoach. It saws between nothing and the poll interval; a line that climbs means that nothing is collected. "+
		runbook("NamebridgeCollectLate", "NamebridgeCollectLag", "NamebridgeCursorStuck"), secs, []grafana.Target{over(highest("collect_lag_seconds", one, "bridge"), "lag")}, lagLines))
	l.add(8, 8, graph("Time since the last success", "How long ago the newest run of each kind that was done has ended. A collect finds what people record, a sweep "+
		"repairs what others change in BLN, a census notices who is gone. "+runbook("NamebridgeCollectLate", "NamebridgeSweepLate", "NamebridgeCensusLate"), secs,
		[]grafana.Target{over("time() - "+highest("last_success_timestamp_seconds", one, "kind"), "{{kind}}")}))
	l.add(8, 8, graph("Runs", "Runs that ended around then, by how. Failed runs are repeated; quarantined and halted ones wait for a person. "+
		runbook("NamebridgeRunsFailing"), number, []grafana.Target{over(added(rise(run+"_count"), "kind", "status")+" > 0", "{{kind}} {{status}}")}, bars))
	l.add(8, 8, graph("How long runs take", "The mean of the runs that ended then, by kind. A sweep is as long as the organization is large, and longer while BLN is slow.", secs,
		[]grafana.Target{over(added(speed(run+"_sum", one), "kind")+" / "+added(speed(run+"_count", one), "kind")+" > 0", "{{kind}}")}, points))
	l.add(16, 8, table("Runs in the time shown", "By kind and by how they ended: how many, and how long they took. A quantile is as exact as the buckets are.",
		[]string{"kind", "status"}, []column{
			{"Runs", number, added(inAll(run+"_count"), "kind", "status") + " > 0", []grafana.Property{{ID: "decimals", Value: 0}}},
			{"Mean", secs, added(inAll(run+"_sum"), "kind", "status") + " / (" + added(inAll(run+"_count"), "kind", "status") + " > 0)", nil},
			{"Half below", secs, quantile("0.5", inAll(run+"_bucket"), "kind", "status") + " >= 0", nil},
			{"95 % below", secs, quantile("0.95", inAll(run+"_bucket"), "kind", "status") + " >= 0", nil},
		}))
}

func people(l *layout) {
	l.row("People")
	l.add(8, 8, graph("People", "Linked: BLN users found on NameCoach. Synced: those whose badge stands in BLN as it should. Pending: to be written. A user may be in several.",
		number, []grafana.Target{over(highest("users", one, "state"), "{{state}}")},
		colored(map[string]string{"linked": blue, "synced": green, "pending": orange}, "linked", "synced", "pending")))
	l.add(8, 8, graph("Participants on NameCoach", "Rows of NameCoach that are known: one for each person and event. A sudden fall is a source that became incomplete; "+
		"nobody's badge is taken for that before two censuses agree.", number, []grafana.Target{over(highest("participants", one, "bridge"), "participants")}))
	l.add(8, 8, graph("People held, by reason", "unmatched: nobody in BLN has their key. ambiguous: two have it. conflict: two rules name two users. unwritable: BLN's schema "+
		"refuses what is there already. refused: a link that may not be written. reverted: a person put it back. "+runbook("NamebridgeHoldsGrowing"),
		number, []grafana.Target{over(highest("holds", one, "reason"), "{{reason}}")}, stacked))
}

func writing(l *layout) {
	const arrived = "propagation_seconds_bucket"
	l.row("Writing to BLN")
	l.add(8, 8, graph("Writes a minute", "Users of BLN that were written or cleared. unsent: it never arrived and is tried again. restored and damaged: BLN lost "+
		"data that is not ours, which halts the bridge. "+runbook("NamebridgeHalted"), number,
		[]grafana.Target{over("60 * "+added(speed("writes_total", one), "action", "outcome")+" > 0", "{{action}} {{outcome}}")}, bars))
	l.add(8, 8, graph("How long until a change is in BLN", "From the end of the window of NameCoach's time that brought a recording until it was written and verified: "+
		"what people wait for, beside the poll interval.", secs, []grafana.Target{
		over(quantile("0.5", speed(arrived, one))+" >= 0", "half below"), over(quantile("0.95", speed(arrived, one))+" >= 0", "95 % below"),
		over(quantile("0.99", speed(arrived, one))+" >= 0", "99 % below"),
	}))
	l.add(8, 8, heatmap("The same, everybody", "How many changes took how long. A second band far above the first is people who had to wait for a retry, a hold or a halt.", secs,
		added(rise(arrived), "le")))
}

func asking(l *layout) {
	const requests, took = "api_requests_total", "api_request_duration_seconds_bucket"
	l.row("NameCoach and BLN")
	for _, api := range []struct{ label, name string }{{"namecoach", "NameCoach"}, {"bln", "BLN"}} {
		where := one + `,api="` + api.label + `"`
		l.add(12, 8, graph("Requests to "+api.name, "By endpoint and answer; none: no answer came. 401 is a sign-in that fails, 429 a limit that was hit. "+
			runbook("NamebridgeSignInFailing"), requestsPerS, []grafana.Target{over(added(speed(requests, where), "endpoint", "code")+" > 0", "{{endpoint}} {{code}}")}, stacked))
		l.add(12, 8, graph("How long "+api.name+" takes to answer", "By endpoint, until the headers are in; waiting for the pace is not in it.", secs, []grafana.Target{
			over(quantile("0.5", speed(took, where), "endpoint")+" >= 0", "{{endpoint}}, half below"),
			over(quantile("0.99", speed(took, where), "endpoint")+" >= 0", "{{endpoint}}, 99 % below"),
		}))
	}
	l.add(8, 8, graph("Budget that is left", "Requests that the API said are left in its present period, at the last answer that said so; the lowest of all replicas. "+
		"At 0 everything waits for the next period. "+runbook("NamebridgeBudgetExhausted"), number,
		[]grafana.Target{over("min by (api) (namebridge_api_budget_remaining{"+one+"})", "{{api}}")}, lines(budgetLow, orange)))
	l.add(8, 8, graph("Share that is turned away", "Of the requests, those answered with 429: the API lets us ask less than we are set to. "+
		runbook("NamebridgeThrottled"), share, []grafana.Target{over(added(speed(requests, one+`,code="429"`), "api")+" / "+added(speed(requests, one), "api"), "{{api}}")},
		lines(turnedAway, orange)))
	l.add(8, 8, graph("Requests that wait for the pace", "How many requests wait at a time, on the mean, so that the API's limits are kept. Above 0 for hours: the limit is what "+
		"makes people wait. "+runbook("NamebridgeBudgetExhausted"), number, []grafana.Target{over(added(speed("api_throttled_seconds_total", one), "api"), "{{api}}")}))
}

func working(l *layout) {
	l.row("Queue and processes")
	l.add(8, 8, graph("Jobs", "Of the bridge's queues, by state. Many that are available: there is more to do than the replicas can; retryable: something fails and is tried again. "+
		runbook("NamebridgeJobsFailing"), number, []grafana.Target{over(highest("jobs", one+`,state!="completed"`, "state"), "{{state}}")}, stacked))
	l.add(8, 8, graph("Found late", "Recordings that NameCoach's own list of changes did not bring and that a search has found, since the bridge was made: each had been missing in BLN. "+
		runbook("NamebridgeLateFound"), number, []grafana.Target{over(highest("late_found_total", one, "bridge"), "found late")}))
	l.add(8, 8, graph("Database", "1: the process reaches its database. 0: what the other panels tell of people, holds and lag is the last known. "+
		runbook("NamebridgeDatabaseDown"), number, []grafana.Target{over("namebridge_database_up{"+everywhere+"}", "{{instance}}")}, atMost(1)))
	for _, p := range []struct{ title, about, unit, expr string }{
		{"Memory", "Resident memory of each process.", bytesBinary, ours("process_resident_memory_bytes")},
		{"Processor", "Cores that each process uses.", number, ours("rate(process_cpu_seconds_total[$__rate_interval])")},
		{"Goroutines", "A line that climbs for days is a leak.", number, ours("go_goroutines")},
		{
			"Restarts", "Of each process, in the hour before. In Kubernetes a restarted container keeps its instance; a new pod is a new line. " + runbook("NamebridgeRestarting"), number,
			ours("changes(process_start_time_seconds[1h])"),
		},
	} {
		l.add(6, 7, graph(p.title, strings.TrimSpace(p.about), p.unit, []grafana.Target{over(p.expr, "{{instance}}")}))
	}
	l.add(24, 5, table("Versions", "What runs.", []string{"namespace", "instance", "version", "commit", "goversion"}, []column{
		{"Processes", number, "count by (namespace, instance, version, commit, goversion) (namebridge_build_info{" + everywhere + "})", nil},
	}))
}

func heatmap(title, about, unit, expr string) grafana.Panel {
	target := over(expr, "{{le}}")
	target.Format = "heatmap"
	p := panel("heatmap", title, about, "", []grafana.Target{target}, map[string]any{
		"calculate": false, "cellGap": 1, "showValue": "never", "filterValues": map[string]any{"le": 1e-9}, "exemplars": map[string]any{"color": "rgba(255,0,255,0.7)"},
		"rowsFrame": map[string]any{"layout": "auto"}, "legend": map[string]any{"show": true}, "tooltip": map[string]any{"mode": "single", "yHistogram": true},
		"yAxis": map[string]any{"axisPlacement": "left", "unit": unit},
		"color": map[string]any{"mode": "scheme", "scheme": "Blues", "steps": 64, "exponent": 0.5, "fill": "dark-blue", "reverse": false, "scale": "exponential"},
	})
	p.MaxDataPoints = 60
	return p
}

func decimals(n int) look {
	return func(p *grafana.Panel) { p.FieldConfig.Defaults.Decimals = &n }
}
