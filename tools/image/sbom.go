package main

import (
	"bytes"
	"fmt"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

const bomMediaType = "application/vnd.cyclonedx+json"

// bom is the bill of materials of a program: its modules and the Go version, as the program itself says, in CycloneDX.
func (r release) bom(binary, sum string) ([]byte, error) {
	generator, err := bin.NewGenerator(binary, bin.WithIncludeStdlib(true), bin.WithVersionOverride(r.Version), bin.WithLogger(zerolog.Nop()))
	if err != nil {
		return nil, err
	}
	bom, err := generator.Generate()
	if err != nil {
		return nil, err
	}
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceOID, []byte(sum)).URN() // the same program, the same number
	bom.Metadata.Timestamp = r.Created.Format(time.RFC3339)
	var text bytes.Buffer
	if err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return nil, fmt.Errorf("write CycloneDX: %w", err)
	}
	return text.Bytes(), nil
}

// referTo is a manifest that a registry shows among the referrers of image: the bill of materials, named title.
func referTo(image v1.Image, bom []byte, title string) (v1.Image, error) {
	subject, err := partial.Descriptor(image)
	if err != nil {
		return nil, err
	}
	referrer, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer:       static.NewLayer(bom, bomMediaType),
		Annotations: map[string]string{"org.opencontainers.image.title": title},
	})
	if err != nil {
		return nil, err
	}
	// Registries take the type of the config for the type of the whole.
	return mutate.Subject(mutate.ConfigMediaType(referrer, bomMediaType), v1.Descriptor{
		MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size,
	}).(v1.Image), nil // it gives what it got
}
