package main

import "namebridge/deploy/dashboards/grafana"

var (
	haltedWords = map[string]grafana.Word{"0": {Text: "writing", Color: green, Index: 0}, "1": {Text: "HALTED", Color: red, Index: 1}}
	upWords     = map[string]grafana.Word{"0": {Text: "AWAY", Color: red, Index: 0}, "1": {Text: "answers", Color: green, Index: 1}}
)

// each is what tells one bridge from another: several deployments may have a bridge "default".
var each = []string{"namespace", "job", "bridge"}

// called is what a bridge's line is called: without Kubernetes there is no namespace.
const called = "{{bridge}} {{namespace}}"

// synced, linked and so on are people by bridge.
var (
	synced = highest("users", everywhere+`,state="synced"`, each...)
	linked = highest("users", everywhere+`,state="linked"`, each...)
	waits  = highest("users", everywhere+`,state="pending"`, each...)
	held   = added(highest("holds", everywhere, append(each, "reason")...), each...)
	lost   = added(highest("holds", everywhere+`,reason=~"unmatched|ambiguous|conflict"`, append(each, "reason")...), each...)
	budget = "min by (namespace, job, bridge, api) (namebridge_api_budget_remaining{" + everywhere + "})"
)

func since(kinds string) string {
	return "time() - " + highest("last_success_timestamp_seconds", everywhere+`,kind=~"`+kinds+`"`, each...)
}

// fleet is all bridges at a glance.
func fleet() grafana.Dashboard {
	l := &layout{}
	l.row("All bridges")
	l.add(3, 4, stat("Bridges", "How many bridges the daemons serve: one is one NameCoach account joined to one BLN organization.", number,
		"count("+highest("halted", everywhere, each...)+")", base(blue), noValue("none")))
	l.add(3, 4, stat("Halted", "Bridges that write nothing, because BLN lost data that is not ours. Nobody's badge changes there until a person has looked. "+
		runbook("NamebridgeHalted"), number, added(highest("halted", everywhere, each...)), thresholds(1.0, red), noValue("?")))
	l.add(3, 4, stat("Waiting runs", "Runs that wait for a person: they would take the badge from more people than the guard lets through. Everything else goes on. "+
		runbook("NamebridgeQuarantined"), number, added(highest("quarantined_runs", everywhere, each...)), thresholds(1.0, orange), noValue("?")))
	l.add(3, 4, stat("Longest lag", "What people recorded in this time may not have reached BLN, at the bridge that is furthest behind. "+
		runbook("NamebridgeCollectLate", "NamebridgeCollectLag", "NamebridgeCursorStuck"), secs, "max("+highest("collect_lag_seconds", everywhere, each...)+")", lagSteps, noValue("none")))
	l.add(3, 4, stat("People with their badge", "BLN users whose badge and recording stand there as they should.", number, added(synced), base(blue), noValue("?")))
	l.add(3, 4, stat("Share that is right", "Of the BLN users who were found on NameCoach, those whose badge stands in BLN as it should. The rest is pending or held: who is held counts as not right.",
		share, added(synced)+" / "+added(linked), shareSteps, base(red), noValue("nobody linked")))
	l.add(3, 4, stat("People held", "People who are not written because something needs a decision: nobody or two in BLN have their key, or BLN or we refuse the data. "+
		"`namebridge holds list` names them. "+runbook("NamebridgeHoldsGrowing"), number, added(held), base(blue), noValue("?")))
	l.add(3, 4, stat("Database", "Whether every process reaches its database. While it is away, what stands here is the last known. "+runbook("NamebridgeDatabaseDown"),
		number, "min(namebridge_database_up{"+everywhere+"})", base(red), words(upWords), noValue("no process")))

	l.add(24, 6, table("Bridges", "One line each; the name leads to all about that bridge. "+
		"*Right* are the linked people whose badge stands in BLN as it should. *Found* is the share of people on NameCoach whom BLN knows, by what was decided: "+
		"linked, against linked and unmatched, ambiguous or in conflict. Lag and times are as of now.", each, []column{
		{"Writes", number, highest("halted", everywhere, each...), append(colorsOf(green, 1.0, red),
			grafana.Property{ID: "mappings", Value: []grafana.Mapping{{Type: "value", Options: haltedWords}}})},
		{"Waiting runs", number, highest("quarantined_runs", everywhere, each...), colorsOf("transparent", 1.0, orange)},
		{"Lag", secs, highest("collect_lag_seconds", everywhere, each...), colorsOf("transparent", lagColors...)},
		{"Last collect", secs, since("collect|backfill"), colorsOf("transparent", collectLate, orange)},
		{"Last sweep", secs, since("sweep|backfill"), colorsOf("transparent", sweepLate, orange)},
		{"Last census", secs, since("census"), colorsOf("transparent", censusLate, orange)},
		{"Linked", number, linked, nil},
		{"Right", share, synced + " / " + linked, append(colorsOf(red, shareColors...), grafana.Property{ID: "decimals", Value: 1})},
		{"Found", share, linked + " / (" + linked + " + " + lost + ")", []grafana.Property{{ID: "decimals", Value: 1}}},
		{"Pending", number, waits, nil},
		{"Held", number, held, nil},
		{"NameCoach budget", number, "min by (namespace, job, bridge) (namebridge_api_budget_remaining{" + everywhere + `,api="namecoach"})`, colorsOf(orange, budgetLow, "transparent")},
	}, func(p *grafana.Panel) {
		p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, grafana.Override{
			Matcher: grafana.Matcher{ID: "byName", Options: "bridge"},
			Properties: []grafana.Property{{ID: "links", Value: []map[string]any{{
				"title": "All about this bridge", "targetBlank": false,
				"url": "/d/" + bridgeUID + "?var-bridge=${__value.raw}&${datasource:queryparam}&${namespace:queryparam}&${__url_time_range}",
			}}}},
		})
	}))

	l.row("Over time")
	l.add(12, 8, graph("Lag", "How far each bridge is behind NameCoach. It saws between nothing and the poll interval; a line that climbs means that nothing is collected. "+
		runbook("NamebridgeCollectLate", "NamebridgeCollectLag", "NamebridgeCursorStuck"), secs, []grafana.Target{over(highest("collect_lag_seconds", everywhere, each...), called)}, lagLines))
	l.add(12, 8, graph("Share of linked people who are right", "It falls while many people change at once, and comes back as they are written.", share,
		[]grafana.Target{over(synced+" / "+linked, called)}, atMost(1), free))
	l.add(8, 8, graph("People to be written", "Who is decided on and not yet written to BLN. It stays where a bridge is halted or BLN does not answer. "+
		runbook("NamebridgeWritesFailing", "NamebridgePendingStuck"), number, []grafana.Target{over(waits, called)}))
	l.add(8, 8, graph("People held", "A jump means that something changed for many at once: keys that were reused, a host of links that is not allowed. "+
		runbook("NamebridgeHoldsGrowing"), number, []grafana.Target{over(held, called)}))
	l.add(8, 8, graph("Writes a minute", "Users of BLN that were written and verified.", number,
		[]grafana.Target{over("60 * "+added(speed("writes_total", everywhere+`,outcome="verified"`), each...), called)}, bars))
	l.add(8, 8, graph("Requests", "What is asked of both APIs, by all replicas together.", requestsPerS,
		[]grafana.Target{over(added(speed("api_requests_total", everywhere), append(each, "api")...), "{{api}} "+called)}))
	l.add(8, 8, graph("Share of requests that fail", "Answers other than 2xx, 404 and 429, and none at all: each such request is sent again. "+
		runbook("NamebridgeSignInFailing"), share, []grafana.Target{over(
		added(speed("api_requests_total", everywhere+`,code!~"2..|404|429"`), append(each, "api")...)+" / "+added(speed("api_requests_total", everywhere), append(each, "api")...),
		"{{api}} "+called)}))
	l.add(8, 8, graph("Budget that is left", "Requests that each API said are left in its present period. At 0 everything waits for the next one. "+
		runbook("NamebridgeBudgetExhausted"), number,
		[]grafana.Target{over(budget, "{{api}} "+called)}))

	l.row("Processes")
	l.add(8, 7, graph("Replicas", "Processes that Prometheus reaches, by version: two for a while during an update. "+runbook("NamebridgeDown", "NamebridgeReplicasMissing"), number,
		[]grafana.Target{over("count by (version) (namebridge_build_info{"+everywhere+"})", "{{version}}")}))
	l.add(16, 7, table("Versions", "What runs where.", []string{"namespace", "instance", "version", "commit", "goversion"}, []column{
		{"Processes", number, "count by (namespace, instance, version, commit, goversion) (namebridge_build_info{" + everywhere + "})", nil},
	}))
	return dashboard(fleetUID, "namebridge: all bridges", "How every bridge stands. What a number means for people is behind each panel's i.", l, nil)
}
