package main

import "strings"

// highest is what the bridges stand at. Every replica reads it from the same database, so one of them is enough, and of those that
// have read it at different times the worst counts.
func highest(metric, where string, by ...string) string {
	return "max by (" + strings.Join(by, ", ") + ") (namebridge_" + metric + "{" + where + "})"
}

// added sums up over all replicas and whatever by does not name: what each of them has done is its own.
func added(of string, by ...string) string {
	if len(by) == 0 {
		return "sum(" + of + ")"
	}
	return "sum by (" + strings.Join(by, ", ") + ") (" + of + ")"
}

// speed is how much a counter rises in a second, also over a restart.
func speed(metric, where string) string {
	return "rate(namebridge_" + metric + "{" + where + "}[$__rate_interval])"
}

// rise is by how much a counter of one bridge rises around a time.
func rise(metric string) string {
	return "increase(namebridge_" + metric + "{" + one + "}[$__rate_interval])"
}

// inAll is by how much a counter of one bridge rises in all of the time shown.
func inAll(metric string) string {
	return "increase(namebridge_" + metric + "{" + one + "}[$__range])"
}

// quantile is what that share of a histogram stays below.
func quantile(q, buckets string, by ...string) string {
	return "histogram_quantile(" + q + ", " + added(buckets, append([]string{"le"}, by...)...) + ")"
}

// ours keeps what is exported by processes of namebridge.
func ours(metric string) string {
	return metric + " and on (job, instance) namebridge_build_info{" + everywhere + "}"
}
