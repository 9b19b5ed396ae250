package bln

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"github.com/tidwall/gjson"
)

//go:embed otherinfo.schema.json
var writeSchemaText []byte

// writeSchema panics where the embedded schema is broken, which a test would show.
var writeSchema = sync.OnceValue(func() *jsonschema.Schema {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(writeSchemaText))
	if err != nil {
		panic(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("otherinfo.schema.json", document); err != nil {
		panic(err)
	}
	return compiler.MustCompile("otherinfo.schema.json")
})

// SchemaError is one reason why BLN would refuse an otherInfo.
type SchemaError struct {
	Path string // JSON pointer to what is refused, "/" for the whole; a key that may be an e-mail address is shown as "…"
	Rule string // what is wrong with it: the rule, never the value
}

func (e *SchemaError) Error() string { return e.Path + " " + e.Rule }

// SchemaErrors are all reasons why BLN would refuse an otherInfo, in order of their paths.
type SchemaErrors []*SchemaError

func (e SchemaErrors) Error() string {
	reasons := make([]string, len(e))
	for i, reason := range e {
		reasons[i] = reason.Error()
	}
	return "otherInfo cannot be written: " + strings.Join(reasons, "; ")
}

// Unwrap makes each [SchemaError] visible to errors.As.
func (e SchemaErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, reason := range e {
		errs[i] = reason
	}
	return errs
}

// Validate checks o against the documented schema of what can be written (BLN 7348-7510), with JSON Schema draft 4's
// meaning: a number with a fraction or an exponent, such as 1978.0, is no integer. What can be read cannot always be
// written. The error is [SchemaErrors], with every reason.
func (o OtherInfo) Validate() error {
	err := writeSchema().Validate(instance(gjson.Parse(o.text())))
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return err
	}
	var reasons SchemaErrors
	collect(invalid, &reasons)
	// The validator walks maps: make the order one, and drop what two rules for the same key say alike.
	slices.SortFunc(reasons, func(a, b *SchemaError) int {
		return strings.Compare(a.Path+"\x00"+a.Rule, b.Path+"\x00"+b.Rule)
	})
	return slices.CompactFunc(reasons, func(a, b *SchemaError) bool { return *a == *b })
}

// instance is a value in the terms of the validator. Numbers stand for themselves only as far as the schema asks:
// the validator takes 1978.0 for an integer and expands exponents. Here a number with a fraction or an exponent is 0.5, and
// an integer too long for an int64 is as large as those get.
func instance(v gjson.Result) any {
	switch {
	case v.Type == gjson.String:
		return unescape(v.Raw)
	case v.Type == gjson.Number:
		if strings.ContainsAny(v.Raw, ".eE") {
			return 0.5
		}
		n, _ := strconv.ParseInt(v.Raw, 10, 64) // on overflow the nearest int64
		return n
	case v.IsBool():
		return v.Bool()
	case v.IsObject():
		object := make(map[string]any)
		v.ForEach(func(key, value gjson.Result) bool {
			object[unescape(key.Raw)] = instance(value)
			return true
		})
		return object
	case v.IsArray():
		array := []any{}
		v.ForEach(func(_, value gjson.Result) bool {
			array = append(array, instance(value))
			return true
		})
		return array
	default:
		return nil
	}
}

func collect(e *jsonschema.ValidationError, reasons *SchemaErrors) {
	note := func(key, format string, args ...any) {
		path := e.InstanceLocation
		if key != "" {
			path = append(slices.Clip(path), key)
		}
		var shown strings.Builder
		for _, segment := range path {
			shown.WriteString("/" + pathSegment(segment))
		}
		if len(path) == 0 {
			shown.WriteString("/")
		}
		*reasons = append(*reasons, &SchemaError{Path: shown.String(), Rule: fmt.Sprintf(format, args...)})
	}
	// The validator's own messages hold values: each kind is put into words here.
	switch k := e.ErrorKind.(type) {
	case *kind.Type:
		want := strings.Join(k.Want, " or ")
		if slices.Contains(k.Want, "integer") {
			want += " (no fraction, no exponent)"
		}
		note("", "is %s, must be %s", k.Got, want)
	case *kind.Minimum:
		note("", "is below %s", k.Want.RatString())
	case *kind.Maximum:
		note("", "is above %s", k.Want.RatString())
	case *kind.Pattern:
		note("", "does not match %s", k.Want)
	case *kind.UniqueItems:
		note("", "has equal items at %d and %d", k.Duplicates[0], k.Duplicates[1])
	case *kind.MaxProperties:
		note("", "has %d keys, at most %d are allowed", k.Got, k.Want)
	case *kind.Dependency:
		note(k.Prop, "needs %s beside it", strings.Join(k.Missing, ", "))
	case *kind.AdditionalProperties:
		for _, key := range k.Properties {
			if plainKey.MatchString(key) {
				note(key, "is not one of the keys allowed here")
			} else {
				note(key, "is no allowed key: only letters, digits, - and _ are")
			}
		}
	case *kind.Schema, *kind.Group:
	default: // no other keyword stands in the schema
		note("", "breaks the rule %s", strings.Join(k.KeywordPath(), "/"))
	}
	for _, cause := range e.Causes {
		collect(cause, reasons)
	}
}

var plainKey = regexp.MustCompile(`^[a-zA-Z_0-9-]+$`)
