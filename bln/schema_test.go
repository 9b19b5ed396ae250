package bln

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/tidwall/gjson"
	"pgregory.net/rapid"
)

func TestWhatBLNLetsOneWriteIsValid(t *testing.T) {
	t.Parallel()
	many := make([]string, 100)
	for i := range many {
		many[i] = fmt.Sprintf(`"k%d":null`, i)
	}
	for _, raw := range []string{
		`{}`,
		benchOtherInfo,
		`{"birthYear":1920}`, `{"birthYear":2020}`, `{"birthYear":null}`,
		`{"dob":"12/31/1990"}`, `{"dob":null}`,
		`{"address":null}`, `{"address":{}}`, `{"address":{"post-office-box":null,"street-address":null}}`, `{"address":{"id":12345678901234567890}}`,
		`{"free":12345678901234567890,"x":1.10,"y":1e400,"z":1e999999999,"s":"\u0000\ud800","n":null,"b":true}`,
		`{"free":{"a":1e999999999,"b":"x","c":null,"d":false},"list":["a",1,true,{"k":"v","n":1,"b":false}],"empty":[],"none":{}}`,
		`{"trades":[]}`, `{"trades":["\ud800","\ud801","\ufffd"]}`,
		`{"namecoach":{"name_badge_link":"https://x","recording_link":null}}`,
		"{" + strings.Join(many, ",") + "}",
	} {
		if err := mustParse(t, raw).Validate(); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

// Traps 48, 49, 50.
func TestWhatReadsButDoesNotWriteIsRefusedWithEachReason(t *testing.T) {
	t.Parallel()
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprintf(`"k%d":null`, i)
	}
	const charset = "is no allowed key: only letters, digits, - and _ are"
	const integer = "is number, must be null or integer (no fraction, no exponent)"
	for _, c := range []struct {
		raw  string
		want []SchemaError
	}{
		{`{"learningRecords":{"xxxxxxxx-xxxx":{"employerName":"Another employer"}}}`, []SchemaError{{"/learningRecords/xxxxxxxx-xxxx", "is object, must be null or boolean or number or string"}}}, // 48
		{`{"birthYear":1919}`, []SchemaError{{"/birthYear", "is below 1920"}}},
		{`{"birthYear":2021}`, []SchemaError{{"/birthYear", "is above 2020"}}},
		{`{"birthYear":12345678901234567890}`, []SchemaError{{"/birthYear", "is above 2020"}}},
		{`{"birthYear":-12345678901234567890}`, []SchemaError{{"/birthYear", "is below 1920"}}},
		{`{"birthYear":1978.0}`, []SchemaError{{"/birthYear", integer}}},
		{`{"birthYear":1.978e3}`, []SchemaError{{"/birthYear", integer}}},
		{`{"birthYear":1e999999999}`, []SchemaError{{"/birthYear", integer}}},
		{`{"address":{"id":1e999999999}}`, []SchemaError{{"/address/id", integer}}},
		{`{"birthYear":"1978"}`, []SchemaError{{"/birthYear", "is string, must be null or integer (no fraction, no exponent)"}}},
		{`{"dob":"1990-12-31"}`, []SchemaError{{"/dob", "does not match ^(0[1-9]|1[012])/(0[1-9]|[1-2][0-9]|3[0-1])/[0-9]{4}$"}}},
		{`{"dob":"12/31/1990\n"}`, []SchemaError{{"/dob", "does not match ^(0[1-9]|1[012])/(0[1-9]|[1-2][0-9]|3[0-1])/[0-9]{4}$"}}},
		{`{"trades":null}`, []SchemaError{{"/trades", "is null, must be array"}}},
		{`{"trades":["a",null,"a"]}`, []SchemaError{{"/trades", "has equal items at 0 and 2"}, {"/trades/1", "is null, must be boolean or number or string or object"}, {"/trades/1", "is null, must be string"}}},
		{`{"trades":["\u0061","a"]}`, []SchemaError{{"/trades", "has equal items at 0 and 1"}}},
		{`{"device":null}`, []SchemaError{{"/device", "is null, must be object"}}},
		{`{"device":{"model":null}}`, []SchemaError{{"/device/model", "is null, must be string"}}},
		{`{"device":{"imei":"x"}}`, []SchemaError{{"/device/imei", "is not one of the keys allowed here"}}},
		{`{"homePhoneContactAllowed":null}`, []SchemaError{{"/homePhoneContactAllowed", "is null, must be boolean"}}},
		{`{"mobilePhoneContactAllowed":"yes"}`, []SchemaError{{"/mobilePhoneContactAllowed", "is string, must be boolean"}}},
		{`{"workPhone":15005550320}`, []SchemaError{{"/workPhone", "is number, must be null or string"}}},
		{`{"address":{"planet":"Earth"}}`, []SchemaError{{"/address/planet", "is not one of the keys allowed here"}}},
		{`{"address":{"post-office-box":null}}`, []SchemaError{{"/address/post-office-box", "needs street-address beside it"}}},
		{`{"address":{"extended-address":"x"}}`, []SchemaError{{"/address/extended-address", "needs street-address beside it"}}},
		{`{"address":"Main Street"}`, []SchemaError{{"/address", "is string, must be null or object"}}},
		{`{"a.b":1}`, []SchemaError{{"/a.b", charset}}},
		{`{"a b":1,"":2,"ключ":3,"\u0000":4,"jane@example.com":5,"\ud800":6}`, []SchemaError{{"/", charset}, {"/a b", charset}, {"/ключ", charset}, {"/…", charset}, {"/\uFFFD", charset}}},
		{`{"free":{"a.b":1}}`, []SchemaError{{"/free/a.b", charset}}},
		{`{"free":{"a":[]}}`, []SchemaError{{"/free/a", "is array, must be null or boolean or number or string"}}},
		{`{"free":[null]}`, []SchemaError{{"/free/0", "is null, must be boolean or number or string or object"}}},
		{`{"free":[[]]}`, []SchemaError{{"/free/0", "is array, must be boolean or number or string or object"}}},
		{`{"free":[{"a":null}]}`, []SchemaError{{"/free/0/a", "is null, must be boolean or number or string"}}},
		{"{" + strings.Join(many, ",") + "}", []SchemaError{{"/", "has 101 keys, at most 100 are allowed"}}}, // 50
	} {
		err := mustParse(t, c.raw).Validate()
		var reasons SchemaErrors
		if !errors.As(err, &reasons) {
			t.Errorf("%s: got %v", c.raw, err)
			continue
		}
		var got []SchemaError
		for _, reason := range reasons {
			got = append(got, *reason)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.raw, diff)
		}
		var first *SchemaError
		if !errors.As(err, &first) || !strings.Contains(err.Error(), first.Error()) {
			t.Errorf("%s: %q does not give its first reason", c.raw, err)
		}
	}
}

func TestReasonsNeverHoldTheValue(t *testing.T) {
	t.Parallel()
	err := mustParse(t, `{"dob":"s3cret","birthYear":777,"device":{"os":"s3cret","x":"s3cret"},"trades":["s3cret","s3cret"],"f":[["s3cret"]],"workPhone":777}`).Validate()
	if err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "777") {
		t.Error(err)
	}
}

// The embedded schema is written for speed; it must decide as the documented one does.
func TestWriteSchemaDecidesAsTheDocumentedOneDoes(t *testing.T) {
	t.Parallel()
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft4)
	for url, file := range map[string]string{"https://bln.example/user.otherInfo": "testdata/document-otherinfo.json", "https://bln.example/address": "testdata/document-address.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource(url, document); err != nil {
			t.Fatal(err)
		}
	}
	documented := compiler.MustCompile("https://bln.example/user.otherInfo")

	scalars := []string{`null`, `true`, `1978`, `1919`, `2020`, `2021`, `1978.0`, `1e999999999`, `"a"`, `"b"`, `"12/31/1990"`}
	keys := []string{
		"address", "birthYear", "dob", "phone", "trades", "homePhoneContactAllowed", "device", "affiliation", "free", "a.b", "",
		"id", "post-office-box", "street-address", "extended-address", "locality", "model", "os",
	}
	var value func(t *rapid.T, depth int) string
	object := func(t *rapid.T, depth int) string {
		var members []string
		for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 0, 4, rapid.ID[string]).Draw(t, "keys") {
			members = append(members, quote(key)+":"+value(t, depth))
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	value = func(t *rapid.T, depth int) string {
		switch shape := rapid.IntRange(0, 9).Draw(t, "shape"); {
		case depth > 0 && shape >= 8:
			items := make([]string, rapid.IntRange(0, 3).Draw(t, "items"))
			for i := range items {
				items[i] = value(t, depth-1)
			}
			return "[" + strings.Join(items, ",") + "]"
		case depth > 0 && shape >= 5:
			return object(t, depth-1)
		default:
			return rapid.SampledFrom(scalars).Draw(t, "scalar")
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		raw := object(t, 3)
		o, err := ParseOtherInfo([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		want := documented.Validate(instance(gjson.Parse(raw)))
		if got := o.Validate(); (got == nil) != (want == nil) {
			t.Fatalf("%s: got %v, the document says %v", raw, got, want)
		}
	})
}
