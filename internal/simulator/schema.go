package simulator

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// otherInfoRefusal says why the write schema of otherInfo (BLN 7338-7466) refuses a value, or "". It was written by hand from the
// document, so that it can disagree with the product's validator.
func otherInfoRefusal(n *node) string {
	if n.kind != '{' {
		return "otherInfo: no object"
	}
	seen := map[string]bool{}
	for i := range n.members {
		key, v := n.members[i].key, &n.members[i].value
		seen[key] = true
		if !plainKey(key) {
			return fmt.Sprintf("otherInfo: key %q is not allowed", key)
		}
		// The documented properties stand beside the pattern that allows every plain key: both must hold.
		if why := documentedRefusal(key, v); why != "" {
			return "otherInfo." + key + ": " + why
		}
		if why := freeRefusal(v); why != "" {
			return "otherInfo." + key + ": " + why
		}
	}
	if len(seen) > 100 {
		return "otherInfo: more than 100 properties"
	}
	return ""
}

func documentedRefusal(key string, v *node) string {
	switch key {
	case "phone", "homePhone", "mobilePhone", "personalEmail", "workPhone", "workEmail", "jobTitle", "trainingStatus", "affiliation":
		if v.kind != '"' && v.kind != 'n' {
			return "neither string nor null"
		}
	case "homePhoneContactAllowed", "mobilePhoneContactAllowed":
		if v.kind != 't' && v.kind != 'f' {
			return "no boolean"
		}
	case "birthYear":
		if v.kind == 'n' {
			return ""
		}
		if !integer(v) {
			return "neither integer nor null"
		}
		if year, err := strconv.Atoi(v.text); err != nil || year < 1920 || year > 2020 {
			return "outside 1920 to 2020"
		}
	case "dob":
		if v.kind == 'n' {
			return ""
		}
		if v.kind != '"' || !monthDayYear(v.text) {
			return "not mm/dd/yyyy"
		}
	case "trades":
		if v.kind != '[' {
			return "no array"
		}
		var seen []string
		for i := range v.items {
			if v.items[i].kind != '"' {
				return "an item that is no string"
			}
			if slices.Contains(seen, v.items[i].text) {
				return "the same item twice"
			}
			seen = append(seen, v.items[i].text)
		}
	case "device":
		if v.kind != '{' {
			return "no object"
		}
		for i := range v.members {
			switch v.members[i].key {
			case "model", "platform", "os":
				if v.members[i].value.kind != '"' {
					return v.members[i].key + " is no string"
				}
			default:
				return "unknown key"
			}
		}
	case "address":
		return addressRefusal(v)
	}
	return ""
}

// addressRefusal is the schema of BLN 7468-7515, or null.
func addressRefusal(v *node) string {
	if v.kind == 'n' {
		return ""
	}
	if v.kind != '{' {
		return "neither object nor null"
	}
	for i := range v.members {
		m := &v.members[i]
		switch m.key {
		case "id":
			if m.value.kind != 'n' && !integer(&m.value) {
				return "id is neither integer nor null"
			}
		case "name", "post-office-box", "street-address", "extended-address", "locality", "region", "postal-code", "country-name", "district":
			if m.value.kind != '"' && m.value.kind != 'n' {
				return m.key + " is neither string nor null"
			}
		default:
			return "unknown key"
		}
	}
	// Dependencies ask for the key's presence, whatever its value.
	for _, key := range []string{"post-office-box", "extended-address"} {
		if v.get(key) != nil && v.get("street-address") == nil {
			return key + " without street-address"
		}
	}
	return ""
}

// freeRefusal is the pattern for every key (BLN 7434-7461): a scalar, an object of scalars, or an array of scalars that are not null and of
// objects of such.
func freeRefusal(v *node) string {
	switch v.kind {
	case '{':
		return flatRefusal(v, true)
	case '[':
		for i := range v.items {
			switch item := &v.items[i]; item.kind {
			case 'n':
				return "null in an array"
			case '[':
				return "an array in an array"
			case '{':
				if why := flatRefusal(item, false); why != "" {
					return why + " in an array"
				}
			}
		}
	}
	return ""
}

// flatRefusal wants plain keys and scalars, null among them only where said so.
func flatRefusal(v *node, null bool) string {
	for i := range v.members {
		m := &v.members[i]
		switch {
		case !plainKey(m.key):
			return "a key that is not allowed"
		case m.value.kind == '{' || m.value.kind == '[':
			return "nested too deep"
		case m.value.kind == 'n' && !null:
			return "a member that is null"
		}
	}
	return ""
}

// plainKey is ^[a-zA-Z_0-9-]+$.
func plainKey(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != ""
}

// integer is draft 4's: a number without fraction or exponent, so 1978.0 is none.
func integer(v *node) bool { return v.kind == '0' && !strings.ContainsAny(v.text, ".eE") }

// monthDayYear is ^(0[1-9]|1[012])/(0[1-9]|[1-2][0-9]|3[0-1])/[0-9]{4}$.
func monthDayYear(s string) bool {
	if len(s) != len("mm/dd/yyyy") || s[2] != '/' || s[5] != '/' {
		return false
	}
	for _, i := range []int{0, 1, 3, 4, 6, 7, 8, 9} {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	month, day := s[:2], s[3:5]
	return month >= "01" && month <= "12" && day >= "01" && day <= "31"
}

// updateRefusal says why the body of a PUT is refused by the schema of BLN 7306-7336, or "".
func updateRefusal(body *node) string {
	if body.kind != '{' {
		return "the body is no object"
	}
	for i := range body.members {
		key, v := body.members[i].key, &body.members[i].value
		switch key {
		case "otherInfo":
			if why := otherInfoRefusal(v); why != "" {
				return why
			}
		case "externalId":
			if v.kind != '"' && v.kind != 'n' {
				return "externalId: neither string nor null"
			}
		case "role":
			if v.kind != '"' || !slices.Contains([]string{"admin", "auditor", "member"}, v.text) {
				return "role: none of admin, auditor, member"
			}
		case "address":
			if why := addressRefusal(v); why != "" {
				return "address: " + why
			}
		case "meta":
			if v.kind != '{' {
				return "meta: no object"
			}
		case "termsOfServiceAccepted":
			if v.kind != '"' {
				return "termsOfServiceAccepted: no string"
			}
		default:
			return "unknown property"
		}
	}
	return ""
}
