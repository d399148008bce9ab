package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dunlindb/dunlin/client"
)

type kvCmd struct {
	Get kvGet `cmd:"" help:"Print the value of a key."`
	Put kvPut `cmd:"" help:"Store a value under a key, replacing what is there."`
	Rm  kvRm  `cmd:"" help:"Delete a key."`
	Ls  kvLs  `cmd:"" help:"List the keys of a bucket, or the buckets."`
}

// exitSiblings is the exit code of a read that found several values, so that a
// script does not take the listing for a value.
const exitSiblings = 3

// slack is what a command waits beyond the time limit it gives to the node.
const slack = 5 * time.Second

// target is a key on the command line and what all operations on it share.
type target struct {
	nodes   `embed:""`
	Bucket  string        `arg:"" help:"Bucket: A-Z a-z 0-9 . _ -"`
	Key     string        `arg:"" help:"Key, any text."`
	Timeout time.Duration `default:"5s" placeholder:"DURATION" help:"Time limit of the request, at most 60s."`
	Strict  bool          `help:"Ask only the key's own replicas, no stand-ins (sloppy=false)."`
	Trace   bool          `help:"Print the request's time line as JSON to stderr."`
}

// open connects and returns the bucket with a context bound by the time limit.
func (t target) open(ctx context.Context) (*client.Bucket, context.Context, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout+slack)
	c, err := t.connect(ctx, client.Options{})
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return c.Bucket(t.Bucket), ctx, cancel, nil
}

type kvGet struct {
	target  `embed:""`
	R       string `name:"r" placeholder:"1..N|one|quorum|all" help:"Replicas to hear from."`
	PR      string `name:"pr" placeholder:"0..N" help:"Of those, how many must be primaries."`
	Raw     bool   `help:"Write the value as it is, binary to a terminal, too."`
	Sibling int    `placeholder:"NUMBER" help:"Of several concurrent values print only this one, from 1."`
	Output  string `enum:"value,json" default:"value" short:"o" placeholder:"value|json" help:"How to print."`
}

// Help is shown below the flags of get.
func (kvGet) Help() string {
	return `Exit code 1: absent, deleted or failed. 3: several concurrent values (siblings), all of which are printed.`
}

// Run reads and prints one key.
func (c *kvGet) Run(ctx context.Context, s *streams) error {
	b, ctx, cancel, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	o, err := b.Get(ctx, c.Key, client.Read{R: c.R, PR: c.PR, Strict: c.Strict, Timeout: c.Timeout, Trace: c.Trace})
	if o != nil {
		trace(s.err, o.Trace)
	}
	if err != nil {
		return c.named(err)
	}
	if c.Output == "json" {
		return printJSON(s.out, o)
	}
	if c.Sibling != 0 {
		if c.Sibling < 1 || c.Sibling > len(o.Siblings) {
			return fmt.Errorf("--sibling: %d is out of range; %s/%s has %d", c.Sibling, c.Bucket, c.Key, len(o.Siblings))
		}
		return c.print(s.out, o.Siblings[c.Sibling-1])
	}
	if len(o.Siblings) == 1 && !o.Siblings[0].Deleted {
		return c.print(s.out, o.Siblings[0])
	}
	return c.printSiblings(s.out, o)
}

// named says which key a failure is about.
func (t target) named(err error) error {
	return fmt.Errorf("%s/%s: %w", t.Bucket, t.Key, plain(err))
}

// print writes a value. A terminal gets a line end, and no binary.
func (c *kvGet) print(w io.Writer, v client.Sibling) error {
	if c.Raw || !terminal(w) {
		_, err := w.Write(v.Value)
		return err
	}
	_, err := fmt.Fprintln(w, readable(v))
	return err
}

// printSiblings shows all values and how to make them one.
func (c *kvGet) printSiblings(w io.Writer, o *client.Object) error {
	fmt.Fprintf(w, "%d concurrent values (siblings) of %s/%s:\n", len(o.Siblings), c.Bucket, c.Key)
	for i, v := range o.Siblings {
		text := readable(v)
		if v.Deleted {
			text = "(deleted)"
		}
		fmt.Fprintf(w, "%d: %s%s\n", i+1, text, when(v.Modified))
	}
	fmt.Fprintf(w, "One value for all of them: dunlin kv put %s %s VALUE\n", quoteArg(c.Bucket), quoteArg(c.Key))
	return &exitCode{code: exitSiblings}
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return "    written " + t.UTC().Format(time.RFC3339)
}

// readable is a value as text, or what it is when it is binary.
func readable(v client.Sibling) string {
	if isText(v.Value) {
		return string(v.Value)
	}
	return fmt.Sprintf("(binary, %d bytes, %s; --raw or a redirect writes it)", len(v.Value), dash(v.ContentType))
}

func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	return !strings.ContainsFunc(string(b), func(r rune) bool {
		return unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r)
	})
}

// quoteArg is s as one word of a shell.
func quoteArg(s string) string {
	plain := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/:@", r))
	}
	if s != "" && !strings.ContainsFunc(s, plain) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// printJSON writes an object in the form of the HTTP interface.
func printJSON(w io.Writer, o *client.Object) error {
	return json.NewEncoder(w).Encode(struct {
		Context  string        `json:"context"`
		Node     string        `json:"node,omitempty"`
		Acks     string        `json:"acks,omitempty"`
		Siblings []siblingJSON `json:"siblings"`
	}{o.Context, o.Node, o.Acks, siblingsJSON(o.Siblings)})
}

type siblingJSON struct {
	Dot         string `json:"dot,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	Value       string `json:"value"`
	Encoding    string `json:"encoding"`
	Modified    string `json:"modified,omitempty"`
	Deleted     bool   `json:"deleted,omitempty"`
}

func siblingsJSON(list []client.Sibling) []siblingJSON {
	out := make([]siblingJSON, len(list))
	for i, v := range list {
		text, encoding := encode(v.Value)
		out[i] = siblingJSON{Dot: v.Dot, ContentType: v.ContentType, Value: text, Encoding: encoding, Deleted: v.Deleted}
		if !v.Modified.IsZero() {
			out[i].Modified = v.Modified.UTC().Format(time.RFC3339)
		}
	}
	return out
}

func encode(b []byte) (text, encoding string) {
	if utf8.Valid(b) {
		return string(b), "utf-8"
	}
	return base64.StdEncoding.EncodeToString(b), "base64"
}

func trace(w io.Writer, line []byte) {
	if len(line) > 0 {
		fmt.Fprintf(w, "%s\n", line)
	}
}

// listed is a key as one line: quoted where it would not be one, or could be
// taken for a quoted one.
func listed(key string) string {
	if isText([]byte(key)) && !strings.ContainsAny(key, "\n\r\t") && !strings.HasPrefix(key, `"`) {
		return key
	}
	return strconv.Quote(key)
}
