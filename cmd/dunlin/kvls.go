package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dunlindb/dunlin/client"
)

const pageSize = 1000

type kvLs struct {
	nodes   `embed:""`
	Bucket  string        `arg:"" optional:"" help:"Bucket. Without it the buckets are listed."`
	Prefix  string        `placeholder:"TEXT" help:"Only keys that start so."`
	After   string        `placeholder:"KEY" help:"Only keys behind this one."`
	Limit   int           `placeholder:"NUMBER" help:"Stop after so many keys. Default: all."`
	Values  bool          `help:"With values; needs --output json."`
	Output  string        `enum:"text,json" default:"text" short:"o" placeholder:"text|json" help:"text: one key a line, quoted where it has control characters. json: one object a line."`
	Timeout time.Duration `default:"30s" placeholder:"DURATION" help:"Time limit for each page of keys, at most 60s."`
}

// Run lists keys page after page.
func (c *kvLs) Run(ctx context.Context, s *streams) (err error) {
	if c.Values && c.Output != "json" {
		return errors.New("--values needs --output json")
	}
	if c.Limit < 0 {
		return fmt.Errorf("--limit: %d is less than 0", c.Limit)
	}
	cluster, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	out := bufio.NewWriter(s.out)
	defer func() { err = errors.Join(err, out.Flush()) }()
	if c.Bucket == "" {
		return c.buckets(ctx, cluster, out)
	}
	opt := client.List{Prefix: c.Prefix, After: c.After, Values: c.Values, Timeout: c.Timeout, Limit: pageSize}
	if c.Limit > 0 {
		opt.Limit = min(c.Limit, pageSize)
	}
	n := 0
	for e, err := range cluster.Bucket(c.Bucket).All(ctx, opt) {
		if err != nil {
			return fmt.Errorf("%s: %w", c.Bucket, plain(err))
		}
		if err := c.print(out, e); err != nil {
			return err
		}
		if n++; n == c.Limit {
			break
		}
	}
	return nil
}

func (c *kvLs) buckets(ctx context.Context, cluster *client.Client, out *bufio.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	names, err := cluster.Buckets(ctx)
	if err != nil {
		return plain(err)
	}
	for _, name := range names {
		if err := c.print(out, client.Entry{Key: name}); err != nil {
			return err
		}
	}
	return nil
}

func (c *kvLs) print(out *bufio.Writer, e client.Entry) error {
	if c.Output == "text" {
		_, err := fmt.Fprintln(out, listed(e.Key))
		return err
	}
	line := map[string]any{}
	text, encoding := encode([]byte(e.Key))
	if line["key"] = text; encoding != "utf-8" {
		line["key_encoding"] = encoding
	}
	if c.Values && e.Value != nil {
		line["value"], line["encoding"] = encode(e.Value)
		line["content_type"], line["context"] = e.ContentType, e.Context
	}
	if len(e.Siblings) > 0 {
		line["siblings"], line["context"] = siblingsJSON(e.Siblings), e.Context
	}
	return json.NewEncoder(out).Encode(line)
}
