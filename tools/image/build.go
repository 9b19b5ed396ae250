package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// release is what the image is made from.
type release struct {
	Source  string // the checkout
	Version string
	Commit  string
	URL     string // where the source can be seen; "" where that is not known
	Created time.Time
}

//go:embed go.mod
var ownModule []byte

// pinned is the Go version that all is built with: another one compiles and compresses differently.
func pinned() string {
	found := regexp.MustCompile(`(?m)^toolchain (go\S+)$`).FindSubmatch(ownModule)
	if found == nil {
		panic("go.mod names no toolchain") // a test looks
	}
	return string(found[1])
}

// settings are all that changes what Go builds, so that the environment and the configuration of whoever builds do not. GOAMD64 and GOARM64 are the
// oldest processors: an image runs anywhere.
func settings(arch string) []string {
	return []string{
		"GOTOOLCHAIN=" + pinned(), "GOENV=off", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GODEBUG=", "GOFIPS140=off",
		"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, "GOAMD64=v1", "GOARM64=v8.0",
	}
}

// build compiles namebridge for linux on arch, with the flags of the Makefile's `make build`.
func (r release) build(ctx context.Context, arch, binary string) error {
	if got := runtime.Version(); got != pinned() {
		return fmt.Errorf("this program is built with %s, and its go.mod pins %s: the digests would be others. Run it with GOTOOLCHAIN=%s", got, pinned(), pinned())
	}
	places, err := modulePlaces(ctx)
	if err != nil {
		return err
	}
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	// The version comes from the flags and not from Go's own look at git, which refuses a checkout that is another user's.
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", //nolint:gosec // the values of flags alone are not ours
		"-ldflags", fmt.Sprintf("-s -w -X main.version=%s -X main.commit=%s", r.Version, r.Commit),
		"-o", binary, "./cmd/namebridge")
	build.Dir = r.Source
	build.Env = append(append(os.Environ(), places...), settings(arch)...)
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build namebridge for linux/%s in %s: %w\n%s", arch, r.Source, err, bytes.TrimSpace(output))
	}
	return nil
}

// modulePlaces is where whoever builds keeps and gets modules, which GOENV=off would forget.
func modulePlaces(ctx context.Context) ([]string, error) {
	names := []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOINSECURE", "GOVCS", "GOAUTH"}
	output, err := exec.CommandContext(ctx, "go", append([]string{"env", "-json"}, names...)...).Output() //nolint:gosec // the names are above
	if err != nil {
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w\n%s", err, bytes.TrimSpace(failed.Stderr))
		}
		return nil, fmt.Errorf("ask go for its settings (go env): %w", err)
	}
	values := map[string]string{}
	if err := json.Unmarshal(output, &values); err != nil {
		return nil, fmt.Errorf("read what go env -json says: %w", err)
	}
	var all []string
	for _, name := range names {
		if v := strings.TrimSpace(values[name]); v != "" {
			all = append(all, name+"="+v)
		}
	}
	return all, nil
}
