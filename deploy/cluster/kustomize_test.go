//go:build cluster

package cluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestThePlainManifestsAreTakenAndFollowTheirVariables(t *testing.T) {
	t.Parallel()
	r := newReleaseIn(t, "people") // as the overlay has it
	folder := filepath.Join(t.TempDir(), "kustomize")
	if err := os.CopyFS(folder, os.DirFS(checkout+"/deploy/kustomize")); err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(folder, "overlays/example")
	apply := func() {
		t.Helper()
		r.kubectl("apply", "--kustomize", overlay, "--validate=strict")
		r.kubectl("rollout", "status", "deployment/namebridge", patient)
	}
	apply()
	first := r.names()
	if len(first) != 3 {
		t.Errorf("the daemons are %v", first)
	}
	r.endpoints()
	apply()
	r.same(first, "with the same variables")

	variables := filepath.Join(overlay, "namebridge.env")
	content, err := os.ReadFile(variables)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(variables, append(content, "\nLOG_LEVEL=debug\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	apply()
	r.replaced(first)

	// Others apply it on the server's side.
	r.kubectl("apply", "--kustomize", overlay, "--server-side", "--force-conflicts", "--validate=strict")
	second := r.names()

	file := filepath.Join(overlay, "kustomization.yaml")
	if content, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	withBackfill := bytes.Replace(content, []byte("\n#components:\n#  - "), []byte("\ncomponents:\n  - "), 1)
	if bytes.Equal(content, withBackfill) {
		t.Fatal("the overlay does not have the backfill as a comment")
	}
	if err := os.WriteFile(file, withBackfill, 0o600); err != nil {
		t.Fatal(err)
	}
	apply()
	r.same(second, "with a backfill beside them")
	r.kubectl("wait", "jobs", "--selector=app.kubernetes.io/component=backfill", "--for=condition=Complete", patient)
	apply() // a Job cannot be changed, and is not

	r.kubectl("delete", "--kustomize", overlay)
	eventually(t, "only the former Secret is left", func() error {
		var left []string
		for _, o := range r.inventory() {
			if !slices.Contains(r.before, o) {
				left = append(left, o)
			}
		}
		// Of Secrets that are no more used, kubectl knows nothing.
		if len(left) != 1 || !strings.HasPrefix(left[0], "secret/namebridge-") {
			return fmt.Errorf("%v are", left)
		}
		return nil
	})
	if _, err := shared.command(t.Context(), "", "kubectl", "delete", "namespace", r.namespace); err != nil {
		t.Error(err) // in which the test may run again
	}
}
