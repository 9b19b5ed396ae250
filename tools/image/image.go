package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

const (
	// user is nobody's on purpose: a number, so that Kubernetes can see that it is not root (runAsNonRoot).
	user = "65532:65532"
	// program is where namebridge is. It is in the PATH as well, for `kubectl exec … -- namebridge status`.
	program = "/namebridge"
	// authorities is the first place where Go looks for certificates. As a file, and not in the program: whoever has an authority of
	// their own mounts another one there, scanners see it, and the program goes on using the system's where it runs without an image.
	authorities = "/etc/ssl/certs/ca-certificates.crt"
	refName     = "org.opencontainers.image.ref.name"
)

var architectures = []string{"amd64", "arm64"}

// licenses go along with every copy of the program: its own, and those of what is linked into it.
var licenses = []string{"LICENSE", "docs/licenses.md"}

// digests is what was written.
type digests struct {
	Version   string                    `json:"version"`
	Commit    string                    `json:"commit"`
	Created   time.Time                 `json:"created"`
	Go        string                    `json:"go"`
	Index     v1.Hash                   `json:"index"` // of both platforms: what to deploy
	SBOM      v1.Hash                   `json:"sbom"`  // of the bills of materials, as they are pushed
	Platforms map[string]platformDigest `json:"platforms"`
}

type platformDigest struct {
	Manifest v1.Hash `json:"manifest"`
	Config   v1.Hash `json:"config"` // what Docker calls the image's id
	Program  string  `json:"program"`
}

func (d digests) print(w io.Writer, output string) {
	fmt.Fprintf(w, "namebridge:%s  %s\n", d.Version, d.Index)
	for _, arch := range architectures {
		p := d.Platforms["linux/"+arch]
		fmt.Fprintf(w, "  linux/%s  %s  id %s\n", arch, p.Manifest, p.Config)
	}
	fmt.Fprintf(w, "  in %s: oci and sbom to push, namebridge-linux-*.tar to load, digests.json\n", output)
}

// write builds namebridge and writes the image and what belongs to it into output.
func write(ctx context.Context, r release, output string) (digests, error) {
	d := digests{Version: r.Version, Commit: r.Commit, Created: r.Created, Go: pinned(), Platforms: map[string]platformDigest{}}
	tag, err := name.NewTag("namebridge:" + r.Version)
	if err != nil {
		return d, fmt.Errorf("the version cannot be an image's tag: %w", err)
	}
	for _, old := range []string{"oci", "sbom", "digests.json"} {
		if err := os.RemoveAll(filepath.Join(output, old)); err != nil {
			return d, fmt.Errorf("remove what an earlier run wrote: %w", err)
		}
	}
	if err := os.MkdirAll(output, 0o755); err != nil { //nolint:gosec // for everybody to read
		return d, fmt.Errorf("make the folder for the image: %w", err)
	}
	work, err := os.MkdirTemp("", "namebridge-image-")
	if err != nil {
		return d, fmt.Errorf("make a folder to build in: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()

	index, boms := annotated(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), r), mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range architectures {
		binary := filepath.Join(work, arch, "namebridge")
		if err := r.build(ctx, arch, binary); err != nil {
			return d, err
		}
		image, sum, err := r.image(arch, binary)
		if err != nil {
			return d, fmt.Errorf("make the image for linux/%s: %w", arch, err)
		}
		path := filepath.Join(output, "namebridge-linux-"+arch)
		if err := tarball.WriteToFile(path+".tar", tag, image); err != nil {
			return d, fmt.Errorf("write %s.tar: %w", path, err)
		}
		bom, err := r.bom(binary, sum)
		if err != nil {
			return d, fmt.Errorf("make the bill of materials for linux/%s: %w", arch, err)
		}
		if err := os.WriteFile(path+".cdx.json", bom, 0o644); err != nil { //nolint:gosec // for everybody to read
			return d, err
		}
		referrer, err := referTo(image, bom, filepath.Base(path)+".cdx.json")
		if err != nil {
			return d, fmt.Errorf("attach the bill of materials to the image for linux/%s: %w", arch, err)
		}
		platform := &v1.Platform{OS: "linux", Architecture: arch}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: runnable{image}, Descriptor: v1.Descriptor{Platform: platform}})
		boms = mutate.AppendManifests(boms, mutate.IndexAddendum{Add: referrer})
		p := platformDigest{Program: sum}
		if p.Manifest, err = image.Digest(); err != nil {
			return d, err
		}
		if p.Config, err = image.ConfigName(); err != nil {
			return d, err
		}
		d.Platforms[platform.String()] = p
	}
	if d.Index, err = writeLayout(filepath.Join(output, "oci"), index, r.Version); err != nil {
		return d, err
	}
	if d.SBOM, err = writeLayout(filepath.Join(output, "sbom"), boms, r.Version+"-sbom"); err != nil {
		return d, err
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return d, err
	}
	return d, os.WriteFile(filepath.Join(output, "digests.json"), append(text, '\n'), 0o644) //nolint:gosec // for everybody to read
}

// runnable is an image that an index lists as one, without the type of its config for an artifact's.
type runnable struct{ v1.Image }

// ArtifactType is none.
func (runnable) ArtifactType() (string, error) { return "", nil }

// writeLayout writes an OCI layout with index alone in it, under ref.
func writeLayout(folder string, index v1.ImageIndex, ref string) (v1.Hash, error) {
	p, err := layout.Write(folder, empty.Index)
	if err == nil {
		err = p.AppendIndex(index, layout.WithAnnotations(map[string]string{refName: ref}))
	}
	if err != nil {
		return v1.Hash{}, fmt.Errorf("write the OCI layout %s: %w", folder, err)
	}
	return index.Digest()
}

// image is namebridge's, for linux on arch, and the digest of the program in it.
func (r release) image(arch, binary string) (v1.Image, string, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, "", err
	}
	roots, err := certificates(r.Created)
	if err != nil {
		return nil, "", err
	}
	own := []file{{program, 0o555, content}}
	for _, name := range licenses {
		text, err := os.ReadFile(filepath.Join(r.Source, name))
		if err != nil {
			return nil, "", err
		}
		own = append(own, file{"/licenses/" + filepath.Base(name), 0o444, text})
	}
	created := v1.Time{Time: r.Created}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	// The certificates first: they stay the same from release to release, and are pulled once.
	for _, l := range []struct {
		what  string
		files []file
	}{
		{"the certificates of the public authorities", []file{{authorities, 0o444, roots}}},
		{"namebridge " + r.Version + " and its licences", own},
	} {
		layer, err := fileLayer(l.files)
		if err != nil {
			return nil, "", err
		}
		image, err = mutate.Append(image, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{
			Created: created, CreatedBy: "tools/image", Comment: l.what,
		}})
		if err != nil {
			return nil, "", err
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, "", err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, created
	config.Config = v1.Config{
		User:         user,
		Entrypoint:   []string{program},
		Cmd:          []string{"serve"},
		Env:          []string{"PATH=/"},
		WorkingDir:   "/",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		Labels:       r.annotations(),
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, "", err
	}
	return annotated(image, r), fmt.Sprintf("sha256:%x", sha256.Sum256(content)), nil
}

// annotations are what the image says of itself: as labels, as annotations of each manifest, and of the index.
func (r release) annotations() map[string]string {
	all := map[string]string{
		"org.opencontainers.image.title":       "namebridge",
		"org.opencontainers.image.description": "People's name badges and recordings, from NameCoach into BLN",
		"org.opencontainers.image.version":     r.Version,
		"org.opencontainers.image.revision":    r.Commit,
		"org.opencontainers.image.created":     r.Created.Format(time.RFC3339),
		"org.opencontainers.image.licenses":    "Apache-2.0",
	}
	if r.URL != "" {
		maps.Copy(all, map[string]string{"org.opencontainers.image.source": r.URL})
	}
	return all
}

// annotated is an image or an index with the annotations.
func annotated[T partial.WithRawManifest](of T, r release) T {
	return mutate.Annotations(of, r.annotations()).(T) // it gives what it got
}

// file is one in the image.
type file struct {
	name    string
	mode    int64
	content []byte
}

// fileLayer is a layer with these files and the folders above them. They are root's and nobody may write them, and their time is none:
// the same content is the same layer, in every release.
func fileLayer(files []file) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(h tar.Header) error {
		h.ModTime, h.Format = time.Unix(0, 0), tar.FormatUSTAR
		return w.WriteHeader(&h)
	}
	folders := map[string]bool{}
	for _, f := range files {
		for i, c := range f.name {
			if folder := f.name[:i]; c == '/' && i > 0 && !folders[folder] {
				folders[folder] = true
				if err := add(tar.Header{Typeflag: tar.TypeDir, Name: folder[1:] + "/", Mode: 0o555}); err != nil {
					return nil, err
				}
			}
		}
		if err := add(tar.Header{Typeflag: tar.TypeReg, Name: f.name[1:], Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithCompressedCaching)
}

// certificates are those of the authorities that Mozilla trusts, as golang.org/x/crypto keeps them: their version stands in go.mod, and their
// digest in go.sum. An authority is left out once no new certificate of its own is trusted: a file cannot say "those until then".
func certificates(at time.Time) ([]byte, error) {
	var file bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil && root.Constraint([]*x509.Certificate{{NotBefore: at}}) != nil {
			continue
		}
		if err := pem.Encode(&file, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	return file.Bytes(), nil
}
