package migrations

import (
	"context"

	"github.com/pressly/goose/v3"
)

// UpTo brings the database at url to version, as a release did whose newest migration that was.
func UpTo(ctx context.Context, url string, version int64) error {
	return with(url, func(p *goose.Provider) error {
		_, err := p.UpTo(ctx, version)
		return err
	})
}

// Source is the text of a migration, "" for one that is no SQL file.
func Source(name string) string {
	raw, err := files.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(raw)
}
