// Command where says which Postgres the demo and the tests would run, and fails where there is none.
package main

import (
	"context"
	"fmt"
	"os"

	"namebridge/internal/postgres"
)

func main() {
	dir, version, err := postgres.Find(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "postgres  ", err)
		os.Exit(1)
	}
	fmt.Printf("postgres   %s in %s\n", version, dir)
}
