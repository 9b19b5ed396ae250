// Package metrics tells Prometheus what a daemon does and how its bridges stand.
//
// [Metrics] counts what this process does; over several replicas its series are added up. [Standings] tells what the database
// knows, so every replica tells the same, and one of them (max) is enough.
//
// No label ever holds anything of a person: each value is of a small closed set, or the name of a bridge.
package metrics

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"namebridge/internal/httpapi"
	"namebridge/state"
)

var (
	// runBuckets (seconds): an idle collect takes a second or two, the first backfill of a large organization a night.
	runBuckets = []float64{0.5, 1, 2.5, 5, 15, 30, 60, 120, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600}
	// propagationBuckets (seconds): a window ends WINDOW_SETTLE (30 s) before it is read, so a change is rarely there sooner, and
	// should be there some seconds later; 330 is that after a poll interval (5 min) was missed. A whole day is an outage.
	propagationBuckets = []float64{1, 2, 5, 10, 20, 30, 32.5, 35, 40, 50, 60, 90, 120, 180, 300, 330, 450, 600, 1800, 3600, 6 * 3600, 24 * 3600}
	// requestBuckets (seconds): from a fast answer nearby to the 30 s after which most requests are given up.
	requestBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}
)

// The closed sets of label values that Expect makes series of.
var (
	endpoints = map[string][]string{ // what a daemon asks of each API
		"namecoach": {"participants.list", "participants.search"},
		"bln":       {"auth.login", "organizations.get", "user.acl", "users.list", "users.search", "users.query", "users.get", "users.update"},
	}
	codes    = []string{"200", "401", "403", "429", "500", "502", "503", "504", noAnswer} // what alerts are about
	statuses = []state.RunStatus{state.Done, state.Failed, state.Quarantined, state.Halted}
	actions  = []string{"write", "clear"}
	outcomes = []string{state.Verified, state.Unsent, state.Restored, state.Damaged}
)

// noAnswer is the code of a request that got none.
const noAnswer = "none"

// Metrics counts what this process does. The methods of a nil *Metrics count nothing.
type Metrics struct {
	runs        *prometheus.HistogramVec
	writes      *prometheus.CounterVec
	propagation *prometheus.HistogramVec
	requests    *prometheus.CounterVec
	durations   *prometheus.HistogramVec
	budget      *prometheus.GaugeVec
	throttled   *prometheus.CounterVec
}

// New registers the metrics of a process and its build with reg, which must not have them yet.
func New(reg prometheus.Registerer, version, commit string) *Metrics {
	auto := promauto.With(reg)
	auto.NewGauge(prometheus.GaugeOpts{
		Name:        "namebridge_build_info",
		Help:        "Always 1: the labels say which build of namebridge this is, and which Go built it.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit, "goversion": runtime.Version()},
	}).Set(1)
	return &Metrics{
		runs: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "namebridge_run_duration_seconds",
			Help:    "How long runs took, in seconds, by kind (collect, sweep, …) and by how they ended: done, failed, quarantined (clears wait for a person) or halted.",
			Buckets: runBuckets,
		}, []string{"bridge", "kind", "status"}),
		writes: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "namebridge_writes_total",
			Help: "Writes to users in BLN, by action (write, clear) and by outcome: verified; unsent (it never arrived, and is tried again); " +
				"restored (foreign data was damaged and put back); damaged (it could not be put back). The last two halt the bridge.",
		}, []string{"bridge", "action", "outcome"}),
		propagation: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "namebridge_propagation_seconds",
			Help:    "From the end of the window of NameCoach's update time that brought a change until it was written to BLN and verified, in seconds.",
			Buckets: propagationBuckets,
		}, []string{"bridge"}),
		requests: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "namebridge_api_requests_total",
			Help: "HTTP requests sent, each attempt counted, by API (namecoach, bln), endpoint, and the status answered: none where no answer came.",
		}, []string{"bridge", "api", "endpoint", "code"}),
		durations: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "namebridge_api_request_duration_seconds",
			Help:    "From sending a request until the headers of its answer were in, or it had failed, in seconds. Waiting for the pace is not in it.",
			Buckets: requestBuckets,
		}, []string{"bridge", "api", "endpoint"}),
		budget: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "namebridge_api_budget_remaining",
			Help: "Requests that the API's headers said are left in its present period, at the last answer that said so. Absent where none did.",
		}, []string{"bridge", "api"}),
		throttled: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "namebridge_api_throttled_seconds_total",
			Help: "Time that requests have waited so that the API's limits are kept, in seconds: those that waited at once are added up.",
		}, []string{"bridge", "api"}),
	}
}

// Expect makes the series of bridges there are to come, at 0: what rises from nothing to 1 is no increase to Prometheus.
func (m *Metrics) Expect(bridges ...string) {
	if m == nil {
		return
	}
	for _, bridge := range bridges {
		for _, kind := range state.Kinds {
			for _, status := range statuses {
				m.runs.WithLabelValues(bridge, string(kind), string(status))
			}
		}
		for _, action := range actions {
			for _, outcome := range outcomes {
				m.writes.WithLabelValues(bridge, action, outcome)
			}
		}
		m.propagation.WithLabelValues(bridge)
		for api, names := range endpoints {
			m.throttled.WithLabelValues(bridge, api)
			for _, endpoint := range names {
				m.durations.WithLabelValues(bridge, api, endpoint)
				for _, code := range codes {
					m.requests.WithLabelValues(bridge, api, endpoint, code)
				}
			}
		}
	}
}

// Observe gives what a bridge's API clients tell of their requests to, as httpapi.Options.Observe.
func (m *Metrics) Observe(bridge string) func(httpapi.Observation) {
	if m == nil {
		return func(httpapi.Observation) {}
	}
	return func(o httpapi.Observation) {
		code := noAnswer
		if o.Code != 0 {
			code = strconv.Itoa(o.Code)
		}
		m.requests.WithLabelValues(bridge, o.API, o.Endpoint, code).Inc()
		m.durations.WithLabelValues(bridge, o.API, o.Endpoint).Observe(o.Duration.Seconds())
		m.throttled.WithLabelValues(bridge, o.API).Add(max(o.Throttled, 0).Seconds())
		if o.Remaining >= 0 {
			m.budget.WithLabelValues(bridge, o.API).Set(o.Remaining)
		}
	}
}

// RunEnded counts a run that this process has ended, and how long it took.
func (m *Metrics) RunEnded(bridge string, kind state.Kind, status state.RunStatus, took time.Duration) {
	if m != nil {
		m.runs.WithLabelValues(bridge, string(kind), string(status)).Observe(took.Seconds())
	}
}

// Written counts a write whose outcome is known: action is write or clear, outcome the state of its journal entry.
func (m *Metrics) Written(bridge, action, outcome string) {
	if m != nil {
		m.writes.WithLabelValues(bridge, action, outcome).Inc()
	}
}

// Propagated notes how long a change took from the end of its window to the verified write.
func (m *Metrics) Propagated(bridge string, d time.Duration) {
	if m != nil {
		m.propagation.WithLabelValues(bridge).Observe(d.Seconds())
	}
}
