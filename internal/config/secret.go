package config

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a text that no way of printing, logging or encoding shows. The zero value is no secret.
type Secret struct{ text *string } // behind a pointer, so that reflection that ignores methods finds an address

// NewSecret hides text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal is the text itself, for the one place that must send it.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty reports whether there is no secret.
func (s Secret) Empty() bool { return s.text == nil }

// String is "…", and "" where there is no secret.
func (s Secret) String() string {
	if s.text == nil {
		return ""
	}
	return "…"
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// Format writes String for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) } // fmt.State keeps the error to itself

// LogValue is String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String; JSON and YAML use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
