package bln

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// awkward is legal JSON that a decoder and encoder would not give back.
const awkward = "{ \"big\":12345678901234567890 ,\"price\": 1.10,\"huge\":1e400,\"nul\":\"a\\u0000b\",\r\n" +
	`"lone":"\ud800","\udfff":"\uD83D\uDE00","esc":"\/\u0041","neg":-0.0,"exp":1E+5,"nested":{"z":[1, 2 ,{"y":null}],"a":{}},` +
	"\t\"ключ\":\"значение\" , \"a.b\":1,\"*\":2,\"\":3}"

func mustParse(t testing.TB, raw string) OtherInfo {
	t.Helper()
	o, err := ParseOtherInfo([]byte(raw))
	if err != nil {
		t.Fatalf("ParseOtherInfo(%s): %v", raw, err)
	}
	return o
}

func TestParsedOtherInfoIsGivenBackByteForByte(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{`{}`, `{ }`, `{"a":1}`, awkward} {
		if got := string(mustParse(t, raw).JSON()); got != raw {
			t.Errorf("got  %s\nwant %s", got, raw)
		}
	}
	if got := string(mustParse(t, " \n{\"a\":1}\t").JSON()); got != `{"a":1}` {
		t.Errorf("white space around the object: got %s", got)
	}
}

// Trap 52.
func TestNothingAndNullAreTheEmptyObject(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", "null", " null\n"} {
		if o := mustParse(t, raw); o != (OtherInfo{}) || string(o.JSON()) != "{}" || o.Keys() != nil {
			t.Errorf("ParseOtherInfo(%q) = %s", raw, o.JSON())
		}
	}
}

func TestOtherInfoThatCannotBeKeptIsRefusedWithItsPathAndWithoutItsValue(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return `{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + "}" }
	for name, c := range map[string]struct{ raw, want string }{
		"array":                        {`["secret"]`, "otherInfo is no JSON object but an array"},
		"string":                       {`"secret"`, "otherInfo is no JSON object but a string"},
		"number":                       {`5`, "otherInfo is no JSON object but a number"},
		"boolean":                      {`true`, "otherInfo is no JSON object but a boolean"},
		"cut off":                      {`{"a":"secret`, "otherInfo is not valid JSON"},
		"two values":                   {`{"a":"secret"}{}`, "otherInfo is not valid JSON"},
		"not a number":                 {`{"a":NaN}`, "otherInfo is not valid JSON"},
		"raw control character":        {"{\"a\":\"secret\n\"}", "otherInfo is not valid JSON"},
		"invalid UTF-8":                {"{\"a\":\"secret\xff\"}", "otherInfo is not valid UTF-8"},
		"encoded surrogate":            {"{\"a\":\"\xed\xa0\x80\"}", "otherInfo is not valid UTF-8"},
		"key twice":                    {`{"a":"secret","b":1,"a":2}`, "otherInfo has the key /a twice"},
		"key twice after unescaping":   {`{"a":"secret","\u0061":2}`, "otherInfo has the key /a twice"},
		"key twice, deep":              {`{"a":[1,{"b/c":{"d":"secret","d":"secret"}}]}`, "otherInfo has the key /a/1/b~1c/d twice"},
		"key twice, same surrogate":    {`{"\ud800":1,"\uD800":2}`, "otherInfo has the key /\uFFFD twice"},
		"key twice, may be an address": {`{"jane@example.com":1,"jane@example.com":2}`, "otherInfo has the key /… twice"},
		"too deep":                     {deep(101), "otherInfo is nested deeper than 100 levels"},
		"absurdly deep":                {deep(5_000_000), "otherInfo is nested deeper than 100 levels"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseOtherInfo([]byte(c.raw))
			if err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	mustParse(t, deep(100))
	mustParse(t, `{"a":1,"A":2,"b":{"a":3},"\ud800":4,"\ud801":5,"\ufffd":6}`)
}

func TestOtherInfoIsNeitherLostInJSONNorShownInLogs(t *testing.T) {
	t.Parallel()
	u := User{ID: 200, OtherInfo: mustParse(t, `{"workPhone":"15005550320","n":12345678901234567890}`)}
	if shown := fmt.Sprintf("%v %+v %s", u, u, u.OtherInfo); strings.Contains(shown, "1500") || !strings.Contains(shown, "otherInfo of 2 keys") {
		t.Errorf("shown as %s", shown)
	}
	text, err := json.Marshal(u.OtherInfo)
	if err != nil || string(text) != string(u.OtherInfo.JSON()) {
		t.Errorf("got %s, %v", text, err)
	}
	var back OtherInfo
	if err := json.Unmarshal(text, &back); err != nil || back != u.OtherInfo {
		t.Errorf("got %s, %v", back.JSON(), err)
	}
	if err := json.Unmarshal([]byte(`{"a":1,"a":2}`), &back); err == nil {
		t.Error("a key twice was accepted")
	}
}

func TestKeysAndGetUnescapeKeysAndKeepValues(t *testing.T) {
	t.Parallel()
	o := mustParse(t, awkward)
	want := []string{"big", "price", "huge", "nul", "lone", "\xed\xbf\xbf", "esc", "neg", "exp", "nested", "ключ", "a.b", "*", ""}
	if diff := cmp.Diff(want, o.Keys()); diff != "" {
		t.Error(diff)
	}
	for key, want := range map[string]string{
		"big": "12345678901234567890", "price": "1.10", "huge": "1e400", "nul": `"a\u0000b"`, "lone": `"\ud800"`, "\xed\xbf\xbf": `"\uD83D\uDE00"`,
		"nested": `{"z":[1, 2 ,{"y":null}],"a":{}}`, "a.b": "1", "*": "2", "": "3", "ключ": `"значение"`,
	} {
		if got, ok := o.Get(key); !ok || string(got) != want {
			t.Errorf("Get(%q) = %s, %v; want %s", key, got, ok, want)
		}
	}
	for _, key := range []string{"a", "nested.z", "BIG", "\xed\xa0\x80", "\uFFFD"} {
		if got, ok := o.Get(key); ok {
			t.Errorf("Get(%q) = %s, want nothing", key, got)
		}
	}
}

func TestWithAndWithoutChangeTheirKeyAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ raw, key, value, with, without string }{
		{``, "k", `1`, `{"k":1}`, `{}`},
		{`{}`, "k", `1`, `{"k":1}`, `{}`},
		{"{ \n}", "k", `1`, "{ \n\"k\":1}", "{ \n}"},
		{`{"a":1.10}`, "k", ``, `{"a":1.10,"k":null}`, `{"a":1.10}`},
		{`{"a" : 1.10 }`, "k", ` {"x": "<&>"} `, `{"a" : 1.10,"k":{"x": "<&>"} }`, `{"a" : 1.10 }`},
		{`{ "k" : 1 }`, "k", `2`, `{ "k" : 2 }`, `{  }`},
		{`{ "k" : 1 , "a":1e400}`, "k", `2`, `{ "k" : 2 , "a":1e400}`, `{ "a":1e400}`},
		{`{"a":1 , "k" : 1 , "b":2}`, "k", `2`, `{"a":1 , "k" : 2 , "b":2}`, `{"a":1 , "b":2}`},
		{`{"a":1 , "k" : 1 }`, "k", `2`, `{"a":1 , "k" : 2 }`, `{"a":1 }`},
		{`{"\u006b":1}`, "k", `2`, `{"\u006b":2}`, `{}`},
		{`{"a":"k"}`, `k"\` + "\n\x00", `2`, `{"a":"k","k\"\\\u000a\u0000":2}`, `{"a":"k"}`},
		{`{"\ud800":1}`, "\xed\xa0\x80", `2`, `{"\ud800":2}`, `{}`},
		{`{"a":1}`, "\xed\xbf\xbf", `2`, `{"a":1,"\udfff":2}`, `{"a":1}`},
		{`{"a":1}`, "\xff", `2`, "{\"a\":1,\"\uFFFD\":2}", `{"a":1}`},
	} {
		o := mustParse(t, c.raw)
		before := string(o.JSON())
		if got := string(o.With(c.key, json.RawMessage(c.value)).JSON()); got != c.with {
			t.Errorf("%s with %q: got %s, want %s", c.raw, c.key, got, c.with)
		}
		if got := string(o.Without(c.key).JSON()); got != c.without {
			t.Errorf("%s without %q: got %s, want %s", c.raw, c.key, got, c.without)
		}
		if after := string(o.JSON()); after != before {
			t.Errorf("%s has become %s", before, after)
		}
	}
}

func TestAwkwardValuesSurviveWithByteForByte(t *testing.T) {
	t.Parallel()
	got := string(mustParse(t, awkward).With("namecoach", json.RawMessage(`{"a":null}`)).JSON())
	if want := strings.TrimSuffix(awkward, "}") + `,"namecoach":{"a":null}}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestWithPanicsForAValueThatIsNotOneJSONValue(t *testing.T) {
	t.Parallel()
	for _, value := range []string{`{`, `1,2`, `1],[2`, `"a":1`, `{"a":1,"a":2}`, "\"\xff\"", strings.Repeat("[", 100) + strings.Repeat("]", 100)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("With(%s) was accepted", value)
				}
			}()
			OtherInfo{}.With("k", json.RawMessage(value))
		}()
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to string
		want     []Change
	}{
		{`{}`, `{}`, nil},
		{`{"a":1}`, `{}`, []Change{{"a", Missing}}},
		{`{}`, `{"a":1}`, []Change{{"a", Added}}},
		{`{"a":1}`, `{"a":2}`, []Change{{"a", Changed}}},
		{`{"b":1,"c":1,"a":1}`, `{"z":1,"y":1,"c":2}`, []Change{{"b", Missing}, {"c", Changed}, {"a", Missing}, {"z", Added}, {"y", Added}}},
		// Null and missing (trap 51).
		{`{"a":null}`, `{}`, nil},
		{`{}`, `{"a":null}`, nil},
		{`{"a":null}`, `{"a":1}`, []Change{{"a", Added}}},
		{`{"a":1}`, `{"a":null}`, []Change{{"a", Missing}}},
		{`{"a":{"b":null,"c":1}}`, `{"a":{"c":1,"d":null}}`, nil},
		{`{"a":[{"b":null}]}`, `{"a":[{}]}`, nil},
		{`{"a":{}}`, `{"a":null}`, []Change{{"a", Missing}}},
		{`{"a":[null]}`, `{"a":[]}`, []Change{{"a", Changed}}},
		{`{"a":{"b":{"c":1}}}`, `{"a":{"b":{}}}`, []Change{{"a", Changed}}},
		{`{"a":{"b":{}}}`, `{"a":{"b":{"c":1}}}`, []Change{{"a", Changed}}},
		// Order.
		{`{"a":{"b":1,"c":2},"d":3}`, `{"d":3,"a":{"c":2,"b":1}}`, nil},
		{`{"a":[1,2]}`, `{"a":[2,1]}`, []Change{{"a", Changed}}},
		// Strings.
		{`{"a":"\u0041\/\ud83d\ude00"}`, `{"a":"A/😀"}`, nil},
		{`{"\u0061":1}`, `{"a":1}`, nil},
		{`{"a":"\ud800"}`, `{"a":"\uD800"}`, nil},
		{`{"a":"\ud800"}`, `{"a":"\ud801"}`, []Change{{"a", Changed}}},
		{`{"a":"\ud800"}`, `{"a":"\ufffd"}`, []Change{{"a", Changed}}},
		{`{"a":"x\u0000"}`, `{"a":"x"}`, []Change{{"a", Changed}}},
		{`{"a":"\u00e9"}`, `{"a":"e\u0301"}`, []Change{{"a", Changed}}},
		// Types.
		{`{"a":"1"}`, `{"a":1}`, []Change{{"a", Changed}}},
		{`{"a":true}`, `{"a":false}`, []Change{{"a", Changed}}},
		{`{"a":{}}`, `{"a":[]}`, []Change{{"a", Changed}}},
		{`{"a":""}`, `{"a":false}`, []Change{{"a", Changed}}},
		// Numbers, as a server in JavaScript might give them back.
		{`{"a":12345678901234567890}`, `{"a":12345678901234567000}`, []Change{{"a", Changed}}},
		{`{"a":1.10}`, `{"a":1.1}`, nil},
	} {
		if diff := cmp.Diff(c.want, mustParse(t, c.from).Changes(mustParse(t, c.to), nil)); diff != "" {
			t.Errorf("%s to %s: %s", c.from, c.to, diff)
		}
	}
	ignored := func(key string) bool { return key == "mine" }
	got := mustParse(t, `{"mine":1,"theirs":1}`).Changes(mustParse(t, `{"mine":2}`), ignored)
	if diff := cmp.Diff([]Change{{"theirs", Missing}}, got); diff != "" {
		t.Errorf("ignored keys: %s", diff)
	}
}

func TestNumbersAreComparedByTheirDecimalValueWithoutExpandingThem(t *testing.T) {
	t.Parallel()
	zeros := strings.Repeat("0", 1_000_000)
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"1.10", "1.1", true},
		{"1", "1.0", true},
		{"100", "1e2", true},
		{"1E+2", "100.000", true},
		{"0.001", "1e-3", true},
		{"-0.0", "0", true},
		{"0e5", "0e-9", true},
		{"-1", "1", false},
		{"10", "1", false},
		{"0.1", "1", false},
		{"1e400", "1e401", false},
		{"1e400", "10e399", true},
		{"1e999999999", "10e999999998", true},
		{"1e999999999", "1e999999998", false},
		{"1e-999999999", "0", false},
		{"1e99999999999999999999999", "0.1e100000000000000000000000", true},
		{"1e99999999999999999999999", "1e99999999999999999999998", false},
		{"1e" + zeros + "1", "10", false}, // absurd: only the same when written alike, never slow
		{"1" + zeros, "1e1000000", true},
		{"12345678901234567890", "12345678901234567891", false},
		{"1.00000000000000000001", "1", false},
	} {
		if sameNumber(c.a, c.b) != c.same || sameNumber(c.b, c.a) != c.same || !sameNumber(c.a[:min(len(c.a), 50)], c.a[:min(len(c.a), 50)]) {
			t.Errorf("%.40s and %.40s: want the same to be %v", c.a, c.b, c.same)
		}
	}
}

// leaves are scalars that differ from each other, each in several spellings of the same value.
var leaves = [][]string{
	{`null`},
	{`true`},
	{`false`},
	{`0`, `-0`, `0.0`, `0e7`},
	{`1.10`, `1.1`, `11e-1`},
	{`-1.1`},
	{`12345678901234567890`, `12345678901234567890.0`},
	{`12345678901234567891`},
	{`1e400`, `10E+399`},
	{`1e999999999`, `0.1e1000000000`},
	{`1978`, `1978.0`},
	{`1e-7`},
	{`""`},
	{`"1.1"`},
	{`"a"`, `"\u0061"`},
	{`"A"`},
	{`"\u0000"`},
	{`"\ud800"`, `"\uD800"`},
	{`"\ud801"`},
	{`"\ufffd"`, "\"\uFFFD\""},
	{`"\ud83d\ude00"`, `"😀"`},
	{`"\/"`, `"/"`},
	{`"\\"`, `"\u005c"`},
	{`"\""`},
	{`"null"`},
	{`"é"`},
	{`"{\"a\":1}"`},
}

var keyNames = []string{"a", "b", "A", "a.b", "*", "", "key with space", `quo"te`, "ключ", "\xed\xa0\x80", "\x00", "~/", "@x"}

// tree is a JSON value whose spelling is open.
type tree struct {
	leaf    int // index into leaves, where there is nothing below
	members map[string]*tree
	items   []*tree
}

func drawTree(t *rapid.T, depth int) *tree {
	shape := 0
	if depth > 0 {
		shape = rapid.IntRange(0, 3).Draw(t, "shape")
	}
	switch shape {
	case 2:
		return drawObject(t, depth-1)
	case 3:
		node := &tree{items: []*tree{}}
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			node.items = append(node.items, drawTree(t, depth-1))
		}
		return node
	default:
		return &tree{leaf: rapid.IntRange(0, len(leaves)-1).Draw(t, "leaf")}
	}
}

func drawObject(t *rapid.T, depth int) *tree {
	node := &tree{members: map[string]*tree{}}
	for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom(keyNames), 0, 5, rapid.ID[string]).Draw(t, "keys") {
		node.members[key] = drawTree(t, depth)
	}
	return node
}

// spell writes a tree in one of its many spellings.
func (n *tree) spell(t *rapid.T) string {
	space := rapid.SampledFrom([]string{"", "", " ", "\r\n\t"})
	var out strings.Builder
	part := func(s string) { out.WriteString(space.Draw(t, "space") + s + space.Draw(t, "space")) }
	switch {
	case n.members != nil:
		out.WriteString("{")
		keys := slices.Sorted(maps.Keys(n.members))
		if len(keys) > 1 {
			keys = rapid.Permutation(keys).Draw(t, "order")
		}
		for i, key := range keys {
			if i > 0 {
				out.WriteString(",")
			}
			part(quote(key))
			out.WriteString(":")
			part(n.members[key].spell(t))
		}
		out.WriteString(space.Draw(t, "space") + "}")
	case n.items != nil:
		out.WriteString("[" + space.Draw(t, "space"))
		for i, item := range n.items {
			if i > 0 {
				out.WriteString(",")
			}
			part(item.spell(t))
		}
		out.WriteString("]")
	default:
		out.WriteString(rapid.SampledFrom(leaves[n.leaf]).Draw(t, "spelling"))
	}
	return out.String()
}

// under lists the leaves of a tree.
func (n *tree) under() []*tree {
	switch {
	case n.members != nil:
		var all []*tree
		for _, key := range slices.Sorted(maps.Keys(n.members)) {
			all = append(all, n.members[key].under()...)
		}
		return all
	case n.items != nil:
		var all []*tree
		for _, item := range n.items {
			all = append(all, item.under()...)
		}
		return all
	default:
		return []*tree{n}
	}
}

func drawOtherInfo(t *rapid.T) OtherInfo {
	raw := drawObject(t, 3).spell(t)
	o, err := ParseOtherInfo([]byte(raw))
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return o
}

func TestWithKeepsEveryOtherByte(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := drawOtherInfo(t)
		key := rapid.OneOf(rapid.SampledFrom(keyNames), rapid.String()).Draw(t, "key")
		value := drawTree(t, 2).spell(t)
		with := o.With(key, json.RawMessage(value))

		if got, ok := with.Get(key); !ok || string(got) != strings.Trim(value, jsonSpace) {
			t.Fatalf("Get(%q) = %s, want %s", key, got, value)
		}
		if again, err := ParseOtherInfo(with.JSON()); err != nil || again != with {
			t.Fatalf("%s does not parse back: %v", with.JSON(), err)
		}
		back := with.Without(key)
		keys := o.Keys()
		if old, ok := o.Get(key); ok {
			back = with.With(key, old)
		} else {
			keys = append(keys, unescape(quote(key)))
		}
		if string(back.JSON()) != string(o.JSON()) {
			t.Fatalf("there and back: got %s, want %s", back.JSON(), o.JSON())
		}
		if diff := cmp.Diff(keys, with.Keys()); diff != "" {
			t.Fatal(diff)
		}
		for _, k := range o.Keys() {
			was, _ := o.Get(k)
			if is, _ := with.Get(k); k != unescape(quote(key)) && string(is) != string(was) {
				t.Fatalf("%q: got %s, want %s", k, is, was)
			}
		}
		if changes := o.Changes(with, func(k string) bool { return k == unescape(quote(key)) }); changes != nil {
			t.Fatalf("foreign changes %v", changes)
		}
	})
}

func TestWithoutTakesOneKeyAndLeavesEveryOther(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := drawOtherInfo(t)
		for i, key := range o.Keys() {
			rest := o.Without(key)
			if again, err := ParseOtherInfo(rest.JSON()); err != nil || again != rest {
				t.Fatalf("%s does not parse back: %v", rest.JSON(), err)
			}
			if !slices.Equal(rest.Keys(), slices.Delete(o.Keys(), i, i+1)) {
				t.Fatalf("keys %q without %q: %q", o.Keys(), key, rest.Keys())
			}
			if changes := rest.Changes(o, func(k string) bool { return k == key }); changes != nil {
				t.Fatalf("foreign changes %v", changes)
			}
		}
	})
}

func TestNothingChangesBetweenTwoSpellingsOfTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		node := drawObject(t, 3)
		a, errA := ParseOtherInfo([]byte(node.spell(t)))
		b, errB := ParseOtherInfo([]byte(node.spell(t)))
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if changes := a.Changes(a, nil); changes != nil {
			t.Fatalf("from itself: %v", changes)
		}
		if changes := a.Changes(b, nil); changes != nil {
			t.Fatalf("%s to %s: %v", a.JSON(), b.JSON(), changes)
		}
	})
}

func TestAnySingleChangedLeafIsNoticedUnderItsTopLevelKey(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		node := drawObject(t, 3)
		all := node.under()
		if len(all) == 0 {
			t.Skip("no leaf")
		}
		before, err := ParseOtherInfo([]byte(node.spell(t)))
		if err != nil {
			t.Fatal(err)
		}
		leaf := rapid.SampledFrom(all).Draw(t, "which leaf")
		was := leaf.leaf
		leaf.leaf = (was + rapid.IntRange(1, len(leaves)-1).Draw(t, "step")) % len(leaves)
		after, err := ParseOtherInfo([]byte(node.spell(t)))
		if err != nil {
			t.Fatal(err)
		}
		want := Change{Kind: Changed}
		for key, child := range node.members {
			if slices.Contains(child.under(), leaf) {
				want.Key = key
				if child == leaf && was == 0 {
					want.Kind = Added
				}
				if child == leaf && leaf.leaf == 0 {
					want.Kind = Missing
				}
			}
		}
		if diff := cmp.Diff([]Change{want}, before.Changes(after, nil)); diff != "" {
			t.Fatalf("%s to %s: %s", before.JSON(), after.JSON(), diff)
		}
	})
}

func TestKeysSurviveQuotingAndUnescaping(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.String().Draw(t, "key")
		if got := unescape(quote(key)); got != key {
			t.Fatalf("got %q, want %q", got, key)
		}
		var std string
		if err := json.Unmarshal([]byte(quote(key)), &std); err != nil || std != key {
			t.Fatalf("encoding/json reads %q, %v, want %q", std, err, key)
		}
	})
	for r := rune(0xD800); r <= 0xDFFF; r++ {
		literal := fmt.Sprintf(`"\u%04x"`, r)
		if got := quote(unescape(literal)); got != literal {
			t.Fatalf("got %s, want %s", got, literal)
		}
	}
}

func TestUnescapeAgreesWithEncodingJSONWhereThatLosesNothing(t *testing.T) {
	t.Parallel()
	for _, literal := range []string{`""`, `"\b\f\n\r\t\"\\\/x"`, `"\u0000\u00e9\uFFFD"`, `"a\ud83d\ude00b"`, `"😀\uD83D\uDE00"`, `"\\u0041"`} {
		var want string
		if err := json.Unmarshal([]byte(literal), &want); err != nil {
			t.Fatal(err)
		}
		if got := unescape(literal); got != want {
			t.Errorf("%s: got %q, want %q", literal, got, want)
		}
	}
	for literal, want := range map[string]string{`"\ud800\ud800\udc00"`: "\xed\xa0\x80𐀀", `"\udc00\ud800"`: "\xed\xb0\x80\xed\xa0\x80", `"\ud800x"`: "\xed\xa0\x80x", `"\ud800\u0041"`: "\xed\xa0\x80A"} {
		if got := unescape(literal); got != want {
			t.Errorf("%s: got %q, want %q", literal, got, want)
		}
	}
	if _, err := ParseOtherInfo([]byte(`{"` + strings.Repeat("k", 100) + "\u007f" + `":1,"` + strings.Repeat("k", 100) + "\u007f" + `":1}`)); err == nil || strings.Contains(err.Error(), strings.Repeat("k", 65)) {
		t.Errorf("a long key in an error: %v", err)
	}
}

func FuzzOtherInfo(f *testing.F) {
	for _, raw := range []string{
		``, `null`, `{}`, awkward, `{"a":{"b":[1,{"c":"\ud800\u0000"}]}}`, `{"birthYear":1e999999999,"trades":["a","a"]}`, `{"a":1,"\u0061":2}`, "{\"a\":\"\xff\"}",
		userJSON(`{"jobTitle":"Security Officer","learningRecords":{"x":{"employerName":"Another employer"}}}`),
	} {
		f.Add([]byte(raw), "namecoach", []byte(`{"recording_link":null}`))
	}
	f.Add([]byte(`{"a":1}`), "\xed\xa0\x80", []byte(`1e400`))
	f.Fuzz(func(t *testing.T, raw []byte, key string, value []byte) {
		o, err := ParseOtherInfo(raw)
		if err != nil {
			var object map[string]json.RawMessage
			if utf8.Valid(raw) && json.Unmarshal(raw, &object) == nil && !strings.Contains(err.Error(), " twice") && !strings.Contains(err.Error(), "nested deeper") {
				t.Fatalf("refused a good object: %v", err)
			}
			return
		}
		if len(raw) > 0 && !json.Valid(raw) && strings.Trim(string(raw), jsonSpace) != "" {
			t.Fatal("accepted invalid JSON")
		}
		if again, err := ParseOtherInfo(o.JSON()); err != nil || len(again.Changes(o, nil)) > 0 {
			t.Fatalf("does not parse back: %v", err)
		}
		_ = o.Validate()
		for _, k := range o.Keys() {
			if _, ok := o.Get(k); !ok {
				t.Fatalf("key %q is listed and not found", k)
			}
			_ = o.Without(k).JSON()
		}
		if _, err := parseStrict(strings.Trim(string(value), jsonSpace), maxNesting-1); err != nil {
			return
		}
		with := o.With(key, value)
		if !json.Valid(with.JSON()) {
			t.Fatalf("With made invalid JSON: %s", with.JSON())
		}
		canonical := unescape(quote(key))
		if got, ok := with.Get(key); !ok || string(got) != strings.Trim(string(value), jsonSpace) {
			t.Fatalf("Get = %s, %v", got, ok)
		}
		if changes := o.Changes(with, func(k string) bool { return k == canonical }); len(changes) > 0 {
			t.Fatalf("foreign keys changed: %v", changes)
		}
		_ = with.Validate()
	})
}

// userJSON is a user as GET gives it (BLN 7130), with that otherInfo.
func userJSON(otherInfo string) string {
	return `{"id":10001,"organization":{"id":100,"key":"AwesomeInc","name":"Awesome Inc."},"role":"admin","otherInfo":` + otherInfo +
		`,"address":{},"externalId":"222-444-666","user":{"id":200,"username":"johnny@example.com","firstname":"Johnny","lastname":"Smithe"},"channel":null,"created":"2012-03-26T12:11:45Z","modified":null}`
}

// benchOtherInfo is an otherInfo of the usual size (BLN 7155).
const benchOtherInfo = `{"address":{"street-address":"1230 Main Street","locality":"Vancouver","postal-code":"V6B 5N2","region":"BC","country-name":"CA"},` +
	`"birthYear":1978,"homePhone":"15005550300","mobilePhone":"15005550320","personalEmail":"tim@example.com","workEmail":"work100@gmail.com",` +
	`"workPhone":"15005550320","jobTitle":"Security Officer","trades":["engineering","marketing"],"homePhoneContactAllowed":false,` +
	`"device":{"model":"Samsung","platform":"Android","os":"10.1"},"namecoach":{"name_badge_link":"https://www.name-coach.com/jane","recording_link":null}}`

var benchFragment = json.RawMessage(`{"name_badge_link":"https://www.name-coach.com/jane","recording_link":"https://s3.amazonaws.com/x.mp3","recording_id":"19"}`)

func BenchmarkParseOtherInfo(b *testing.B) {
	raw := []byte(benchOtherInfo)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseOtherInfo(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	o := mustParse(b, benchOtherInfo)
	b.ReportAllocs()
	for b.Loop() {
		if err := o.Validate(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWithAndValidate(b *testing.B) {
	o := mustParse(b, benchOtherInfo)
	b.ReportAllocs()
	for b.Loop() {
		if err := o.With("namecoach", benchFragment).Validate(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChanges(b *testing.B) {
	o := mustParse(b, benchOtherInfo)
	to := o.With("namecoach", benchFragment)
	b.ReportAllocs()
	for b.Loop() {
		if len(o.Changes(to, nil)) != 1 {
			b.Fatal("want one change")
		}
	}
}
