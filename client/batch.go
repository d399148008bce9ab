package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"unicode/utf8"
)

// Op is one operation of a batch.
type Op struct {
	Op          string // "put", "get" or "delete"
	Bucket, Key string
	Value       []byte // of a put
	ContentType string // of a put
	Context     string // of a put or delete: what it replaces

	// IdempotencyKey names a put or delete, as Write.IdempotencyKey does.
	// Empty: the client makes one.
	IdempotencyKey string
}

// Result is the answer to one operation of a batch.
type Result struct {
	Status      int
	Context     string
	Value       []byte
	ContentType string
	Siblings    []Sibling
	Problem     *Problem // why it failed; nil below status 400
}

type opJSON struct {
	Op          string  `json:"op"`
	Bucket      string  `json:"bucket"`
	Key         string  `json:"key"`
	KeyEncoding string  `json:"key_encoding,omitempty"` // without it utf-8
	Value       *string `json:"value,omitempty"`
	Encoding    string  `json:"encoding,omitempty"`
	ContentType string  `json:"content_type,omitempty"`
	Context     string  `json:"context,omitempty"`
	Idempotency string  `json:"idempotency_key,omitempty"`
}

// Batch are the parameters that apply to each operation of a batch.
type Batch struct {
	Read  Read
	Write Write
}

// Batch does ops in one request and returns one Result each, in their order.
// There is no atomicity across keys. Each write carries an Idempotency-Key, so
// that a batch is repeated as safely as a single write.
func (c *Client) Batch(ctx context.Context, ops []Op, opt Batch) ([]Result, error) {
	body, reads, writes, err := encodeOps(ops)
	if err != nil || len(ops) == 0 {
		return nil, err
	}
	q := url.Values{}
	if reads {
		q = opt.Read.query()
	}
	if writes {
		for name, values := range opt.Write.query() {
			q[name] = values
		}
	}
	a, err := c.do(ctx, &request{
		method: http.MethodPost, path: "/batch", query: q, body: body, repeat: true,
		header: http.Header{"Content-Type": {"application/x-ndjson"}},
	})
	if err != nil {
		return nil, err
	}
	return decodeResults(a.body, len(ops))
}

func encodeOps(ops []Op) (body []byte, reads, writes bool, err error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	for i, op := range ops {
		if op.Op == "get" {
			reads = true
		} else {
			writes = true
		}
		line := opJSON{Op: op.Op, Bucket: op.Bucket, ContentType: op.ContentType, Context: op.Context}
		if line.Key, line.KeyEncoding = textOf([]byte(op.Key)); line.KeyEncoding == "utf-8" {
			line.KeyEncoding = ""
		}
		if line.Idempotency = op.IdempotencyKey; op.Op != "get" && line.Idempotency == "" {
			line.Idempotency = NewIdempotencyKey()
		}
		if op.Op == "put" {
			text, encoding := textOf(op.Value)
			line.Value, line.Encoding = &text, encoding
		}
		if err := enc.Encode(line); err != nil {
			return nil, false, false, fmt.Errorf("client: operation %d: %w", i, err)
		}
	}
	return buf.Bytes(), reads, writes, nil
}

// textOf is bytes as JSON can hold them.
func textOf(b []byte) (text, encoding string) {
	if utf8.Valid(b) {
		return string(b), "utf-8"
	}
	return base64.StdEncoding.EncodeToString(b), "base64"
}

func decodeResults(body []byte, want int) ([]Result, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	var out []Result
	for {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return out, fmt.Errorf("client: result %d of the batch: %w", len(out), err)
		}
		r, err := decodeResult(raw)
		if err != nil {
			return out, fmt.Errorf("client: result %d of the batch: %w", len(out), err)
		}
		out = append(out, r)
	}
	if len(out) != want {
		return out, fmt.Errorf("client: the batch of %d operations was answered with %d results; the rest is unknown", want, len(out))
	}
	return out, nil
}

func decodeResult(raw json.RawMessage) (Result, error) {
	var doc struct {
		Status      int           `json:"status"`
		Context     string        `json:"context"`
		Value       string        `json:"value"`
		Encoding    string        `json:"encoding"`
		ContentType string        `json:"content_type"`
		Siblings    []siblingJSON `json:"siblings"`
		Problem     *Problem      `json:"problem"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return Result{}, err
	}
	r := Result{Status: doc.Status, Context: doc.Context, ContentType: doc.ContentType, Problem: doc.Problem}
	var err error
	if r.Value, err = decode(doc.Value, doc.Encoding); err != nil {
		return Result{}, err
	}
	if r.Siblings, err = siblingsOf(doc.Siblings); err != nil {
		return Result{}, err
	}
	if r.Status >= 400 && r.Problem == nil {
		// The problem's members may stand in the line itself.
		r.Problem = &Problem{}
		if err := json.Unmarshal(raw, r.Problem); err != nil {
			return Result{}, err
		}
	}
	if r.Problem != nil && r.Problem.Status == 0 {
		r.Problem.Status = r.Status
	}
	return r, nil
}
