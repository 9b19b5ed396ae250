// Command schemas writes the JSON Schemas by which kubeconform checks manifests: of Kubernetes' own kinds from the API's published description, of the
// Prometheus operator's from its CustomResourceDefinitions. Both come through the Go module proxy, with their checksums pinned here. The schemas are strict:
// what is not described is refused, as by a server that is asked to (kubectl --validate=strict).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// module is a version of a Go module, of which only files are used.
type module struct{ path, version, sum string }

var (
	kubernetes = module{"k8s.io/kubernetes", "v1.36.3", "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o="}
	operator   = module{"github.com/prometheus-operator/prometheus-operator", "v0.85.0", "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="}
	// groups are the parts of the API that are wanted. The rest would only take time and space.
	groups = map[string]bool{"": true, "apps": true, "batch": true, "policy": true, "networking.k8s.io": true}
)

// schema is a JSON Schema, as JSON has it.
type schema = map[string]any

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: schemas FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

func run(folder string) error {
	api, err := kubernetes.download()
	if err != nil {
		return err
	}
	crds, err := operator.download()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := writeKubernetes(filepath.Join(api, "api", "openapi-spec", "swagger.json"), folder); err != nil {
		return err
	}
	for _, kind := range []string{"servicemonitors", "prometheusrules"} {
		if err := writeDefinition(filepath.Join(crds, "jsonnet", "prometheus-operator", kind+"-crd.json"), folder); err != nil {
			return err
		}
	}
	return nil
}

// download brings the module into Go's cache and gives its folder there.
func (m module) download() (string, error) {
	// Outside of any module, so that no go.mod has to require it.
	command := exec.Command("go", "mod", "download", "-json", m.path+"@"+m.version)
	command.Dir = os.TempDir()
	output, err := command.Output()
	var got struct{ Dir, Sum, Error string }
	if decoding := json.Unmarshal(output, &got); err == nil {
		err = decoding
	}
	if got.Error != "" {
		err = errors.New(got.Error)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("download %s@%s: %w", m.path, m.version, err)
	case got.Sum != m.sum:
		return "", fmt.Errorf("%s@%s has the checksum %s; %s was expected", m.path, m.version, got.Sum, m.sum)
	}
	return got.Dir, nil
}

func read(file string, into any) error {
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: this version of the module has its schemas elsewhere", err)
	}
	if err == nil {
		err = json.Unmarshal(content, into)
	}
	return err
}

// writeKubernetes writes a schema for each kind that swagger describes, with all that it refers to.
func writeKubernetes(swagger, folder string) error {
	var api struct {
		Definitions map[string]schema `json:"definitions"`
	}
	if err := read(swagger, &api); err != nil {
		return err
	}
	for name, definition := range api.Definitions {
		switch name {
		case "io.k8s.apimachinery.pkg.api.resource.Quantity":
			api.Definitions[name] = schema{"type": []string{"string", "number"}}
		case "io.k8s.apimachinery.pkg.util.intstr.IntOrString":
			api.Definitions[name] = schema{"type": []string{"string", "integer"}}
		default:
			tighten(definition)
		}
	}
	for name, definition := range api.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 { // those with many are no kinds of their own: DeleteOptions and the like
			continue
		}
		kind, _ := kinds[0].(schema)
		group, _ := kind["group"].(string)
		if !groups[group] {
			continue
		}
		needed := schema{}
		collect(schema{"$ref": "#/definitions/" + name}, api.Definitions, needed)
		if err := write(folder, group, kind["version"], kind["kind"], schema{"$ref": "#/definitions/" + name, "definitions": needed}); err != nil {
			return err
		}
	}
	return nil
}

// writeDefinition writes the schema of a CustomResourceDefinition's first version.
func writeDefinition(file, folder string) error {
	var crd struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema schema `json:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := read(file, &crd); err != nil {
		return err
	}
	if len(crd.Spec.Versions) == 0 {
		return fmt.Errorf("%s: no versions", file)
	}
	v := crd.Spec.Versions[0]
	tighten(v.Schema.OpenAPIV3Schema)
	return write(folder, crd.Spec.Group, v.Name, crd.Spec.Names.Kind, v.Schema.OpenAPIV3Schema)
}

// tighten refuses, here and below, what is not described.
func tighten(s schema) {
	if _, described := s["properties"]; described && s["additionalProperties"] == nil && s["x-kubernetes-preserve-unknown-fields"] != true {
		s["additionalProperties"] = false
	}
	properties, _ := s["properties"].(schema)
	below := slices.Collect(maps.Values(properties))
	below = append(below, s["items"], s["additionalProperties"])
	for _, several := range []string{"allOf", "anyOf", "oneOf"} {
		alternatives, _ := s[several].([]any)
		below = append(below, alternatives...)
	}
	for _, value := range below {
		if value, ok := value.(schema); ok {
			tighten(value)
		}
	}
}

// collect puts into needed all that value refers to.
func collect(value any, all map[string]schema, needed schema) {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			collect(item, all, needed)
		}
	case schema:
		for key, item := range value {
			text, isText := item.(string)
			name, isReference := strings.CutPrefix(text, "#/definitions/")
			if key != "$ref" || !isText || !isReference {
				collect(item, all, needed)
				continue
			}
			if needed[name] == nil {
				needed[name] = all[name]
				collect(all[name], all, needed)
			}
		}
	}
}

// write names the file as kubeconform's {{.ResourceKind}}{{.KindSuffix}} does.
func write(folder, group string, version, kind any, s schema) error {
	name := strings.ToLower(fmt.Sprint(kind))
	if group, _, _ := strings.Cut(group, "."); group != "" {
		name += "-" + group
	}
	content, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, fmt.Sprintf("%s-%v.json", name, version)), content, 0o644)
}
