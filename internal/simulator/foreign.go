package simulator

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// ForeignDigests has for each user a digest of every top-level key of otherInfo that is not the bridge's own: the given keys, or those of
// Options where none is given. Equal digests mean that nothing foreign changed: white space, the order of an object's
// members and the spelling of a string's escapes do not count, a number's digits do.
func (s *Simulator) ForeignDigests(own ...string) map[int64]string {
	digests := make(map[int64]string)
	o, own := s.ours(own)
	for _, u := range s.everybody() {
		foreign := foreignPart(o, u.otherInfo, own)
		sum := sha256.Sum256(appendCanonical(nil, &foreign))
		digests[u.id] = hex.EncodeToString(sum[:16])
	}
	return digests
}

// CountForeign is the number of foreign keys of all users together.
func (s *Simulator) CountForeign(own ...string) int {
	count := 0
	o, own := s.ours(own)
	for _, u := range s.everybody() {
		foreign := foreignPart(o, u.otherInfo, own)
		count += len(foreign.members)
	}
	return count
}

// ForeignDamage describes each user whose otherInfo is not what everybody but the bridge has made it, at most limit of them; 0 = all: keys
// that are lost, changed, or back although they were removed. What others change on purpose (SetOtherInfo, EditOtherInfo,
// Life) is no damage; what a PUT undoes of it is, whenever it was made. own is as for ForeignDigests.
func (s *Simulator) ForeignDamage(limit int, own ...string) []string {
	var damage []string
	o, own := s.ours(own)
	for _, u := range s.everybody() {
		if u.otherInfo == u.theirs {
			continue
		}
		should, is := foreignPart(o, u.theirs, own), foreignPart(o, u.otherInfo, own)
		if keys := damaged(&should, &is); len(keys) > 0 {
			damage = append(damage, fmt.Sprintf("user %d: %s", u.id, strings.Join(keys, ", ")))
			if len(damage) == limit {
				break
			}
		}
	}
	return damage
}

func (s *Simulator) ours(own []string) (*Options, []string) {
	o := s.options()
	if len(own) == 0 {
		own = o.own()
	}
	return o, own
}

// everybody are all users as they are now, by id.
func (s *Simulator) everybody() []account {
	s.world.mu.RLock()
	all := make([]account, 0, len(s.world.users))
	for _, a := range s.world.users {
		all = append(all, *a)
	}
	s.world.mu.RUnlock()
	slices.SortFunc(all, func(a, b account) int { return cmp.Compare(a.id, b.id) })
	return all
}

// foreignPart is otherInfo without the keys that are ours.
func foreignPart(o *Options, otherInfo string, own []string) node {
	n, err := parse(cmp.Or(otherInfo, "{}"))
	if err != nil {
		return node{kind: '"', text: otherInfo}
	}
	return foreignOf(o, n, own)
}

func foreignOf(o *Options, n node, own []string) node {
	n.members = slices.Clone(n.members)
	for _, key := range own {
		n.remove(key)
	}
	if n.kind == 'n' {
		n = node{kind: '{'} // null and {} are the same to whoever reads it
	}
	if o.DropNulls {
		n = dropNulls(n)
	}
	return n
}

// damaged names the keys in which is differs from should.
func damaged(should, is *node) []string {
	if should.kind != '{' || is.kind != '{' {
		if same(should, is) {
			return nil
		}
		return []string{"otherInfo as a whole"}
	}
	var keys []string
	for i := range should.members {
		m := &should.members[i]
		switch v := is.get(m.key); {
		case v == nil:
			keys = append(keys, fmt.Sprintf("%q is lost", m.key))
		case !same(&m.value, v) && should.get(m.key) == &m.value:
			keys = append(keys, fmt.Sprintf("%q is changed", m.key))
		}
	}
	for _, m := range is.members {
		if should.get(m.key) == nil {
			keys = append(keys, fmt.Sprintf("%q is nobody's", m.key))
		}
	}
	return keys
}

// same reports whether two values say the same.
func same(a, b *node) bool {
	return a.raw == b.raw && a.text == b.text || string(appendCanonical(nil, a)) == string(appendCanonical(nil, b))
}
