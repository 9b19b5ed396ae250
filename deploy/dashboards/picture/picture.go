// Package picture draws dashboards as one HTML page, from the same JSON that Grafana reads and a real Prometheus' answers. It is for the
// documentation: Grafana's own drawing differs.
package picture

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"

	"namebridge/deploy/dashboards/grafana"
	"namebridge/internal/promtest"
)

// Grafana's grid.
const (
	columnWidth, rowHeight, gap = 52, 30, 8
	pageWidth                   = 24*(columnWidth+gap) + gap
	titleHeight                 = 30
	headHeight                  = 64
)

// Answers are what Prometheus answered, by panel and by its targets.
type Answers map[int][][]promtest.Series

// Page is a dashboard with its data, and its height in pixels.
func Page(d grafana.Dashboard, answers Answers, variables map[string]string, from, to time.Time) (page string, width, height int) {
	var b strings.Builder
	for _, p := range d.Panels {
		g := p.GridPos
		x, y := gap+g.X*(columnWidth+gap), headHeight+g.Y*(rowHeight+gap)
		w, h := g.W*(columnWidth+gap)-gap, g.H*(rowHeight+gap)-gap
		height = max(height, y+h+gap)
		class := "panel"
		if p.Type == "row" {
			class = "row"
		}
		fmt.Fprintf(&b, `<div class="%s" style="left:%dpx;top:%dpx;width:%dpx;height:%dpx"><div class="title" title="%s">%s</div>`, class, x, y, w, h, html.EscapeString(p.Description), html.EscapeString(p.Title))
		b.WriteString(body(p, answers[p.ID], frame{from, to, float64(w), float64(h - titleHeight)}))
		b.WriteString("</div>\n")
	}
	var chosen []string
	for _, v := range d.Templating.List {
		if value := variables[v.Name]; value != "" {
			if v.IncludeAll && value == v.AllValue {
				value = "All"
			}
			chosen = append(chosen, fmt.Sprintf("<span>%s <b>%s</b></span>", html.EscapeString(v.Label), html.EscapeString(value)))
		}
	}
	head := fmt.Sprintf(`<div class="head"><h1>%s</h1>%s<span class="time">%s to %s UTC</span></div>`, html.EscapeString(d.Title), strings.Join(chosen, ""),
		from.UTC().Format(time.TimeOnly), to.UTC().Format(time.TimeOnly))
	return "<!doctype html><meta charset=utf-8><style>" + style + "</style>" + head + b.String(), pageWidth, height
}

const style = `
body{margin:0;background:#111217;color:#ccccdc;font:12px system-ui,"DejaVu Sans",sans-serif}
.head{position:absolute;left:8px;right:8px;top:8px;display:flex;gap:16px;align-items:center}.head h1{font-size:19px;margin:0;font-weight:500}
.head span{background:#181b1f;border:1px solid #2c3235;border-radius:2px;padding:5px 8px}.head b{color:#fff;font-weight:500}.head .time{margin-left:auto}
.panel{position:absolute;background:#181b1f;border:1px solid #25282d;border-radius:2px;box-sizing:border-box;overflow:hidden}
.title{height:30px;line-height:30px;padding:0 8px;font-weight:500;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.row{position:absolute;font-size:14px}.row .title{padding:0}
.stat{position:absolute;inset:30px 0 0 0;display:flex;align-items:center;justify-content:center;color:#fff;font-weight:500;text-align:center}
table{border-collapse:collapse;width:100%}td,th{padding:5px 8px;border-top:1px solid #2c3235;text-align:right;white-space:nowrap}th{color:#6e9fff;font-weight:500;border:0}
td:first-child,th:first-child,td.text,th.text{text-align:left}
svg{position:absolute;left:0;top:30px}svg text{fill:#9fa7b3;font-size:11px}
.legend{position:absolute;left:8px;right:8px;bottom:4px;display:flex;flex-wrap:wrap;gap:0 12px;max-height:34px;overflow:hidden;line-height:17px}
.legend i{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:5px;vertical-align:middle}
.none{position:absolute;inset:30px 0 0 0;display:flex;align-items:center;justify-content:center;color:#7b8087}
`

var palette = []string{"#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a", "#447ebc", "#c15c17", "#890f02", "#0a437c"}

var named = map[string]string{
	"green": "#56a64b", "yellow": "#e0b400", "orange": "#ff9830", "red": "#e02f44", "blue": "#3274d9", "text": "#ccccdc", "transparent": "transparent",
}

func color(name string) string {
	if c, ok := named[name]; ok {
		return c
	}
	return name
}

// frame is the room of a panel below its title, in pixels, and the time shown.
type frame struct {
	from, to      time.Time
	width, height float64
}

// line is one series with its name.
type line struct {
	name, color string
	samples     []promtest.Sample
}

func body(p grafana.Panel, answers [][]promtest.Series, f frame) string {
	switch p.Type {
	case "row":
		return ""
	case "table":
		return drawTable(p, answers)
	}
	var all []line
	for i, answer := range answers {
		for _, s := range answer {
			name := grafana.Legend(p.Targets[i].LegendFormat, s.Labels)
			s.Samples = slices.DeleteFunc(s.Samples, func(s promtest.Sample) bool { return math.IsNaN(s.Value) || math.IsInf(s.Value, 0) })
			if len(s.Samples) > 0 {
				all = append(all, line{name: name, samples: s.Samples})
			}
		}
	}
	switch {
	case p.Type == "stat":
		return drawStat(p, all)
	case len(all) == 0:
		return `<div class="none">No data</div>`
	case p.Type == "heatmap":
		return drawHeatmap(p, all, f)
	}
	slices.SortStableFunc(all, func(a, b line) int { return strings.Compare(a.name, b.name) })
	for i := range all {
		all[i].color = palette[i%len(palette)]
		for _, o := range p.FieldConfig.Overrides {
			if o.Matcher.Options != all[i].name {
				continue
			}
			for _, property := range o.Properties {
				if c, ok := property.Value.(map[string]any); ok && property.ID == "color" {
					all[i].color = color(fmt.Sprint(c["fixedColor"]))
				}
			}
		}
	}
	return drawGraph(p, all, f)
}

func drawStat(p grafana.Panel, all []line) string {
	field := p.FieldConfig.Defaults
	text, c := field.NoValue, color("transparent")
	if len(all) > 0 {
		v := all[0].samples[len(all[0].samples)-1].Value
		text, c = show(v, field), color(stepOf(v, field.Thresholds))
		for _, m := range field.Mappings {
			if w, ok := m.Options[fmt.Sprint(v)]; ok && w.Color != "" {
				c = color(w.Color)
			}
		}
	}
	size := 34
	if len(text) > 9 {
		size = 22
	}
	return fmt.Sprintf(`<div class="stat" style="background:%s;font-size:%dpx">%s</div>`, c, size, html.EscapeString(text))
}

// stepOf is the colour that a value has by thresholds.
func stepOf(v float64, t *grafana.Thresholds) (c string) {
	for _, s := range t.Steps {
		if s.Value == nil || v >= *s.Value {
			c = s.Color
		}
	}
	return c
}

// The room around a graph, for its axes and its legend.
const left, right, top, bottom = 62.0, 12.0, 6.0, 58.0

func drawGraph(p grafana.Panel, all []line, f frame) string {
	custom := p.FieldConfig.Defaults.Custom
	stack, _ := custom["stacking"].(map[string]any)
	stacked, kind := stack["mode"] == "normal", custom["drawStyle"]
	base := map[float64]float64{} // by time: how high the stack is
	low, high := math.Inf(1), 0.0
	tops := make([][]float64, len(all))
	for i, l := range all {
		for _, s := range l.samples {
			v := s.Value
			if stacked {
				v += base[s.At]
				base[s.At] = v
			}
			tops[i] = append(tops[i], v)
			low, high = min(low, s.Value), max(high, v)
		}
	}
	field := p.FieldConfig.Defaults
	if field.Min != nil {
		low = *field.Min
	}
	if field.Max != nil {
		high = *field.Max
	}
	ticks := scale(low, high, roundIn(field.Unit, high))
	low, high = min(low, ticks[0]), max(high, ticks[len(ticks)-1])
	if high == low {
		high = low + 1
	}
	step := 1.0
	for _, l := range all {
		for i := 1; i < len(l.samples); i++ {
			if gap := l.samples[i].At - l.samples[i-1].At; i == 1 || gap < step {
				step = gap
			}
		}
	}
	begin, span := float64(f.from.Unix()), f.to.Sub(f.from).Seconds()
	x := func(at float64) float64 { return left + (at-begin)/span*(f.width-left-right) }
	y := func(v float64) float64 { return top + (high-max(v, low))/(high-low)*(f.height-top-bottom) }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg width="%.0f" height="%.0f">`, f.width, f.height)
	for _, v := range ticks {
		fmt.Fprintf(&b, `<path d="M%.0f %.1fH%.0f" stroke="#2c3235"/><text x="%.0f" y="%.1f" text-anchor="end">%s</text>`,
			left, y(v), f.width-right, left-6, y(v)+4, html.EscapeString(show(v, field)))
	}
	axis(&b, f, x)
	if style, _ := custom["thresholdsStyle"].(map[string]any); style["mode"] != "off" {
		for _, s := range field.Thresholds.Steps {
			if s.Value != nil && *s.Value <= high {
				fmt.Fprintf(&b, `<path d="M%.0f %.1fH%.0f" stroke="%s" stroke-dasharray="8 6"/>`, left, y(*s.Value), f.width-right, color(s.Color))
			}
		}
	}
	for i := range slices.Backward(all) { // what is stacked highest is drawn first
		l := all[i]
		switch kind {
		case "bars":
			wide := max(x(begin+step)-x(begin)-1, 1)
			for j, s := range l.samples {
				fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, x(s.At)-wide/2, y(tops[i][j]), wide, y(tops[i][j]-s.Value)-y(tops[i][j]), l.color)
			}
		case "points":
			for j, s := range l.samples {
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x(s.At), y(tops[i][j]), l.color)
			}
		default:
			drawLine(&b, l, tops[i], step, stacked, x, y)
		}
	}
	b.WriteString(`</svg><div class="legend">`)
	for _, l := range all {
		fmt.Fprintf(&b, `<span><i style="background:%s"></i>%s</span>`, l.color, html.EscapeString(cmp.Or(l.name, "value")))
	}
	b.WriteString("</div>")
	return b.String()
}

// drawLine draws a line with gaps where there are no values, and what is below it.
func drawLine(b *strings.Builder, l line, tops []float64, step float64, stacked bool, x, y func(float64) float64) {
	for i := 0; i < len(l.samples); {
		j := i + 1
		for j < len(l.samples) && l.samples[j].At-l.samples[j-1].At < 1.5*step {
			j++
		}
		var over, under strings.Builder
		for k := i; k < j; k++ {
			fmt.Fprintf(&over, "%.1f,%.1f ", x(l.samples[k].At), y(tops[k]))
		}
		for k := j - 1; k >= i; k-- {
			floor := max(0, tops[k]-l.samples[k].Value)
			fmt.Fprintf(&under, "%.1f,%.1f ", x(l.samples[k].At), y(floor))
		}
		opacity := 0.08
		if stacked {
			opacity = 0.4
		}
		if stacked || j-i > 1 {
			fmt.Fprintf(b, `<polygon points="%s%s" fill="%s" fill-opacity="%.2f"/>`, over.String(), under.String(), l.color, opacity)
		}
		if j-i == 1 {
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="2" fill="%s"/>`, x(l.samples[i].At), y(tops[i]), l.color)
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`, over.String(), l.color)
		i = j
	}
}

// axis writes the time below a graph.
func axis(b *strings.Builder, f frame, x func(float64) float64) {
	every := f.to.Sub(f.from) / time.Duration(max(f.width/110, 2))
	for _, nice := range []time.Duration{10 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour} {
		if nice >= every {
			every = nice
			break
		}
	}
	format := "15:04"
	if every < time.Minute {
		format = time.TimeOnly
	}
	for at := f.from.Truncate(every).Add(every); at.Before(f.to); at = at.Add(every) {
		if at := x(float64(at.Unix())); at > left+16 && at < f.width-30 {
			fmt.Fprintf(b, `<path d="M%.1f %.1fV%.1f" stroke="#22252b"/>`, at, top, f.height-bottom)
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, x(float64(at.Unix())), f.height-bottom+16, at.UTC().Format(format))
	}
}

// roundIn is what the lines of an axis are round numbers of: 60 s, 1024 KiB.
func roundIn(unit string, high float64) float64 {
	sizes := map[string][]float64{"s": {3600, 60}, "bytes": {1 << 30, 1 << 20, 1 << 10}}
	for _, size := range sizes[unit] {
		if high > 1.5*size {
			return size
		}
	}
	return 1
}

// scale is where an axis has its lines: at round numbers of some size.
func scale(low, high, size float64) (ticks []float64) {
	if high <= low {
		high = low + 1
	}
	low, high = low/size, high/size
	step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
	for _, times := range []float64{1, 2, 2.5, 5, 10} {
		if (high-low)/(step*times) <= 5 {
			step *= times
			break
		}
	}
	for v := math.Floor(low/step) * step; ; v += step {
		ticks = append(ticks, v*size)
		if v >= high-step/1e6 {
			return ticks
		}
	}
}

// drawHeatmap draws how many there are in each bucket: Prometheus' buckets have all that are below, too.
func drawHeatmap(p grafana.Panel, all []line, f frame) string {
	bound := func(l line) float64 {
		var v float64
		if _, err := fmt.Sscan(strings.TrimPrefix(l.name, "+"), &v); err != nil {
			return math.Inf(1)
		}
		return v
	}
	slices.SortFunc(all, func(a, b line) int { return cmp.Compare(bound(a), bound(b)) })
	most, below := 0.0, map[float64]float64{}
	cells := make([]map[float64]float64, len(all))
	first, last := len(all), 0
	for i, l := range all {
		cells[i] = map[float64]float64{}
		for _, s := range l.samples {
			if v := s.Value - below[s.At]; v > 1e-9 {
				cells[i][s.At], most = v, max(most, v)
				first, last = min(first, i), i
			}
			below[s.At] = s.Value
		}
	}
	if most == 0 {
		return `<div class="none">No data</div>`
	}
	first, last = max(first-1, 0), min(last+1, len(all)-1)
	begin, span := float64(f.from.Unix()), f.to.Sub(f.from).Seconds()
	x := func(at float64) float64 { return left + (at-begin)/span*(f.width-left-right) }
	tall := (f.height - top - bottom) / float64(last-first+1)
	wide := (f.width - left - right) / 60
	unit, _ := p.Options["yAxis"].(map[string]any)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg width="%.0f" height="%.0f">`, f.width, f.height)
	axis(&b, f, x)
	for i := first; i <= last; i++ {
		y := top + tall*float64(last-i)
		fmt.Fprintf(&b, `<text x="%.0f" y="%.1f" text-anchor="end">%s</text>`, left-6, y+4, html.EscapeString(show(bound(all[i]), grafana.Field{Unit: fmt.Sprint(unit["unit"])})))
		for at, v := range cells[i] {
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#5794f2" fill-opacity="%.2f"/>`,
				x(at)-wide, y+.5, wide-.5, tall-1, .15+.85*math.Sqrt(v/most))
		}
	}
	fmt.Fprintf(&b, `</svg><div class="legend"><span><i style="background:#5794f2;opacity:.2"></i>few</span><span><i style="background:#5794f2"></i>%.0f in a step</span></div>`, math.Ceil(most))
	return b.String()
}

// drawTable joins what the queries gave by their labels, as Grafana's merge and organize do.
func drawTable(p grafana.Panel, answers [][]promtest.Series) string {
	organize := p.Transformations[len(p.Transformations)-1].Options
	order, _ := organize["indexByName"].(map[string]any)
	names, _ := organize["renameByName"].(map[string]any)
	rows := map[string]map[string]any{}
	present := map[string]bool{}
	for i, answer := range answers {
		value := "Value"
		if len(answers) > 1 {
			value += " #" + p.Targets[i].RefID
		}
		for _, s := range answer {
			key := fmt.Sprint(s.Labels)
			if rows[key] == nil {
				rows[key] = map[string]any{}
			}
			for name, label := range s.Labels {
				rows[key][name], present[name] = label, true
			}
			rows[key][value], present[value] = s.Samples[len(s.Samples)-1].Value, true
		}
	}
	var columns, keys []string
	for name := range order {
		if present[name] {
			columns = append(columns, name)
		}
	}
	place := func(name string) float64 { n, _ := order[name].(float64); return n }
	slices.SortFunc(columns, func(a, b string) int { return cmp.Compare(place(a), place(b)) })
	for key := range rows {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var b strings.Builder
	b.WriteString("<table><tr>")
	for _, c := range columns {
		name, class := c, "text"
		if n, ok := names[c]; ok {
			name, class = fmt.Sprint(n), ""
		}
		fmt.Fprintf(&b, `<th class="%s">%s</th>`, class, html.EscapeString(name))
	}
	b.WriteString("</tr>")
	for _, key := range keys {
		b.WriteString("<tr>")
		for _, c := range columns {
			text, back := cell(p, rows[key][c], fmt.Sprint(names[c]))
			class := ""
			if _, isText := rows[key][c].(string); isText {
				class = "text"
			}
			ink := ""
			if back != "transparent" {
				ink = ";color:#fff;font-weight:600"
			}
			fmt.Fprintf(&b, `<td class="%s" style="background:%s%s">%s</td>`, class, back, ink, html.EscapeString(text))
		}
		b.WriteString("</tr>")
	}
	return b.String() + "</table>"
}

// cell is a value of a table as its column's overrides want it.
func cell(p grafana.Panel, v any, column string) (text, back string) {
	value, isNumber := v.(float64)
	if !isNumber {
		if v == nil {
			v = ""
		}
		return fmt.Sprint(v), "transparent"
	}
	field := p.FieldConfig.Defaults
	for _, o := range p.FieldConfig.Overrides {
		if o.Matcher.Options != column {
			continue
		}
		for _, property := range o.Properties {
			switch property.ID {
			case "unit":
				field.Unit = fmt.Sprint(property.Value)
			case "decimals":
				if n, ok := property.Value.(float64); ok {
					places := int(n)
					field.Decimals = &places
				}
			case "thresholds":
				back = color(colorAt(property.Value, value))
			case "mappings":
				if word := wordAt(property.Value, value); word != "" {
					return word, back
				}
			}
		}
	}
	return show(value, field), cmp.Or(back, "transparent")
}

func colorAt(thresholds any, v float64) (c string) {
	of, _ := thresholds.(map[string]any)
	steps, _ := of["steps"].([]any)
	for _, s := range steps {
		step, _ := s.(map[string]any)
		if from, ok := step["value"].(float64); !ok || v >= from {
			c = fmt.Sprint(step["color"])
		}
	}
	return c
}

func wordAt(mappings any, v float64) string {
	all, _ := mappings.([]any)
	for _, m := range all {
		mapping, _ := m.(map[string]any)
		options, _ := mapping["options"].(map[string]any)
		if word, ok := options[fmt.Sprint(v)].(map[string]any); ok {
			return fmt.Sprint(word["text"])
		}
	}
	return ""
}

// show writes a value with its unit.
func show(v float64, f grafana.Field) string {
	for _, m := range f.Mappings {
		if w, ok := m.Options[fmt.Sprint(v)]; ok {
			return w.Text
		}
	}
	places := func(v float64) string {
		n := 2
		switch {
		case f.Decimals != nil:
			n = *f.Decimals
		case math.Abs(v) >= 100:
			n = 0
		case math.Abs(v) >= 10:
			n = 1
		}
		text := fmt.Sprintf("%.*f", n, v)
		if f.Decimals == nil && strings.Contains(text, ".") {
			text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
		}
		return text
	}
	largest := func(units []string, sizes []float64) string {
		for i, size := range sizes {
			if math.Abs(v) >= size {
				return places(v/size) + units[i]
			}
		}
		return places(v) + units[len(sizes)]
	}
	switch {
	case math.IsInf(v, 0):
		return "more"
	case f.Unit == "percentunit":
		v *= 100
		return places(v) + "%"
	case f.Unit == "s" && v != 0 && math.Abs(v) < 0.9995:
		return places(v*1000) + " ms"
	case f.Unit == "s":
		return largest([]string{" days", " hours", " mins", " s"}, []float64{86400, 3600, 60})
	case f.Unit == "bytes":
		return largest([]string{" GiB", " MiB", " KiB", " B"}, []float64{1 << 30, 1 << 20, 1 << 10})
	case f.Unit == "reqps":
		return places(v) + " req/s"
	case f.Unit == "dateTimeFromNow":
		return fmt.Sprintf("%.0f seconds ago", time.Since(time.UnixMilli(int64(v))).Seconds())
	}
	return largest([]string{" Mil", " K", ""}, []float64{1e6, 1e4})
}
