package main

import (
	"namebridge/deploy/dashboards/grafana"
)

// What the queries are restricted to. A namespace is Kubernetes' own: where there is none, "All" is also what has no such label.
const (
	everywhere = `namespace=~"$namespace"`
	one        = everywhere + `,bridge="$bridge"`
)

const (
	fleetUID  = "namebridge-fleet"
	bridgeUID = "namebridge-bridge"
)

// Colours of thresholds.
const (
	green  = "green"
	yellow = "yellow"
	orange = "orange"
	red    = "red"
	blue   = "blue"
	grey   = "text"
)

// Units, by Grafana's names.
const (
	number       = "short"
	share        = "percentunit"
	secs         = "s"
	bytesBinary  = "bytes"
	requestsPerS = "reqps"
	fromNow      = "dateTimeFromNow" // of milliseconds since 1970
)

var source = grafana.Datasource{Type: "prometheus", UID: "${datasource}"}

// layout puts panels beside each other until a line is full, in the order in which they come.
type layout struct {
	panels    []grafana.Panel
	x, y, low int
}

// row begins a new part with a head.
func (l *layout) row(title string) {
	open, none := false, []grafana.Panel{}
	l.newLine()
	l.panels = append(l.panels, grafana.Panel{
		ID: len(l.panels) + 1, Type: "row", Title: title, GridPos: grafana.GridPos{H: 1, W: 24, Y: l.y}, Collapsed: &open, Panels: &none,
	})
	l.y++
	l.low = l.y
}

func (l *layout) newLine() { l.x, l.y = 0, l.low }

// add puts a panel of that size in the next place.
func (l *layout) add(w, h int, p grafana.Panel) {
	if l.x+w > 24 {
		l.newLine()
	}
	p.ID, p.GridPos = len(l.panels)+1, grafana.GridPos{H: h, W: w, X: l.x, Y: l.y}
	l.panels = append(l.panels, p)
	l.x += w
	l.low = max(l.low, l.y+h)
}

// dashboard is what both have in common.
func dashboard(uid, title, about string, l *layout, variables []grafana.Variable, links ...grafana.Link) grafana.Dashboard {
	return grafana.Dashboard{
		UID: uid, Title: title, Description: about, Tags: []string{"namebridge"}, SchemaVersion: grafana.SchemaVersion, Editable: true, GraphTooltip: 1,
		Time: grafana.TimeRange{From: "now-6h", To: "now"}, Timezone: "browser", Refresh: "1m",
		Templating: grafana.Templating{List: append([]grafana.Variable{{
			Name: "datasource", Type: "datasource", Label: "Prometheus", Query: "prometheus", Refresh: 1, Options: []struct{}{},
		}, choice("namespace", "Namespace", "Where namebridge runs in Kubernetes. Bridges of one name in several namespaces are shown as one, the worst of them.",
			`label_values(namebridge_build_info, namespace)`, true)}, variables...)},
		Annotations: grafana.Annotations{List: []grafana.Annotation{{
			Name: "Alerts", Datasource: source, Enable: true, IconColor: red, TitleFormat: "{{alertname}} {{bridge}}",
			Target: grafana.Mark{RefID: "Anno", Expr: `ALERTS{alertname=~"Namebridge.*",alertstate="firing"}`, Interval: "1m"},
		}}},
		Links: append([]grafana.Link{}, links...), Panels: l.panels,
	}
}

// choice is a variable whose values Prometheus knows.
func choice(name, label, about, query string, all bool) grafana.Variable {
	v := grafana.Variable{
		Name: name, Type: "query", Label: label, Description: about, Datasource: &source,
		Query:   grafana.VariableQuery{QryType: 1, Query: query, RefID: "PrometheusVariableQueryEditor-VariableQuery"},
		Refresh: 2, Sort: 1, IncludeAll: all, Options: []struct{}{},
	}
	if all {
		v.AllValue = ".*"
	}
	return v
}

// look changes how a panel's values are shown.
type look func(*grafana.Panel)

// panel is what all kinds have in common.
func panel(kind, title, about, unit string, targets []grafana.Target, options map[string]any) grafana.Panel {
	p := grafana.Panel{
		Type: kind, Title: title, Description: about, Datasource: &source, Targets: targets, Options: options,
		FieldConfig: &grafana.FieldConfig{
			Defaults:  grafana.Field{Unit: unit, Color: &grafana.Color{Mode: "palette-classic"}, Mappings: []grafana.Mapping{}},
			Overrides: []grafana.Override{},
		},
	}
	thresholds()(&p)
	for i := range p.Targets {
		p.Targets[i].RefID = string(rune('A' + i))
	}
	return p
}

// now is a query of one moment, over is one of the whole time shown.
func now(expr string) grafana.Target {
	return grafana.Target{Datasource: source, Expr: expr, Format: "table", Instant: true, EditorMode: "code"}
}

func over(expr, legend string) grafana.Target {
	return grafana.Target{Datasource: source, Expr: expr, LegendFormat: legend, Format: "time_series", Range: true, EditorMode: "code"}
}

// stat is one number, in the colour of its threshold.
func stat(title, about, unit, expr string, looks ...look) grafana.Panel {
	target := now(expr)
	target.Format = "time_series"
	p := panel("stat", title, about, unit, []grafana.Target{target}, map[string]any{
		"colorMode": "background", "graphMode": "none", "justifyMode": "center", "orientation": "auto", "textMode": "value", "wideLayout": true,
		"reduceOptions": map[string]any{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
	})
	p.FieldConfig.Defaults.Color.Mode = "thresholds"
	for _, change := range looks {
		change(&p)
	}
	return p
}

// graph is lines over time.
func graph(title, about, unit string, targets []grafana.Target, looks ...look) grafana.Panel {
	p := panel("timeseries", title, about, unit, targets, map[string]any{
		"legend":  map[string]any{"showLegend": true, "displayMode": "list", "placement": "bottom", "calcs": []string{}},
		"tooltip": map[string]any{"mode": "multi", "sort": "desc"},
	})
	p.FieldConfig.Defaults.Custom = map[string]any{
		"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false,
		"stacking": map[string]any{"mode": "none", "group": "A"}, "thresholdsStyle": map[string]any{"mode": "off"},
	}
	least := 0.0
	p.FieldConfig.Defaults.Min = &least
	for _, change := range looks {
		change(&p)
	}
	return p
}

// column is a query of a table that has one row for each value of a label.
type column struct {
	name, unit, expr string
	looks            []grafana.Property
}

// table joins columns that have the labels named in by.
func table(title, about string, by []string, columns []column, looks ...look) grafana.Panel {
	var targets []grafana.Target
	names, order := map[string]any{}, map[string]any{}
	for i, label := range by {
		order[label] = i
	}
	p := panel("table", title, about, "", nil, map[string]any{"showHeader": true, "cellHeight": "sm"})
	p.FieldConfig.Defaults.Custom = map[string]any{"align": "auto", "filterable": false, "cellOptions": map[string]any{"type": "auto"}}
	p.FieldConfig.Defaults.Color.Mode = "thresholds"
	for i, c := range columns {
		targets = append(targets, now(c.expr))
		value := "Value"
		if len(columns) > 1 {
			value += " #" + string(rune('A'+i))
		}
		names[value], order[value] = c.name, len(by)+i
		properties := append([]grafana.Property{{ID: "unit", Value: c.unit}}, c.looks...)
		p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, grafana.Override{Matcher: grafana.Matcher{ID: "byName", Options: c.name}, Properties: properties})
	}
	for i := range targets {
		targets[i].RefID = string(rune('A' + i))
	}
	p.Targets = targets
	if len(columns) > 1 {
		p.Transformations = append(p.Transformations, grafana.Transformation{ID: "merge", Options: map[string]any{}})
	}
	p.Transformations = append(p.Transformations, grafana.Transformation{ID: "organize", Options: map[string]any{
		"excludeByName": map[string]any{"Time": true}, "indexByName": order, "renameByName": names,
	}})
	for _, change := range looks {
		change(&p)
	}
	return p
}

// steps are colours by value: a colour, then values and the colours from there on.
func steps(first string, then ...any) []grafana.Step {
	all := []grafana.Step{{Color: first}}
	for i := 0; i+1 < len(then); i += 2 {
		value, isNumber := then[i].(float64)
		color, isText := then[i+1].(string)
		if !isNumber || !isText {
			panic("steps: values and colours take turns")
		}
		all = append(all, grafana.Step{Color: color, Value: &value})
	}
	return all
}

func thresholds(then ...any) look {
	return func(p *grafana.Panel) {
		p.FieldConfig.Defaults.Thresholds = &grafana.Thresholds{Mode: "absolute", Steps: steps(green, then...)}
	}
}

// base is the colour below all thresholds.
func base(color string) look {
	return func(p *grafana.Panel) { p.FieldConfig.Defaults.Thresholds.Steps[0].Color = color }
}

// lines draws the thresholds into a graph.
func lines(then ...any) look {
	return func(p *grafana.Panel) {
		thresholds(then...)(p)
		p.FieldConfig.Defaults.Thresholds.Steps[0].Color = "transparent"
		p.FieldConfig.Defaults.Custom["thresholdsStyle"] = map[string]any{"mode": "dashed"}
	}
}

// words gives the values of a number names, each with a colour.
func words(of map[string]grafana.Word) look {
	return func(p *grafana.Panel) {
		p.FieldConfig.Defaults.Mappings = []grafana.Mapping{{Type: "value", Options: of}}
	}
}

// custom changes how a graph is drawn.
func custom(key string, value any) look {
	return func(p *grafana.Panel) { p.FieldConfig.Defaults.Custom[key] = value }
}

// stacked puts lines upon each other.
func stacked(p *grafana.Panel) {
	custom("stacking", map[string]any{"mode": "normal", "group": "A"})(p)
	custom("fillOpacity", 40)(p)
}

// bars draws what happened in each step.
func bars(p *grafana.Panel) {
	stacked(p)
	custom("drawStyle", "bars")(p)
	custom("fillOpacity", 80)(p)
	p.MaxDataPoints = 60
}

// points draws what there is only now and then.
func points(p *grafana.Panel) {
	custom("drawStyle", "points")(p)
	custom("showPoints", "always")(p)
	custom("pointSize", 6)(p)
}

func atMost(most float64) look {
	return func(p *grafana.Panel) { p.FieldConfig.Defaults.Max = &most }
}

func free(p *grafana.Panel) { p.FieldConfig.Defaults.Min = nil }

func noValue(text string) look {
	return func(p *grafana.Panel) { p.FieldConfig.Defaults.NoValue = text }
}

// colored gives lines that mean something the colour that says so.
func colored(colors map[string]string, order ...string) look {
	return func(p *grafana.Panel) {
		for _, name := range order {
			p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, grafana.Override{
				Matcher:    grafana.Matcher{ID: "byName", Options: name},
				Properties: []grafana.Property{{ID: "color", Value: grafana.Color{Mode: "fixed", FixedColor: colors[name]}}},
			})
		}
	}
}

// colorsOf are the properties of a table's column that is coloured by value.
func colorsOf(first string, then ...any) []grafana.Property {
	return []grafana.Property{
		{ID: "thresholds", Value: grafana.Thresholds{Mode: "absolute", Steps: steps(first, then...)}},
		{ID: "custom.cellOptions", Value: map[string]any{"type": "color-background", "mode": "basic"}},
	}
}
