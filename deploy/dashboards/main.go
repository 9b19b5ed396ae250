// Command dashboards writes the Grafana dashboards into the chart; with -check it only says whether they are there. With -watch it shows them
// in the browser, for those who have no Grafana at hand.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"namebridge/deploy/dashboards/grafana"
)

func main() {
	check := flag.Bool("check", false, "change nothing; fail where a file is not the current one")
	folder := flag.String("to", "deploy/chart/namebridge/files/dashboards", "the folder of the dashboards")
	daemons := flag.String("watch", "", "write nothing: show the dashboards of the daemons at these addresses (host:port, with commas) in the browser; starts a Prometheus for that")
	flag.Parse()
	if flag.NArg() != 0 {
		flag.Usage()
		os.Exit(2)
	}
	err := func() error {
		if *daemons == "" {
			return run(*folder, *check)
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return watch(ctx, *folder, strings.Split(*daemons, ","))
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "dashboards:", err)
		os.Exit(1)
	}
}

// all are the dashboards, by the name of their file.
func all() map[string]grafana.Dashboard {
	return map[string]grafana.Dashboard{"fleet.json": fleet(), "bridge.json": bridge()}
}

func run(folder string, check bool) error {
	for file, dashboard := range all() {
		current, err := dashboard.JSON()
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		name := filepath.Join(folder, file)
		old, err := os.ReadFile(name)
		switch {
		case err == nil && bytes.Equal(old, current):
			continue
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return err
		case check:
			return fmt.Errorf("%s is not the current one: go run ./deploy/dashboards", name)
		}
		if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // the chart is for everybody to read
			return err
		}
		if err := os.WriteFile(name, current, 0o644); err != nil { //nolint:gosec // the same
			return err
		}
	}
	return nil
}
