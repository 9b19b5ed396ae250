package namecoach

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"namebridge/internal/httpapi"
)

// rowsJSON is the document's first example row, n times with another address.
func row(i int) string {
	return fmt.Sprintf(`{"first_name":"John","last_name":"Snow","email":"buster_%d@example.com",`+
		`"recording_link":"https://namewaves.s3.amazonaws.com/%d.mp3?digest=fc6cf60196071e6763ee7e9d9f943acc","recording_id":"%d",`+
		`"event_title":"Example Api Event","event_slug":"example-api-event","event_access_code":"3A0CB","institution_id":null,`+
		`"photo":"https://www.name-coach.com/images/photo-blank.gif",`+
		`"name_badge_link":"https://www.name-coach.com/john-snow-13014cd1-4d53-4995-bb83-a17bcafff9fa",`+
		`"custom_gender_pronouns":"pronouns 1","legal_first_name":"Johny 1"}`, i, i, i)
}

func page(n int) string {
	rows := make([]string, n)
	for i := range rows {
		rows[i] = row(i)
	}
	return fmt.Sprintf(`{"Response":{"participants":[%s],"meta":{"total_count":%d,"total_pages":1,"count":%d}}}`,
		strings.Join(rows, ","), n, n)
}

// answerOf reads text as an answer without HTTP around it.
func answerOf(text string) *Answer {
	return newAnswer(httpapi.Request{Endpoint: "participants.list", Method: http.MethodGet},
		&httpapi.Response{Status: http.StatusOK, Body: io.NopCloser(strings.NewReader(text))})
}

func BenchmarkAnswer10000Rows(b *testing.B) {
	text := page(10_000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range answerOf(text).Participants() {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 10_000 {
			b.Fatalf("got %d rows, want 10000", n)
		}
	}
}
