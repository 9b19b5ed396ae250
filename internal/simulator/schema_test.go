package simulator

import (
	"fmt"
	"strings"
	"testing"
)

// Traps 48, 49, 50: what reads but does not write, and its neighbours that do.
func TestTheWriteSchemaRefusesWhatTheDocumentRefuses(t *testing.T) {
	t.Parallel()
	hundred := make([]string, 100)
	for i := range hundred {
		hundred[i] = fmt.Sprintf(`"k%d":null`, i)
	}
	full := strings.Join(hundred, ",")
	for raw, writes := range map[string]bool{
		`{}`: true, `[]`: false, `null`: false, `"x"`: false,
		// 48: learningRecords as BLN 7170 shows it, and one that is flat enough
		`{"learningRecords":{"x-1":{"employerName":"Another employer"}}}`: false,
		`{"learningRecords":{"x-1":"Another employer"}}`:                  true,
		// 49
		`{"birthYear":1919}`: false, `{"birthYear":1920}`: true, `{"birthYear":2020}`: true, `{"birthYear":2021}`: false, `{"birthYear":1978.0}`: false,
		`{"birthYear":1.978e3}`: false, `{"birthYear":"1978"}`: false, `{"birthYear":null}`: true, `{"birthYear":-1978}`: false,
		`{"birthYear":12345678901234567890}`: false,
		`{"dob":null}`:                       true, `{"dob":"03/26/1978"}`: true, `{"dob":"3/26/1978"}`: false, `{"dob":"13/01/1978"}`: false, `{"dob":"00/01/1978"}`: false,
		`{"dob":"02/31/1978"}`: true, `{"dob":"02/32/1978"}`: false, `{"dob":"02/00/1978"}`: false, `{"dob":"1978-03-26"}`: false, `{"dob":"03/26/1978\n"}`: false, `{"dob":""}`: false,
		`{"phone":15005550300}`: false, `{"phone":"15005550300"}`: true, `{"homePhone":null}`: true, `{"mobilePhone":true}`: false, `{"workPhone":{}}`: false,
		`{"personalEmail":"no address"}`: true, `{"workEmail":[]}`: false, `{"jobTitle":1}`: false, `{"affiliation":false}`: false, `{"trainingStatus":null}`: true,
		`{"trades":null}`: false, `{"trades":[]}`: true, `{"trades":["a","b"]}`: true, `{"trades":["a","a"]}`: false, `{"trades":["a","\u0061"]}`: false,
		`{"trades":["a",null]}`: false, `{"trades":[1]}`: false, `{"trades":"a"}`: false,
		`{"homePhoneContactAllowed":null}`: false, `{"homePhoneContactAllowed":"true"}`: false, `{"mobilePhoneContactAllowed":false}`: true,
		`{"device":null}`: false, `{"device":{}}`: true, `{"device":{"os":"1"}}`: true, `{"device":{"os":1}}`: false, `{"device":{"os":null}}`: false,
		`{"device":{"imei":"1"}}`: false, `{"device":"phone"}`: false,
		`{"address":null}`: true, `{"address":{}}`: true, `{"address":{"planet":"Earth"}}`: false, `{"address":{"locality":1}}`: false, `{"address":"x"}`: false,
		`{"address":{"id":1}}`: true, `{"address":{"id":1.5}}`: false, `{"address":{"id":"1"}}`: false,
		`{"address":{"post-office-box":"1"}}`: false, `{"address":{"post-office-box":null}}`: false, `{"address":{"extended-address":"B"}}`: false,
		`{"address":{"post-office-box":"1","street-address":null}}`: true,
		`{"any":null}`: true, `{"any":1e400}`: true, `{"any":""}`: true,
		`{"any":[null]}`: false, `{"any":["a",1,true,{"a":1}]}`: true, `{"any":[[1]]}`: false, `{"any":[{"a":null}]}`: false, `{"any":[{"a":[]}]}`: false, `{"any":[{"a b":1}]}`: false,
		`{"any":{"a":null,"b":1}}`: true, `{"any":{"a":{}}}`: false, `{"any":{"a":[]}}`: false, `{"any":{"a.b":1}}`: false, `{"any":{"":1}}`: false,
		`{"a.b":1}`: false, `{"a b":1}`: false, `{"":1}`: false, `{"é":1}`: false, `{"a\n":1}`: false, `{"A_9-z":1}`: true, `{"\u0061":1}`: true,
		// 50
		"{" + full + "}": true, "{" + full + `,"one":1}`: false,
	} {
		n, err := parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if why := otherInfoRefusal(&n); (why == "") != writes {
			t.Errorf("%.120s: got refusal %q, want it to write: %t", raw, why, writes)
		}
	}
}

// Trap 46 lives on the server's side too: what PUT takes beside otherInfo.
func TestAPutTakesTheDocumentedPropertiesOnly(t *testing.T) {
	t.Parallel()
	for raw, right := range map[string]bool{
		`{"otherInfo":{}}`: true, `{"otherInfo":null}`: false, `{}`: true, `[]`: false, `{"firstname":"x"}`: false, `{"role":"admin"}`: true, `{"role":"owner"}`: false,
		`{"externalId":null}`: true, `{"externalId":1}`: false, `{"meta":{}}`: true, `{"meta":null}`: false, `{"address":null}`: true, `{"address":{"x":1}}`: false,
		`{"termsOfServiceAccepted":"2015-03-26 12:11:45"}`: true, `{"termsOfServiceAccepted":null}`: false,
	} {
		n, err := parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if why := updateRefusal(&n); (why == "") != right {
			t.Errorf("%s: got refusal %q, want it taken: %t", raw, why, right)
		}
	}
}
