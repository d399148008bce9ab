package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dunlindb/dunlin/client"
)

// maxValueRead bounds a value read from a file or stdin, in bytes; the cluster
// has its own, smaller limit.
const maxValueRead = 64 << 20

// writing are the flags that put and rm share.
type writing struct {
	W       string `name:"w" placeholder:"1..N|one|quorum|all" help:"Replicas to wait for."`
	DW      string `name:"dw" placeholder:"0..W" help:"Of those, how many must have it on disk."`
	PW      string `name:"pw" placeholder:"0..N" help:"Of those, how many must be primaries."`
	Context string `placeholder:"TOKEN" help:"Replace exactly what was read with this context."`
	ID      string `name:"idempotency-key" placeholder:"TEXT" help:"Name of this write: sent again within an hour it has no second effect."`
}

func (o writing) options(t target) client.Write {
	return client.Write{
		Context: o.Context, W: o.W, DW: o.DW, PW: o.PW, IdempotencyKey: o.ID,
		Strict: t.Strict, Timeout: t.Timeout, Trace: t.Trace,
	}
}

type kvPut struct {
	target      `embed:""`
	Value       *string `arg:"" optional:"" help:"The value, or - for stdin."`
	File        string  `type:"path" placeholder:"FILE" help:"Take the value from this file."`
	writing     `embed:""`
	R           string        `name:"r" placeholder:"1..N|one|quorum|all" help:"Replicas to hear from in the read before the write."`
	Blind       bool          `help:"Do not read first: what is there stays beside the new value (siblings), unless the bucket says otherwise."`
	TTL         time.Duration `name:"ttl" placeholder:"DURATION" help:"The value expires after this, e.g. 30s, 24h."`
	ContentType string        `placeholder:"TYPE" help:"Content type of the value. Without it text/plain or application/octet-stream."`
}

// Help is shown below the flags of put.
func (kvPut) Help() string {
	return `The key is read first and its context sent with the write, so that the write replaces what is there,
several concurrent values, too. A value that another client writes meanwhile is not lost: both stay.`
}

// Run reads the key unless told not to, and writes it.
func (c *kvPut) Run(ctx context.Context, s *streams) error {
	value, err := c.value(s.in)
	if err != nil {
		return err
	}
	b, ctx, cancel, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	opt := c.options(c.target)
	opt.TTL, opt.ContentType = c.TTL, c.ContentType
	if opt.ContentType == "" && isText(value) {
		opt.ContentType = "text/plain; charset=utf-8"
	}
	replaced := 0
	if !c.Blind && c.Context == "" {
		o, err := b.Get(ctx, c.Key, client.Read{R: c.R, Strict: c.Strict, Timeout: c.Timeout})
		if err != nil && !errors.Is(err, client.ErrNotFound) {
			return fmt.Errorf("%w; this was the read before the write, nothing was written (--blind writes without reading)", c.named(err))
		}
		if o != nil {
			opt.Context, replaced = o.Context, len(o.Siblings)
		}
	}
	w, err := b.Put(ctx, c.Key, value, opt)
	if err != nil {
		return c.named(err)
	}
	trace(s.err, w.Trace)
	fmt.Fprintf(s.out, "stored %s/%s (%d bytes%s)\n", c.Bucket, c.Key, len(value), by(w))
	if replaced > 1 {
		fmt.Fprintf(s.out, "it replaced %d concurrent values\n", replaced)
	}
	if w.Siblings > 1 {
		fmt.Fprintf(s.out, "the key now has %d concurrent values (siblings); dunlin kv get %s %s shows them\n", w.Siblings, quoteArg(c.Bucket), quoteArg(c.Key))
	}
	return nil
}

// by says who took a write.
func by(w *client.Written) string {
	text := ""
	if w.Acks != "" {
		text += ", acks " + w.Acks
	}
	if w.Node != "" {
		text += ", by " + w.Node
	}
	return text
}

func (c *kvPut) value(stdin io.Reader) ([]byte, error) {
	switch {
	case c.File != "" && c.Value != nil:
		return nil, errors.New("both a VALUE and --file are given; give one")
	case c.File != "":
		f, err := os.Open(c.File)
		if err != nil {
			return nil, fmt.Errorf("--file: %w", err)
		}
		defer f.Close()
		return readValue(f)
	case c.Value == nil:
		return nil, errors.New("no value is given; give a VALUE, - for stdin, or --file")
	case *c.Value == "-":
		return readValue(stdin)
	}
	return []byte(*c.Value), nil
}

func readValue(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxValueRead+1))
	if err != nil {
		return nil, fmt.Errorf("reading the value: %w", err)
	}
	if len(b) > maxValueRead {
		return nil, fmt.Errorf("the value is larger than %d bytes", maxValueRead)
	}
	return b, nil
}

type kvRm struct {
	target  `embed:""`
	writing `embed:""`
}

// Help is shown below the flags of rm.
func (kvRm) Help() string {
	return `Deletes what the answering node sees, or with --context exactly what was read. Deleting an absent key succeeds.`
}

// Run deletes one key.
func (c *kvRm) Run(ctx context.Context, s *streams) error {
	b, ctx, cancel, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	w, err := b.Delete(ctx, c.Key, c.options(c.target))
	if err != nil {
		return c.named(err)
	}
	trace(s.err, w.Trace)
	_, err = fmt.Fprintf(s.out, "deleted %s/%s%s\n", c.Bucket, c.Key, by(w))
	return err
}
