package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/dunlindb/dunlin/client"
)

type loadCmd struct {
	nodes       `embed:""`
	File        string        `arg:"" help:"NDJSON file, or - for stdin."`
	Bucket      string        `required:"" placeholder:"NAME" help:"Bucket to write to."`
	W           string        `name:"w" placeholder:"1..N|one|quorum|all" help:"Replicas to wait for with each write."`
	DW          string        `name:"dw" placeholder:"0..W" help:"Of those, how many must have it on disk."`
	Timeout     time.Duration `default:"5s" placeholder:"DURATION" help:"Time limit of one write, at most 60s."`
	GiveUp      time.Duration `default:"2m" placeholder:"DURATION" help:"Stop when one record cannot be written for so long; resume later."`
	Concurrency int           `default:"32" placeholder:"NUMBER" help:"Writes under way at once, 1..1024."`
	KeyField    string        `placeholder:"NAME" help:"The field that holds the key; alone, the whole line is the value. Default: key."`
	ValueField  string        `placeholder:"NAME" help:"The field that holds the value. Default: value."`
	Raw         bool          `help:"The whole line is the value."`
	State       string        `type:"path" placeholder:"FILE" help:"Where progress is kept. Default: the file's name + .dunlin-load; stdin: nowhere."`
	Restart     bool          `help:"Begin at the first record, whatever the state says."`
	Acked       string        `type:"path" placeholder:"FILE" help:"Append a line of JSON for each acknowledged record: key, and the node that coordinated the write."`
	JSON        bool          `name:"json" help:"Print the summary as JSON."`
}

// Help is shown below the flags of load.
func (loadCmd) Help() string {
	return `A line is {"key":"k","value":"v"}, with "encoding":"base64" for bytes and "content_type" where wanted. A value
that is no string is stored as its JSON. The writes are spread over all --url, or over all live members.

Progress is saved every second and when interrupted; the same command goes on where it stopped. A record that is
sent again carries the same Idempotency-Key, so that within an hour it has no second effect. The writes carry no
context: where a key exists already, the new value stays beside it (siblings), unless the bucket says otherwise.

A record that is refused for good is reported with its line number and passed over; then the exit code is 1.`
}

const (
	maxConcurrency = 1024
	maxReported    = 20 // refused records that are reported one by one
)

// summary is the last line of a load.
type summary struct {
	Records int64   `json:"records"` // of the file that are done with, earlier runs included
	Bytes   int64   `json:"bytes"`   // of this run's values
	Seconds float64 `json:"seconds"`
	Retried int64   `json:"retried"`
	Failed  int64   `json:"failed"` // of the file, earlier runs included
	Acked   int64   `json:"acked"`  // in this run
	State   string  `json:"state,omitempty"`
}

// Run loads the file.
func (c *loadCmd) Run(ctx context.Context, s *streams) error {
	if err := c.check(); err != nil {
		return err
	}
	l := &loader{cmd: c, s: s, begun: time.Now()}
	if err := l.open(ctx); err != nil {
		return err
	}
	done := l.state.complete()
	if done {
		fmt.Fprintf(s.err, "%s is loaded completely already (%d records); --restart loads it again\n", c.File, l.state.Through-l.state.Blank)
	}
	var err error
	if !done {
		err = l.run(ctx)
	}
	if closeErr := l.close(); err == nil {
		err = closeErr
	}
	if printErr := l.report(); err == nil {
		err = printErr
	}
	switch {
	case err != nil && c.State != "":
		return fmt.Errorf("%w; progress is saved in %s, the same command goes on", err, c.State)
	case err != nil:
		return err
	case l.state.Failed > 0:
		return fmt.Errorf("%d records were refused", l.state.Failed)
	}
	return nil
}

func (c *loadCmd) check() error {
	if c.Concurrency < 1 || c.Concurrency > maxConcurrency {
		return fmt.Errorf("--concurrency: %d is out of range; use 1..%d", c.Concurrency, maxConcurrency)
	}
	if c.Raw && c.ValueField != "" {
		return errors.New("--raw and --value-field exclude each other")
	}
	c.Raw = c.Raw || c.KeyField != "" && c.ValueField == ""
	if c.KeyField == "" {
		c.KeyField = "key"
	}
	if c.ValueField == "" {
		c.ValueField = "value"
	}
	if c.File != "-" {
		path, err := filepath.Abs(c.File)
		if err != nil {
			return err
		}
		c.File = path
		if c.State == "" {
			c.State = path + ".dunlin-load"
		}
	}
	return nil
}

// report prints the summary.
func (l *loader) report() error {
	st := l.state
	sum := summary{
		Records: st.Through + int64(len(st.Done)), Bytes: l.bytes.Load(), Seconds: time.Since(l.begun).Seconds(),
		Retried: l.retried.Load(), Failed: st.Failed, Acked: l.acked.Load(), State: l.cmd.State,
	}
	sum.Records -= st.Blank
	if l.cmd.JSON {
		return json.NewEncoder(l.s.out).Encode(sum)
	}
	_, err := fmt.Fprintf(l.s.out, "%d records acknowledged, %s of values in %.1fs (%.0f/s), %d retried, %d failed\n",
		sum.Acked, humanBytes(sum.Bytes), sum.Seconds, float64(sum.Acked)/max(sum.Seconds, 1e-3), sum.Retried, sum.Failed)
	return err
}

func humanBytes(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

// connect returns a client that spreads writes over the nodes given, or over
// the live members that answer here.
func (l *loader) connect(ctx context.Context) (*client.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, l.cmd.Concurrency
	opt := client.Options{
		UserAgent: "dunlin-load", HTTPClient: &http.Client{Transport: transport},
		Tries:   1 << 20, // bounded by --give-up
		OnRetry: func(error) { l.retried.Add(1) },
	}
	if len(l.cmd.URL) > 0 {
		return client.New(l.cmd.URL, opt)
	}
	first, err := l.cmd.connect(ctx, client.Options{Tries: 3})
	if err != nil {
		return nil, err
	}
	defer first.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*probeTimeout)
	defer cancel()
	members, err := first.Members(ctx)
	if err != nil {
		return nil, plain(err)
	}
	var urls []string
	for _, m := range members {
		// A member's address may be of a network that this machine is not in.
		if u := m.BaseURL(); m.Alive && u != "" && answersAt(ctx, u) {
			urls = append(urls, u)
		}
	}
	if len(urls) == 0 {
		urls = first.Endpoints()
	}
	return client.New(urls, opt)
}

// syncDir makes a rename in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
