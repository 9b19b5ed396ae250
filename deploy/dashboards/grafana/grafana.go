// Package grafana is as much of Grafana's dashboard JSON as the dashboards use: what writes them, tests them and draws them shares it.
package grafana

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"time"
)

// SchemaVersion is that of Grafana 11; older ones from 10.3 on read it as well, newer ones migrate it by themselves.
const SchemaVersion = 39

// Dashboard is one file.
type Dashboard struct {
	UID           string      `json:"uid"`
	Title         string      `json:"title"`
	Description   string      `json:"description"`
	Tags          []string    `json:"tags"`
	SchemaVersion int         `json:"schemaVersion"`
	Editable      bool        `json:"editable"`
	GraphTooltip  int         `json:"graphTooltip"` // 1: a crosshair that all panels share
	Time          TimeRange   `json:"time"`
	Timezone      string      `json:"timezone"`
	Refresh       string      `json:"refresh"`
	Annotations   Annotations `json:"annotations"`
	Templating    Templating  `json:"templating"`
	Links         []Link      `json:"links"`
	Panels        []Panel     `json:"panels"`
}

// TimeRange is what is shown at first.
type TimeRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Annotations are marks over all graphs.
type Annotations struct {
	List []Annotation `json:"list"`
}

// Annotation marks moments at which a query gives something.
type Annotation struct {
	Name        string     `json:"name"`
	Datasource  Datasource `json:"datasource"`
	Enable      bool       `json:"enable"`
	IconColor   string     `json:"iconColor"`
	Target      Mark       `json:"target"`
	TitleFormat string     `json:"titleFormat"`
}

// Mark is the query of an annotation.
type Mark struct {
	RefID    string `json:"refId"`
	Expr     string `json:"expr"`
	Interval string `json:"interval"`
}

// Templating is the choices above a dashboard.
type Templating struct {
	List []Variable `json:"list"`
}

// Variable is a choice above a dashboard; its query is a string or a VariableQuery.
type Variable struct {
	Name        string      `json:"name"`
	Type        string      `json:"type"`
	Label       string      `json:"label"`
	Description string      `json:"description,omitempty"`
	Datasource  *Datasource `json:"datasource,omitempty"`
	Query       any         `json:"query"`
	Regex       string      `json:"regex"`
	Refresh     int         `json:"refresh"` // 1: when the dashboard is loaded, 2: also when another time is chosen
	Sort        int         `json:"sort"`
	Hide        int         `json:"hide"`
	Multi       bool        `json:"multi"`
	IncludeAll  bool        `json:"includeAll"`
	AllValue    string      `json:"allValue,omitempty"`
	Options     []struct{}  `json:"options"`
}

// VariableQuery is how a Prometheus data source asks for the values of a variable.
type VariableQuery struct {
	QryType int    `json:"qryType"`
	Query   string `json:"query"`
	RefID   string `json:"refId"`
}

// Link leads to other dashboards.
type Link struct {
	Title       string   `json:"title"`
	Type        string   `json:"type"`
	Icon        string   `json:"icon"`
	Tooltip     string   `json:"tooltip"`
	URL         string   `json:"url"`
	Tags        []string `json:"tags"`
	AsDropdown  bool     `json:"asDropdown"`
	TargetBlank bool     `json:"targetBlank"`
	IncludeVars bool     `json:"includeVars"`
	KeepTime    bool     `json:"keepTime"`
}

// Datasource says who is asked.
type Datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// Panel is one picture of a dashboard, or the head of a row.
type Panel struct {
	ID              int              `json:"id"`
	Type            string           `json:"type"` // row, stat, timeseries, table, heatmap
	Title           string           `json:"title"`
	Description     string           `json:"description,omitempty"`
	GridPos         GridPos          `json:"gridPos"`
	Datasource      *Datasource      `json:"datasource,omitempty"`
	Targets         []Target         `json:"targets,omitempty"`
	FieldConfig     *FieldConfig     `json:"fieldConfig,omitempty"`
	Options         map[string]any   `json:"options,omitempty"`
	Transformations []Transformation `json:"transformations,omitempty"`
	MaxDataPoints   int              `json:"maxDataPoints,omitempty"`
	Collapsed       *bool            `json:"collapsed,omitempty"` // of a row
	Panels          *[]Panel         `json:"panels,omitempty"`    // of a row: empty, since all are open
}

// GridPos is a panel's place in the 24 columns.
type GridPos struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

// Target is a query.
type Target struct {
	RefID        string     `json:"refId"`
	Datasource   Datasource `json:"datasource"`
	Expr         string     `json:"expr"`
	LegendFormat string     `json:"legendFormat,omitempty"`
	Format       string     `json:"format"` // time_series, table, heatmap
	Instant      bool       `json:"instant"`
	Range        bool       `json:"range"`
	EditorMode   string     `json:"editorMode"`
}

// FieldConfig says how values look.
type FieldConfig struct {
	Defaults  Field      `json:"defaults"`
	Overrides []Override `json:"overrides"`
}

// Field is how a value looks.
type Field struct {
	Unit       string         `json:"unit,omitempty"`
	Decimals   *int           `json:"decimals,omitempty"`
	Min        *float64       `json:"min,omitempty"`
	Max        *float64       `json:"max,omitempty"`
	NoValue    string         `json:"noValue,omitempty"`
	Color      *Color         `json:"color,omitempty"`
	Thresholds *Thresholds    `json:"thresholds,omitempty"`
	Mappings   []Mapping      `json:"mappings"`
	Custom     map[string]any `json:"custom,omitempty"`
}

// Color is where a colour comes from.
type Color struct {
	Mode       string `json:"mode"`
	FixedColor string `json:"fixedColor,omitempty"`
}

// Thresholds are colours by value.
type Thresholds struct {
	Mode  string `json:"mode"`
	Steps []Step `json:"steps"`
}

// Step is a colour from a value on; the first has none.
type Step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"`
}

// Mapping gives values words.
type Mapping struct {
	Type    string          `json:"type"`
	Options map[string]Word `json:"options"`
}

// Word is what a value is called.
type Word struct {
	Text  string `json:"text"`
	Color string `json:"color,omitempty"`
	Index int    `json:"index"`
}

// Override is how the values of one column or line look.
type Override struct {
	Matcher    Matcher    `json:"matcher"`
	Properties []Property `json:"properties"`
}

// Matcher names what is overridden.
type Matcher struct {
	ID      string `json:"id"`
	Options string `json:"options"`
}

// Property is what is overridden by what.
type Property struct {
	ID    string `json:"id"`
	Value any    `json:"value"`
}

// Transformation works on the answers before they are shown.
type Transformation struct {
	ID      string         `json:"id"`
	Options map[string]any `json:"options"`
}

// JSON is the file.
func (d Dashboard) JSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // >, < and & are PromQL and links
	e.SetIndent("", "  ")
	err := e.Encode(d)
	return b.Bytes(), err
}

// Read reads a file; what it has that is not here is an error.
func Read(name string) (d Dashboard, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return d, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return d, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

// Question is a query as Grafana sends it to Prometheus: with the variables replaced, for a time and a step.
type Question struct {
	Target
	From, To time.Time
	Step     time.Duration
}

// maxDataPoints is how many points Grafana asks for where a panel does not say: the panel's width in pixels.
const maxDataPoints = 60 // for each of the 24 columns

// Ask gives the queries of a panel with their variables replaced as Grafana does, for a Prometheus that scrapes every scrape. With
// "All" chosen, a variable's value is its AllValue.
func (p Panel) Ask(variables map[string]string, from, to time.Time, scrape time.Duration) []Question {
	points := p.MaxDataPoints
	if points == 0 {
		points = maxDataPoints * p.GridPos.W
	}
	span := to.Sub(from)
	step := max(span/time.Duration(points), scrape).Round(time.Second)
	all := map[string]string{
		"__interval": seconds(step), "__range": seconds(span), "__rate_interval": seconds(max(step+scrape, 4*scrape)),
	}
	maps.Copy(all, variables)
	var questions []Question
	for _, t := range p.Targets {
		t.Expr = Replace(t.Expr, all)
		questions = append(questions, Question{Target: t, From: from, To: to, Step: step})
	}
	return questions
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", max(int(d.Seconds()), 1)) }

var reference = regexp.MustCompile(`\$\{(\w+)(?::\w+)?\}|\$(\w+)`)

// Replace puts values in the place of $name and ${name}; a name that is not known stays as it is.
func Replace(text string, variables map[string]string) string {
	return reference.ReplaceAllStringFunc(text, func(found string) string {
		name, _, _ := strings.Cut(strings.Trim(found, "${}"), ":")
		if value, ok := variables[name]; ok {
			return value
		}
		return found
	})
}

var labelReference = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// Legend is what a series is called: a label that it has not is empty.
func Legend(format string, labels map[string]string) string {
	return strings.TrimSpace(labelReference.ReplaceAllStringFunc(format, func(found string) string {
		return labels[strings.Trim(found, "{} ")]
	}))
}
