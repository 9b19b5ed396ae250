package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	crane "github.com/google/go-containerregistry/cmd/crane/cmd"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"namebridge/internal/postgres/testdb"
)

// long compiles everything anew where the digests are compared, the standard library included.
var long = flag.Bool("long", false, "compile the second image without the cache of the first")

func TestMain(m *testing.M) { os.Exit(mainCode(m)) }

func mainCode(m *testing.M) int {
	defer func() { _ = os.RemoveAll(madeIn) }()
	return testdb.Main(m).Run()
}

// tested is the release whose image the tests look at.
var tested = release{
	Source: "../..", Version: "v0.0.0-test.1", Commit: "0123456789abcdef0123456789abcdef01234567", URL: "https://example.com/namebridge",
	Created: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
}

var (
	madeIn   string
	makeOnce = sync.OnceValues(func() (digests, error) {
		var err error
		if madeIn, err = os.MkdirTemp("", "namebridge-image-test-"); err != nil {
			return digests{}, err
		}
		return write(context.Background(), tested, filepath.Join(madeIn, "image"))
	})
)

// made is the image of tested, made once for all tests, and the folder that it is in.
func made(t *testing.T) (digests, string) {
	t.Helper()
	d, err := makeOnce()
	if err != nil {
		t.Fatal(err)
	}
	return d, filepath.Join(madeIn, "image")
}

// images are those in the OCI layout, by platform.
func images(t *testing.T) map[string]v1.Image {
	t.Helper()
	_, folder := made(t)
	index := onlyIndex(t, filepath.Join(folder, "oci"))
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]v1.Image{}
	for _, m := range manifest.Manifests {
		if m.ArtifactType != "" {
			t.Errorf("the image for %v is listed as an artifact of type %s", m.Platform, m.ArtifactType)
		}
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		all[m.Platform.String()] = image
	}
	if len(all) != len(architectures) {
		t.Fatalf("the index has images for %v, want one for each of %v", slices.Collect(maps.Keys(all)), architectures)
	}
	return all
}

// onlyIndex is the index in an OCI layout, which has nothing else: so `crane push` takes it without more words.
func onlyIndex(t *testing.T, folder string) v1.ImageIndex {
	t.Helper()
	root, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("%s has %d entries, want one", folder, len(manifest.Manifests))
	}
	index, err := root.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// files are what is in an image, folders too.
func files(t *testing.T, image v1.Image) map[string]entry {
	t.Helper()
	all := map[string]entry{}
	content := mutate.Extract(image)
	defer content.Close()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all["/"+strings.TrimSuffix(h.Name, "/")] = entry{h, body}
	}
}

type entry struct {
	*tar.Header
	content []byte
}

// Whoever builds a commit, in whatever folder, at whatever time and with whatever settings, gets the same bytes.
func TestTheSameCommitGivesTheSameDigests(t *testing.T) {
	want, first := made(t)
	checkout := filepath.Join(t.TempDir(), "another folder")
	copyCheckout(t, tested.Source, checkout)
	r := tested
	r.Source = checkout
	t.Setenv("GOFLAGS", "-tags=another")
	t.Setenv("GOAMD64", "v3")
	t.Setenv("GOARM64", "v9.0")
	t.Setenv("GOEXPERIMENT", "jsonv2")
	t.Setenv("CGO_ENABLED", "1")
	t.Setenv("TZ", "Asia/Tokyo")
	if *long {
		t.Setenv("GOCACHE", t.TempDir())
	}
	second := filepath.Join(t.TempDir(), "image")
	got, err := write(t.Context(), r, second)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the digests differ (-first +second)\n%s", diff)
	}
	a, b := contents(t, first), contents(t, second)
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if !bytes.Equal(a[name], b[name]) {
			t.Errorf("%s differs", name)
		}
		delete(b, name)
	}
	if len(b) > 0 {
		t.Errorf("only the second has %v", slices.Sorted(maps.Keys(b)))
	}
}

// copyCheckout copies what git has or would take.
func copyCheckout(t *testing.T, from, to string) {
	t.Helper()
	list, err := exec.CommandContext(t.Context(), "git", "-c", "safe.directory=*", "-C", from, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(from, name))
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// contents are all files below a folder.
func contents(t *testing.T, folder string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		all[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWhatIsWrittenHoldsTogether(t *testing.T) {
	t.Parallel()
	d, folder := made(t)
	index := onlyIndex(t, filepath.Join(folder, "oci"))
	if err := validate.Index(index); err != nil {
		t.Errorf("oci: %v", err)
	}
	if got, err := index.Digest(); err != nil || got != d.Index {
		t.Errorf("the index is %v (%v), digests.json says %v", got, err, d.Index)
	}
	for _, arch := range architectures {
		want := d.Platforms["linux/"+arch]
		image := images(t)["linux/"+arch]
		if got, err := image.Digest(); err != nil || got != want.Manifest {
			t.Errorf("the image for %s is %v (%v), digests.json says %v", arch, got, err, want.Manifest)
		}
		path := filepath.Join(folder, "namebridge-linux-"+arch+".tar")
		tag, err := name.NewTag("namebridge:" + tested.Version)
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := tarball.ImageFromPath(path, &tag)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(loaded); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if got, err := loaded.ConfigName(); err != nil || got != want.Config {
			t.Errorf("%s has the id %v (%v), digests.json says %v", path, got, err, want.Config)
		}
	}
	var told digests
	text, err := os.ReadFile(filepath.Join(folder, "digests.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &told); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, told); diff != "" {
		t.Errorf("digests.json (-want +got)\n%s", diff)
	}
}

func TestTheImageSaysWhatItIsAndRunsAsNobody(t *testing.T) {
	t.Parallel()
	labels := map[string]string{
		"org.opencontainers.image.title":       "namebridge",
		"org.opencontainers.image.description": "People's name badges and recordings, from NameCoach into BLN",
		"org.opencontainers.image.version":     "v0.0.0-test.1",
		"org.opencontainers.image.revision":    "0123456789abcdef0123456789abcdef01234567",
		"org.opencontainers.image.created":     "2026-11-01T12:00:00Z",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.source":      "https://example.com/namebridge",
	}
	for platform, image := range images(t) {
		got, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		want := v1.Config{
			User: "65532:65532", Entrypoint: []string{"/namebridge"}, Cmd: []string{"serve"}, Env: []string{"PATH=/"}, WorkingDir: "/",
			ExposedPorts: map[string]struct{}{"8080/tcp": {}}, Labels: labels,
		}
		if diff := cmp.Diff(want, got.Config); diff != "" {
			t.Errorf("%s (-want +got)\n%s", platform, diff)
		}
		if got.OS+"/"+got.Architecture != platform || !got.Created.Time.Equal(tested.Created) {
			t.Errorf("%s: the config says %s/%s, made %v", platform, got.OS, got.Architecture, got.Created)
		}
		manifest, err := image.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(labels, manifest.Annotations); diff != "" {
			t.Errorf("the annotations of %s (-want +got)\n%s", platform, diff)
		}
	}
}

func TestTheImageHasTheProgramCertificatesAndLicencesAndNothingElseAndNobodyMayWriteThem(t *testing.T) {
	t.Parallel()
	for platform, image := range images(t) {
		all := files(t, image)
		want := []string{"/etc", "/etc/ssl", "/etc/ssl/certs", "/etc/ssl/certs/ca-certificates.crt", "/licenses", "/licenses/LICENSE", "/licenses/licenses.md", "/namebridge"}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(all))); diff != "" {
			t.Errorf("%s (-want +got)\n%s", platform, diff)
		}
		for name, f := range all {
			if f.Uid != 0 || f.Gid != 0 {
				t.Errorf("%s: %s is %d:%d's, not root's", platform, name, f.Uid, f.Gid)
			}
			if mode := f.Mode; mode&0o7222 != 0 {
				t.Errorf("%s: %s has the mode %o", platform, name, mode)
			}
		}
	}
}

func TestTheProgramIsStaticAndThatOfTheImagesPlatform(t *testing.T) {
	t.Parallel()
	machines := map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}
	for platform, image := range images(t) {
		binary, err := elf.NewFile(bytes.NewReader(files(t, image)[program].content))
		if err != nil {
			t.Fatal(err)
		}
		if binary.Machine != machines[platform] {
			t.Errorf("%s: the program is for %v", platform, binary.Machine)
		}
		if slices.ContainsFunc(binary.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC }) {
			t.Errorf("%s: the program needs a loader or libraries, which are not there", platform)
		}
	}
}

func TestTheProgramIsBuiltAsTheMakefileBuildsIt(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	const build = `CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)"`
	if !strings.Contains(string(text), build) {
		t.Errorf("the Makefile builds otherwise than build.go by now; bring the two together, and this test:\n%s", build)
	}
}

func TestTheGoVersionIsPinned(t *testing.T) {
	t.Parallel()
	if got, want := pinned(), runtime.Version(); got != want {
		t.Errorf("go.mod pins %s, and this is %s: run it with GOTOOLCHAIN=%s", got, want, got)
	}
}

func TestTheCertificatesAreThoseOfTheAuthoritiesThatAreTrustedToday(t *testing.T) {
	t.Parallel()
	text := files(t, images(t)["linux/amd64"])[authorities].content
	inFile, names := map[string]bool{}, map[string]bool{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !c.IsCA {
			t.Errorf("%s is no authority's", c.Subject)
		}
		inFile[string(c.Raw)], names[c.Subject.CommonName] = true, true
	}
	for _, name := range []string{"Amazon Root CA 1", "ISRG Root X1", "DigiCert Global Root G2", "GTS Root R1", "USERTrust RSA Certification Authority"} {
		if !names[name] {
			t.Errorf("%s is missing", name)
		}
	}
	if len(inFile) < 100 {
		t.Errorf("only %d certificates", len(inFile))
	}
	for root := range bundle.Roots() {
		trusted := root.Constraint == nil || root.Constraint([]*x509.Certificate{{NotBefore: tested.Created}}) == nil
		if inFile[string(root.Certificate)] != trusted {
			c, err := x509.ParseCertificate(root.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			t.Errorf("%s: what it signs now is trusted: %v; it is in the image: %v", c.Subject, trusted, inFile[string(root.Certificate)])
		}
		delete(inFile, string(root.Certificate))
	}
	if len(inFile) > 0 {
		t.Errorf("%d certificates come from elsewhere", len(inFile))
	}
}

func TestTheBillOfMaterialsNamesEveryModuleOfTheProgram(t *testing.T) {
	t.Parallel()
	d, folder := made(t)
	for platform, image := range images(t) {
		binary := files(t, image)[program].content
		info, err := buildinfo.Read(bytes.NewReader(binary))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"std": info.GoVersion}
		for _, m := range info.Deps {
			want[m.Path] = m.Version
		}
		f, err := os.Open(filepath.Join(folder, "namebridge-"+strings.ReplaceAll(platform, "/", "-")+".cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var bom cdx.BOM
		if err := cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, c := range *bom.Components {
			got[c.Name] = c.Version
			if !strings.HasPrefix(c.PackageURL, "pkg:golang/"+c.Name+"@"+c.Version) {
				t.Errorf("%s has the package URL %s", c.Name, c.PackageURL)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", platform, diff)
		}
		if c := bom.Metadata.Component; c.Name != "namebridge" || c.Version != tested.Version || bom.Metadata.Timestamp != "2026-11-01T12:00:00Z" || bom.SerialNumber == "" {
			t.Errorf("%s is of %s %s, made %s, number %q", platform, c.Name, c.Version, bom.Metadata.Timestamp, bom.SerialNumber)
		}
		sum := ""
		for _, p := range *bom.Metadata.Properties {
			if strings.HasSuffix(p.Name, "binary:hash:SHA-256") {
				sum = "sha256:" + p.Value
			}
		}
		if sum != d.Platforms[platform].Program {
			t.Errorf("%s is of the program %s, want %s", platform, sum, d.Platforms[platform].Program)
		}
	}
}

// The commands are those of docs/installation.md.
func TestWhatIsPushedWithCraneHasTheDigestsAndTheBillsOfMaterialsAsReferrers(t *testing.T) {
	t.Parallel()
	d, folder := made(t)
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	repository := strings.TrimPrefix(server.URL, "http://") + "/namebridge"
	push := func(from, tag string) {
		root := crane.New("crane", "push", nil)
		root.SetArgs([]string{"push", filepath.Join(folder, from), repository + ":" + tag})
		root.SetOut(io.Discard)
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	push("oci", tested.Version)
	push("sbom", tested.Version+"-sbom")
	for _, arch := range architectures {
		tag, err := name.NewTag(repository + ":" + tested.Version)
		if err != nil {
			t.Fatal(err)
		}
		image, err := remote.Image(tag, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}), remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(image); err != nil {
			t.Error(err)
		}
		digest, err := image.Digest()
		if err != nil || digest != d.Platforms["linux/"+arch].Manifest {
			t.Errorf("%s: pulled %v (%v), want %v", arch, digest, err, d.Platforms["linux/"+arch].Manifest)
		}
		referrers, err := remote.Referrers(tag.Context().Digest(digest.String()), remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := referrers.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		if len(manifest.Manifests) != 1 || manifest.Manifests[0].ArtifactType != bomMediaType {
			t.Fatalf("%s has the referrers %+v, want one bill of materials", arch, manifest.Manifests)
		}
		bom, err := remote.Image(tag.Context().Digest(manifest.Manifests[0].Digest.String()), remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		layers, err := bom.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		content, err := layers[0].Compressed()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(folder, "namebridge-linux-"+arch+".cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, got) {
			t.Errorf("%s: what was pushed is not what lies beside the image", arch)
		}
	}
}

func TestAWrongCommandLineSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args  []string
		epoch string
		code  int
		says  string
	}{
		"help":       {[]string{"--help"}, "", exitDone, "SOURCE_DATE_EPOCH"},
		"no version": {[]string{"--commit", "x"}, "1", exitUsage, "--version and --commit are needed"},
		"no time":    {[]string{"--version", "v1", "--commit", "x"}, "", exitUsage, "git log -1"},
		"bad time":   {[]string{"--version", "v1", "--commit", "x", "--created", "yesterday"}, "1", exitUsage, `"yesterday" is no time`},
		"an extra":   {[]string{"--version", "v1", "--commit", "x", "amd64"}, "1", exitUsage, `"amd64" is no flag`},
		"no tag":     {[]string{"--version", "v1 beta", "--commit", "x", "--output", filepath.Join(t.TempDir(), "x")}, "1", exitFailed, "cannot be an image's tag"},
		"no source": {
			[]string{"--version", "v1", "--commit", "x", "--source", t.TempDir(), "--output", filepath.Join(t.TempDir(), "y")}, "1", exitFailed, "build namebridge for linux/amd64",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), test.args, test.epoch, &stdout, &stderr); code != test.code || !strings.Contains(stderr.String(), test.says) {
				t.Errorf("exit code %d, want %d, and %q in\n%s", code, test.code, test.says, stderr.String())
			}
		})
	}
}
