package main

import "strings"

// Where colours change, as where alerts fire with the chart's own values: a test compares.
const (
	collectLate = 1800.0      // monitoring.alerts.collectLateSeconds
	sweepLate   = 36 * 3600.0 // monitoring.alerts.sweepLateSeconds
	censusLate  = 9 * 86400.0 // monitoring.alerts.censusLateSeconds
	budgetLow   = 10.0        // NamebridgeBudgetExhausted
	turnedAway  = 0.1         // NamebridgeThrottled
)

var (
	lagColors   = []any{collectLate, orange}
	shareColors = []any{0.9, yellow, 0.98, green}

	lagSteps   = thresholds(lagColors...)
	lagLines   = lines(lagColors...)
	shareSteps = thresholds(shareColors...)
)

// runbook says where alerts are explained.
func runbook(alerts ...string) string {
	var pages []string
	for _, alert := range alerts {
		pages = append(pages, "`docs/operations/"+alert+".md`")
	}
	return "Runbook: " + strings.Join(pages, ", ") + "."
}
