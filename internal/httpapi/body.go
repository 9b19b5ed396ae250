package httpapi

import (
	"errors"
	"io"
	"time"
)

// ErrTooLarge is the cause of a failure to read an answer beyond its size cap.
var ErrTooLarge = errors.New("the answer is larger than allowed")

// errSilent cancels an attempt whose server says nothing for AttemptTimeout.
var errSilent = errors.New("timed out: the server was silent")

// body reads an answer under its size cap and watches over each read.
type body struct {
	inner   io.ReadCloser
	left    int64
	timeout time.Duration
	stall   *time.Timer // cancels the attempt; armed only while a read waits, so that a slow reader is no silence
	end     func()
	failed  func(error) *Error
	err     error
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one byte more than allowed tells "just fits" from "too large"
	}
	b.stall.Reset(b.timeout)
	n, err := b.inner.Read(p)
	b.stall.Stop()
	b.left -= int64(n)
	switch {
	case b.left < 0:
		n, b.left = n-1, 0
		b.err = b.failed(ErrTooLarge)
	case err == io.EOF:
		b.err = io.EOF
	case err != nil:
		b.err = b.failed(err)
	}
	return n, b.err
}

func (b *body) Close() error {
	if b.err == nil {
		b.err = b.failed(errors.New("the answer was read after it was closed"))
	}
	_ = b.inner.Close() // nothing that could still matter
	b.end()
	return nil
}
