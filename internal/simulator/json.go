package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// The simulator reads and writes JSON by itself: encoding/json turns lone surrogates into U+FFFD and the products' own JSON code must
// not check itself. Text is held as WTF-8, UTF-8 in which a lone surrogate is the three bytes that its number would give.

// node is one JSON value. Text is a string's content or a number's digits as written.
type node struct {
	kind    byte // one of { [ " 0 t f n
	text    string
	raw     string
	members []member
	items   []node
}

type member struct {
	key   string
	value node
}

var errNotJSON = errors.New("not JSON")

// parse reads one JSON value.
func parse(raw string) (node, error) {
	if !json.Valid([]byte(raw)) {
		return node{}, errNotJSON
	}
	p := parsers.Get().(*parser)
	defer parsers.Put(p)
	p.s, p.i = raw, 0
	return p.value(), nil
}

// eachMember goes through the top-level members of an object without keeping them. What is no object has none.
func eachMember(raw string, do func(key string, v *node)) {
	if !json.Valid([]byte(raw)) {
		return
	}
	p := parsers.Get().(*parser)
	defer parsers.Put(p)
	p.s, p.i = raw, 0
	if p.space(); p.s[p.i] != '{' {
		return
	}
	for p.next('}') {
		key := p.key()
		v := p.value()
		do(key, &v)
	}
}

// parser walks a text that is known to be valid JSON.
type parser struct {
	s       string
	i       int
	members []member // of the objects that are open
}

var parsers = sync.Pool{New: func() any { return &parser{} }}

func (p *parser) space() {
	for p.i < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.i]) >= 0 {
		p.i++
	}
}

func (p *parser) value() node {
	p.space()
	start := p.i
	var n node
	switch c := p.s[p.i]; c {
	case '{':
		n.kind = '{'
		outer := len(p.members)
		for p.next('}') {
			key := p.key()
			p.members = append(p.members, member{key, p.value()})
		}
		if len(p.members) > outer {
			n.members = slices.Clone(p.members[outer:])
			p.members = p.members[:outer]
		}
	case '[':
		n.kind = '['
		for p.next(']') {
			n.items = append(n.items, p.value())
		}
	case '"':
		n.kind, n.text = '"', p.string()
	case 't', 'f', 'n':
		n.kind = c
		p.i += len("true")
		if c == 'f' {
			p.i++
		}
	default:
		n.kind = '0'
		for p.i < len(p.s) && strings.IndexByte("+-.0123456789eE", p.s[p.i]) >= 0 {
			p.i++
		}
		n.text = p.s[start:p.i]
	}
	n.raw = p.s[start:p.i]
	return n
}

// next steps over an opening bracket or a comma to what follows, and over the closing one to the end.
func (p *parser) next(closing byte) bool {
	p.space()
	if p.s[p.i] != closing {
		p.i++ // the opening bracket or a comma
		p.space()
	}
	if p.s[p.i] == closing {
		p.i++
		return false
	}
	return true
}

func (p *parser) key() string {
	key := p.string()
	p.space()
	p.i++ // the colon
	return key
}

func (p *parser) string() string {
	p.i++ // the quote
	start := p.i
	for p.s[p.i] != '"' && p.s[p.i] != '\\' {
		p.i++
	}
	if p.s[p.i] == '"' {
		p.i++
		return p.s[start : p.i-1]
	}
	b := []byte(p.s[start:p.i])
	for p.s[p.i] != '"' {
		c := p.s[p.i]
		p.i++
		if c != '\\' {
			b = append(b, c)
			continue
		}
		c = p.s[p.i]
		p.i++
		switch c {
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			u := p.hex()
			if u >= 0xd800 && u < 0xdc00 && strings.HasPrefix(p.s[p.i:], `\u`) {
				back := p.i
				p.i += 2
				if low := p.hex(); low >= 0xdc00 && low < 0xe000 {
					b = utf8.AppendRune(b, (u-0xd800)<<10+(low-0xdc00)+0x10000)
					continue
				}
				p.i = back
			}
			if u >= 0xd800 && u < 0xe000 {
				b = append(b, byte(0xe0|u>>12), byte(0x80|u>>6&0x3f), byte(0x80|u&0x3f))
				continue
			}
			b = utf8.AppendRune(b, u)
		default:
			b = append(b, c)
		}
	}
	p.i++
	return string(b)
}

func (p *parser) hex() rune {
	u, err := strconv.ParseUint(p.s[p.i:p.i+4], 16, 32)
	if err != nil {
		panic("simulator: json.Valid let a bad escape through")
	}
	p.i += 4
	return rune(u)
}

// get is the last member of that key, as JavaScript would have it.
func (n *node) get(key string) *node {
	for i := len(n.members) - 1; i >= 0; i-- {
		if n.members[i].key == key {
			return &n.members[i].value
		}
	}
	return nil
}

func (n *node) remove(key string) {
	n.members = slices.DeleteFunc(n.members, func(m member) bool { return m.key == key })
}

func (n *node) set(key string, v node) {
	if at := n.get(key); at != nil {
		*at = v
		return
	}
	n.members = append(n.members, member{key, v})
}

// object writes an object of the members as they are; each member's value keeps its spelling.
func object(members []member) node {
	b := []byte{'{'}
	for i, m := range members {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, m.key)
		b = append(b, ':')
		b = append(b, m.value.raw...)
	}
	return node{kind: '{', members: members, raw: string(append(b, '}'))}
}

// merge lays change over old: objects member by member, anything else in the old one's place.
func merge(old, change node, deep bool) node {
	if old.kind != '{' || change.kind != '{' {
		return change
	}
	merged := node{kind: '{', members: slices.Clone(old.members)}
	for _, m := range change.members {
		if was := merged.get(m.key); was != nil && deep {
			m.value = merge(*was, m.value, true)
		}
		merged.set(m.key, m.value)
	}
	return object(merged.members)
}

// dropNulls is the value without members that are null, at any depth of objects.
func dropNulls(n node) node {
	if n.kind != '{' {
		return n
	}
	var kept []member
	for _, m := range n.members {
		if m.value.kind != 'n' {
			kept = append(kept, member{m.key, dropNulls(m.value)})
		}
	}
	return object(kept)
}

// appendCanonical writes a value so that two spellings of the same value are the same text: members sorted, no white space,
// strings escaped in one way. A number is its text: 1.10 is not 1.1.
func appendCanonical(b []byte, n *node) []byte {
	switch n.kind {
	case '{':
		members := slices.Clone(n.members)
		slices.SortStableFunc(members, func(x, y member) int { return strings.Compare(x.key, y.key) })
		b = append(b, '{')
		for i := range members {
			b = appendString(b, members[i].key)
			b = append(b, ':')
			b = appendCanonical(b, &members[i].value)
			b = append(b, ',')
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for i := range n.items {
			b = appendCanonical(b, &n.items[i])
			b = append(b, ',')
		}
		return append(b, ']')
	case '"':
		return appendString(b, n.text)
	default:
		return append(b, n.raw...)
	}
}

// appendString writes WTF-8 text as a JSON string: lone surrogates and control characters as escapes, all else as it is. Bytes that are
// no WTF-8 stay what they are: a test that wants an answer of invalid UTF-8 puts them into a name.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	plain := 0 // from here on nothing had to be escaped
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c != 0xed {
			continue
		}
		switch {
		case c == '"' || c == '\\':
			b = append(append(b, s[plain:i]...), '\\', c)
		case c < 0x20:
			b = fmt.Appendf(append(b, s[plain:i]...), `\u%04x`, c)
		case i+2 < len(s) && s[i+1] >= 0xa0 && s[i+2]&0xc0 == 0x80:
			b = fmt.Appendf(append(b, s[plain:i]...), `\u%04x`, rune(c&0x0f)<<12|rune(s[i+1]&0x3f)<<6|rune(s[i+2]&0x3f))
			i += 2
		default:
			continue
		}
		plain = i + 1
	}
	return append(append(b, s[plain:]...), '"')
}

// appendStringOrNull writes "" as null, as both servers do.
func appendStringOrNull(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}
