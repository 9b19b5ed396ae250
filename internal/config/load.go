package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/sethvargo/go-envconfig"
)

// Need is something that only some commands need.
type Need int

// Database is the Need of commands that cannot work without DATABASE_URL.
const Database Need = 1

// FileSuffix makes the name of a secret that of the variable which names the file that holds it.
const FileSuffix = "_FILE"

// Load reads the configuration from lookuper, and from the files that its …_FILE variables name. A variable that is set to nothing, or to
// white space, counts as not set. Every error is a *Problems.
func Load(lookuper envconfig.Lookuper, needs ...Need) (*Config, error) {
	c, problems := Examine(lookuper, needs...)
	if problems != nil {
		return nil, problems
	}
	return c, nil
}

// Examine is Load for those who look at a wrong configuration: beside what is wrong (nil: nothing) it gives all that could be read. What is
// wrong or missing has its zero value there, never its default; bridges whose name is wrong are left out.
func Examine(lookuper envconfig.Lookuper, needs ...Need) (*Config, *Problems) {
	l := loader{lookuper: lookuper, config: new(Config), needs: needs}
	names, several := l.bridges()
	l.config.Bridges = make([]Bridge, len(names))
	found := make([]map[string]value, len(names))
	for i, name := range names {
		l.config.Bridges[i].Name, l.config.Bridges[i].prefixed = name, map[string]bool{}
		found[i] = map[string]value{}
	}
	for _, v := range Variables {
		if !v.PerBridge {
			l.read(v, "", nil)
			continue
		}
		for i, name := range names {
			prefix := ""
			if several {
				prefix = Prefix(name)
			}
			b := &l.config.Bridges[i]
			found[i][v.Name] = l.read(v, prefix, b)
			if found[i][v.Name].prefixed {
				b.prefixed[v.Name] = true
			}
		}
	}
	for i := range names {
		l.signIn(&l.config.Bridges[i], found[i])
		l.window(&l.config.Bridges[i], found[i])
	}
	l.oneWriter(found)
	if len(l.problems) > 0 {
		return l.config, l.inOrder()
	}
	return l.config, nil
}

// LoadDatabase reads what commands need that talk to nobody but the database: the variables that are no bridge's, and the names of the
// bridges, of which nothing else is set. Every error is a *Problems.
func LoadDatabase(lookuper envconfig.Lookuper) (*Config, error) {
	l := loader{lookuper: lookuper, config: new(Config), needs: []Need{Database}}
	names, _ := l.bridges()
	for _, name := range names {
		l.config.Bridges = append(l.config.Bridges, Bridge{Name: name})
	}
	for _, v := range Variables {
		if !v.PerBridge {
			l.read(v, "", nil)
		}
	}
	if len(l.problems) > 0 {
		return nil, l.inOrder()
	}
	return l.config, nil
}

type loader struct {
	lookuper envconfig.Lookuper
	needs    []Need
	config   *Config
	problems []ranked
}

type ranked struct {
	variable int // in Variables
	Problem
}

// value is what became of one variable of one bridge.
type value struct {
	name     string // as it was found, or is missed
	prefixed bool
	set      bool // in the environment; the default does not count
	ok       bool // there is a usable value, the default counts
}

// problem keeps what is wrong with variable, which is called name here; once, since bridges that share a variable share its problem.
func (l *loader) problem(variable, name, text string) {
	p := ranked{
		variable: slices.IndexFunc(Variables, func(v Variable) bool { return v.Name == variable }),
		Problem:  Problem{Variable: name, Text: text + "."},
	}
	if !slices.Contains(l.problems, p) {
		l.problems = append(l.problems, p)
	}
}

func (l *loader) inOrder() *Problems {
	slices.SortStableFunc(l.problems, func(a, b ranked) int { return a.variable - b.variable })
	all := new(Problems)
	for _, p := range l.problems {
		all.List = append(all.List, p.Problem)
	}
	return all
}

// lookup is a variable's text, "" where it is not set or blank.
func (l *loader) lookup(name string) string {
	s, _ := l.lookuper.Lookup(name)
	if strings.TrimSpace(s) == "" {
		return ""
	}
	return s
}

var bridgePattern = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// Prefix is what stands before the names of a bridge's variables: ACME_2_ for acme-2.
func Prefix(bridge string) string {
	return strings.ToUpper(strings.ReplaceAll(bridge, "-", "_")) + "_"
}

// Prefixes are what may stand before the name of a bridge's variable: nothing, and with BRIDGES the prefix of each bridge.
func Prefixes(lookuper envconfig.Lookuper) []string {
	l := loader{lookuper: lookuper, config: new(Config)}
	prefixes := []string{""}
	if bridges, several := l.bridges(); several {
		for _, b := range bridges {
			prefixes = append(prefixes, Prefix(b))
		}
	}
	return prefixes
}

// Names are all names that Load looks up where there are these prefixes.
func Names(prefixes []string) []string {
	var all []string
	for _, v := range Variables {
		for _, p := range prefixes {
			if p != "" && !v.PerBridge {
				continue
			}
			all = append(all, p+v.Name)
			if v.Secret {
				all = append(all, p+v.Name+FileSuffix)
			}
		}
	}
	return all
}

// bridges are the names to read the variables of, and whether they have prefixes.
func (l *loader) bridges() (names []string, several bool) {
	s := l.lookup(bridgesVariable)
	if s == "" {
		return []string{"default"}, false
	}
	items, err := list(s)
	if err != nil {
		l.problem(bridgesVariable, bridgesVariable, err.Error())
	}
	for _, name := range items {
		if !bridgePattern.MatchString(name) {
			l.problem(bridgesVariable, bridgesVariable, quoted(name)+
				" cannot be a bridge's name: a small letter, then at most 39 small letters, digits and hyphens")
			continue
		}
		names = append(names, name)
	}
	return names, true
}

// read sets one variable from the environment: under its prefixed name, else its bare name, else from its default.
func (l *loader) read(v Variable, prefix string, b *Bridge) value {
	prefixes := []string{prefix}
	if prefix != "" {
		prefixes = append(prefixes, "")
	}
	for _, p := range prefixes {
		found := value{name: p + v.Name, prefixed: p != "", set: true}
		s, err := l.text(v, &found)
		if err == nil && s == "" {
			continue
		}
		if err == nil {
			err = v.set(l.config, b, s)
		}
		if err != nil {
			l.problem(v.Name, found.name, err.Error())
			return found
		}
		found.ok = true
		return found
	}
	found := value{name: prefix + v.Name, prefixed: prefix != ""}
	switch missing := l.missing(v); {
	case v.Default != "":
		if err := v.set(l.config, b, v.Default); err != nil {
			panic(fmt.Sprintf("the default of %s: %v", v.Name, err)) // a test reads every default
		}
		found.ok = true
	case missing != "":
		l.problem(v.Name, found.name, notSet(v, found, missing))
	}
	return found
}

// text is what the environment, or the file that it names, has for a variable; "" where there is nothing. found.name is made the name of
// the variable to mend where that is the file's.
func (l *loader) text(v Variable, found *value) (string, error) {
	direct := l.lookup(found.name)
	if !v.Secret {
		return strings.TrimSpace(direct), nil
	}
	file := strings.TrimSpace(l.lookup(found.name + FileSuffix))
	switch {
	case file == "":
		return direct, nil
	case direct != "":
		return "", fmt.Errorf("is set, and so is %s. Keep one of them", found.name+FileSuffix)
	}
	found.name += FileSuffix
	content, err := os.ReadFile(file)
	if err != nil {
		// Without the path: now and then it is the secret itself, put under the wrong name.
		if cause, ok := errors.AsType[*fs.PathError](err); ok {
			err = cause.Err
		}
		return "", fmt.Errorf("names a file that cannot be read: %w", err)
	}
	s := strings.TrimRight(string(content), "\r\n")
	if strings.TrimSpace(s) == "" {
		return "", errors.New("names a file with nothing in it")
	}
	return s, nil
}

func (l *loader) missing(v Variable) string {
	if v.Name == "DATABASE_URL" && slices.Contains(l.needs, Database) {
		return "Set it to embedded, which starts a private Postgres, or to where yours is: postgres://user:password@host/namebridge. " +
			"DATABASE_URL_FILE may name a file with either"
	}
	return v.missing
}

func notSet(v Variable, found value, what string) string {
	var others []string
	if v.Secret && !strings.Contains(what, FileSuffix) {
		others = append(others, found.name+FileSuffix)
	}
	if found.prefixed {
		others = append(others, v.Name+" for all bridges")
	}
	s := "is not set. " + what
	if len(others) > 0 {
		s += " (or " + strings.Join(others, ", or ") + ")"
	}
	return s
}

// signIn checks that there is exactly one way of signing in to BLN. A bridge's own way goes before one that all bridges share.
func (l *loader) signIn(b *Bridge, found map[string]value) {
	username, password, token := found["BLN_USERNAME"], found["BLN_PASSWORD"], found["BLN_ACCESS_TOKEN"]
	ownToken := token.set && token.prefixed
	ownPerson := username.set && username.prefixed || password.set && password.prefixed
	switch {
	case !token.set:
	case ownToken && !ownPerson:
		b.BLNUsername, b.BLNPassword = "", Secret{}
		return
	case ownPerson && !ownToken:
		b.BLNAccessToken = Secret{}
	case username.set || password.set:
		l.problem("BLN_ACCESS_TOKEN", token.name, "is set, and so is BLN_USERNAME or BLN_PASSWORD. Keep one way of signing in")
		return
	default:
		return
	}
	if !username.set {
		l.problem("BLN_USERNAME", username.name, notSet(Variable{Name: "BLN_USERNAME"}, username,
			"It is the sign-in name of an administrator of your BLN organization. BLN_ACCESS_TOKEN would replace it and the password"))
	}
	if !password.set {
		l.problem("BLN_PASSWORD", password.name, notSet(Variable{Name: "BLN_PASSWORD", Secret: true}, password,
			"It is the password that goes with BLN_USERNAME"))
	}
}

// window checks that what one collect leaves for the next is looked at by the next.
func (l *loader) window(b *Bridge, found map[string]value) {
	settle, lookback := found["WINDOW_SETTLE"], found["WINDOW_LOOKBACK"]
	if settle.ok && lookback.ok && b.WindowSettle >= b.WindowLookback {
		l.problem("WINDOW_SETTLE", settle.name, fmt.Sprintf("%v is not shorter than %s, %v", b.WindowSettle, lookback.name, b.WindowLookback))
	}
}

// oneWriter refuses two bridges to one organization: each would take the other's writes for drift and undo them.
func (l *loader) oneWriter(found []map[string]value) {
	for i, b := range l.config.Bridges {
		if !found[i]["BLN_URL"].ok || !found[i]["BLN_ORGANIZATION_ID"].ok {
			continue
		}
		for _, other := range l.config.Bridges[:i] {
			if b.BLNOrganizationID == other.BLNOrganizationID && strings.EqualFold(b.BLNURL, other.BLNURL) {
				l.problem("BLN_ORGANIZATION_ID", found[i]["BLN_ORGANIZATION_ID"].name, fmt.Sprintf(
					"gives bridge %s the organization %d, which is bridge %s's. Two bridges to one organization would undo each other's writes",
					b.Name, b.BLNOrganizationID, other.Name))
			}
		}
	}
}
