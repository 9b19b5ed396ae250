package state_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/postgres/testdb"
	"namebridge/state"
)

// A bridge whose jobs wait for another's connections would not be served; a database has only so many.
func TestThePoolGrowsWithTheBridgesUnlessTheURLSaysHowLargeItIs(t *testing.T) {
	t.Parallel()
	url := testdb.URL(t, nil)
	for _, c := range []struct {
		url     string
		bridges int
		want    int32
	}{{url, 0, 16}, {url, 1, 16}, {url, 2, 24}, {url, 6, 56}, {url, 7, 60}, {url, 100, 60}, {url + "&pool_max_conns=5", 7, 5}} {
		db := get[*pgxpool.Pool](t)(state.Open(t.Context(), c.url, c.bridges))
		if n := db.Config().MaxConns; n != c.want {
			t.Errorf("%d bridges: %d connections, want %d", c.bridges, n, c.want)
		}
		db.Close()
	}
}
