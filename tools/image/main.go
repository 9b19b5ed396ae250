// Command image writes the container image of namebridge, without a Docker daemon and without a base image.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const usage = `Usage: image --version VERSION --commit COMMIT [--source DIR] [--output DIR]

Builds namebridge for linux/amd64 and linux/arm64 and writes the container image, without a Docker daemon and without a base image. In the image are the
static program, the certificates of the public authorities, the licences, and nothing else: no shell, no libraries. It runs as user 65532 and writes no file.

The same commit gives the same digests: the time is the commit's (SOURCE_DATE_EPOCH, in seconds, or --created), and this program has to be built with the Go
version that its go.mod pins, with which it builds namebridge, too.

Into --output it writes:
  oci/                             an OCI layout with both platforms, to be pushed
  sbom/                            an OCI layout with the bills of materials, as referrers of the images, to be pushed after it
  namebridge-linux-amd64.tar       for docker load and podman load, and so for arm64
  namebridge-linux-amd64.cdx.json  the bill of materials (CycloneDX), and so for arm64
  digests.json                     the digests of all that

`

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH"), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run carries out one command line and gives its exit code.
func run(ctx context.Context, args []string, epoch string, stdout, stderr io.Writer) int {
	var r release
	var output, created string
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	f.StringVar(&r.Source, "source", ".", "the checkout to build from")
	f.StringVar(&output, "output", "bin/image", "the folder to write into; what an earlier run wrote there is replaced")
	f.StringVar(&r.Version, "version", "", "the version; also the image's tag")
	f.StringVar(&r.Commit, "commit", "", "the commit")
	f.StringVar(&created, "created", "", "the commit's time, as 2006-01-02T15:04:05Z (default: SOURCE_DATE_EPOCH)")
	f.StringVar(&r.URL, "url", "", "where the source can be seen, for the image's org.opencontainers.image.source")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		return exitUsage
	}
	var err error
	r.Created, err = moment(created, epoch)
	switch {
	case f.NArg() > 0:
		err = fmt.Errorf("%q is no flag; image takes nothing else", f.Arg(0))
	case r.Version == "" || r.Commit == "":
		err = errors.New("--version and --commit are needed: they are stamped into the program and the image")
	}
	if err != nil {
		fmt.Fprintf(stderr, "image: %v\n\nHelp: image --help\n", err)
		return exitUsage
	}
	d, err := write(ctx, r, output)
	if err != nil {
		fmt.Fprintf(stderr, "image: %v\n", err)
		return exitFailed
	}
	d.print(stdout, output)
	return exitDone
}

// moment is when the image was made: the flag, else the environment's word for it.
func moment(created, epoch string) (time.Time, error) {
	if created != "" {
		t, err := time.Parse(time.RFC3339, created)
		if err != nil {
			return t, fmt.Errorf("--created %q is no time such as 2006-01-02T15:04:05Z", created)
		}
		return t.UTC(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q is no number of seconds; set it to $(git log -1 --format=%%ct), or give --created", epoch)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
