package simulator

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// otherInfo makes what others have stored about a user: from nothing to 60 keys, all of which can be written back.
func (g *generator) otherInfo(id int64) string {
	switch x := g.r.IntN(100); {
	case x < 2:
		return "" // absent (trap: it may be)
	case x < 3:
		return "null"
	case x < 5:
		return "{}"
	}
	count := 1 + g.r.IntN(22)
	switch {
	case g.chance(0.01):
		count = 60
	case g.chance(0.03):
		count = 25 + g.r.IntN(30)
	}
	var members []member
	add := func(key, raw string) { members = append(members, member{key, node{raw: raw}}) }
	documented := g.r.Perm(len(documentedKeys))
	for i := range count {
		if i%2 == 0 && i/2 < len(documented) {
			key := documentedKeys[documented[i/2]]
			add(key, g.documented(key, id))
			continue
		}
		add(pick(g, freeKeys)+pick(g, []string{"", "_", "-"})+fmt.Sprint(i), pick(g, freeValues))
	}
	if g.chance(0.02) { // keys that look like ours and are not
		add(pick(g, []string{"NameCoach", "namecoachOld", "name_coach", "namecoach_consent", "namecoach-id"}), `"theirs"`)
	}
	g.r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return object(members).raw
}

var documentedKeys = []string{
	"address", "birthYear", "dob", "phone", "homePhone", "mobilePhone", "personalEmail", "workPhone", "workEmail", "jobTitle", "trades", "trainingStatus",
	"homePhoneContactAllowed", "mobilePhoneContactAllowed", "device", "affiliation",
}

// documented is a value that the write schema takes for that key.
func (g *generator) documented(key string, id int64) string {
	switch key {
	case "address":
		return pick(g, []string{
			"null", "{}", `{"street-address":"1230 Main Street","locality":"Vancouver","postal-code":"V6B 5N2","region":"BC","country-name":"CA"}`,
			`{"post-office-box":null,"street-address":null}`, `{"id":1000,"name":"Caf\u00e9","extended-address":"4 \/ B","street-address":"Łódzka 1","district":null}`,
		})
	case "birthYear":
		return cmp.Or(map[bool]string{true: "null"}[g.chance(0.1)], fmt.Sprint(1920+g.r.IntN(101)))
	case "dob":
		return cmp.Or(map[bool]string{true: "null"}[g.chance(0.1)], fmt.Sprintf(`"%02d/%02d/%d"`, 1+g.r.IntN(12), 1+g.r.IntN(31), 1930+g.r.IntN(80)))
	case "phone", "homePhone", "mobilePhone", "workPhone":
		return cmp.Or(map[bool]string{true: "null"}[g.chance(0.1)], fmt.Sprintf(`"1500555%04d"`, g.r.IntN(10_000)))
	case "personalEmail", "workEmail":
		return cmp.Or(map[bool]string{true: "null"}[g.chance(0.1)], fmt.Sprintf(`"u%d.%s@mail.example"`, id, strings.ToLower(key)))
	case "jobTitle":
		return pick(g, []string{`"Security Officer"`, `"Schweißer"`, `"Ingénieur\u00b7e"`, `"溶接工"`, "null", `""`})
	case "trades":
		return pick(g, []string{"[]", `["engineering","marketing"]`, `["wielding","plumber","hvac","électricien"]`})
	case "trainingStatus":
		return pick(g, []string{`"Worker"`, "null"})
	case "device":
		return pick(g, []string{"{}", `{"model":"Samsung","platform":"Android","os":"10.1"}`, `{"os":"17"}`})
	case "affiliation":
		return pick(g, []string{`"Local 92"`, "null", `"  padded  "`})
	}
	return pick(g, []string{"true", "false"}) // …ContactAllowed
}

var freeKeys = []string{"crm", "badge", "Cohort", "meal-plan", "UNION_CARD", "x", "legacy_id", "score", "consent", "notes", "9lives", "_internal", "-dash"}

// freeValues are what the pattern allows for any key, in spellings that careless code does not survive.
var freeValues = []string{
	`"plain"`, `""`, `"caf\u00e9"`, `"café"`, `"a \"quote\" and a \\ backslash"`, `"http:\/\/escaped.example\/"`, `"nul \u0000 inside"`, `"lone \ud83d surrogate"`,
	`"pair \ud83e\udd8a"`, `"🦊 as it is"`, `"line\nbreak\ttab"`, `"\u202eright to left"`, `"שלום"`, `"null"`, `"1.10"`, `"  padded  "`, `"<script>&amp;</script>"`,
	`"\u2028 line separator"`, `"2015-03-26T12:11:45Z"`, `"` + strings.Repeat("long ", 100) + `"`,
	"12345678901234567890", "1.10", "0", "-0", "1e400", "1E-7", "3.0", "-17", "9007199254740993", "0.1000", "123456789.123456789123456789",
	"true", "false", "null",
	"{}", `{"a":1,"b":null,"c":"x"}`, `{"z":1.10,"a":12345678901234567890,"m":true}`, `{"id":"\u0000","name":"\ud800"}`, `{"length":0,"__proto__":"x"}`,
	"[]", `["a","b","a"]`, `[1,2.50,true,"x"]`, `[{"a":1},{"b":"two","c":false},{}]`, `["\u0000",12345678901234567890]`,
}

// unwritable spoils a user's otherInfo: it reads, but the write schema refuses it.
func (g *generator) unwritable(p person) {
	if !strings.HasPrefix(p.otherInfo, "{") {
		p.otherInfo = `{"jobTitle":"Welder"}`
	}
	if variety := g.next(Unwritable) % (len(unwritables) + 1); variety < len(unwritables) {
		u := unwritables[variety]
		p.otherInfo = withRaw(p.otherInfo, u.key, u.raw)
		p.record.unwritable = strconv.Quote(u.key) + " is " + u.raw
	} else {
		var members []member // full: one more key is one too many
		for i := range 100 {
			members = append(members, member{fmt.Sprintf("k%d", i), node{raw: "1.10"}})
		}
		p.otherInfo = object(members).raw
		p.record.unwritable = "100 properties already"
	}
}

var unwritables = []struct{ key, raw string }{
	{"learningRecords", `{"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx":{"employerName":"Another employer"}}`}, // BLN 7170
	{"birthYear", "1901"},
	{"trades", "null"},
	{"dotted.key", `"x"`},
	{"homePhone", "15005550300"},
	{"address", `{"post-office-box":null}`},
	{"birthYear", "2021"},
	{"birthYear", "1978.0"},
	{"birthYear", `"1978"`},
	{"device", "null"},
	{"device", `{"model":"X","imei":"1"}`},
	{"homePhoneContactAllowed", "null"},
	{"mobilePhoneContactAllowed", `"yes"`},
	{"list", `["a",null]`},
	{"list", `[["a"]]`},
	{"list", `[{"a":null}]`},
	{"address", `{"street-address":"1 Main","planet":"Earth"}`},
	{"address", `{"extended-address":"4 B"}`},
	{"address", `{"street-address":1}`},
	{"spaced key", "1"},
	{"", "1"},
	{"naïve", "1"},
	{"dob", `"1978-03-26"`},
	{"dob", `"13/01/1978"`},
	{"phone", "5550300"},
	{"trades", `["hvac","hvac"]`},
	{"deep", `{"a":{"b":1}}`},
	{"deep", `{"a":[1]}`},
	{"odd", `{"a b":1}`},
}

// withRaw sets a top-level key of an otherInfo made here.
func withRaw(otherInfo, key, raw string) string {
	n, err := parse(otherInfo)
	if err != nil {
		panic("simulator: an otherInfo of its own making does not parse: " + otherInfo)
	}
	n.set(key, node{raw: raw})
	return object(n.members).raw
}

func withMember(otherInfo, key, text string) string {
	return withRaw(otherInfo, key, string(appendString(nil, text)))
}
