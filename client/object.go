package client

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"time"
)

// maxSiblings bounds the parts of one answer that are read.
const maxSiblings = 1000

// Object is what a key holds: no sibling when it is absent or deleted, several
// when concurrent writes survive.
type Object struct {
	Context  string // send it back with the write that replaces this object
	ETag     string
	Siblings []Sibling
	Node     string          // the coordinator that answered
	Acks     string          // replicas heard, e.g. "2/3"
	Trace    json.RawMessage // with Read.Trace
}

// Sibling is one value that no other write has replaced.
type Sibling struct {
	Dot         string
	ContentType string
	Value       []byte
	Modified    time.Time
	Deleted     bool // a deletion concurrent with the others
}

// Value is the only value of o: ErrNotFound when there is none, ErrSiblings
// when there are several or a deletion competes with one.
func (o *Object) Value() ([]byte, error) {
	switch {
	case len(o.Siblings) == 0:
		return nil, ErrNotFound
	case len(o.Siblings) > 1:
		return nil, ErrSiblings
	case o.Siblings[0].Deleted:
		return nil, ErrNotFound
	}
	return o.Siblings[0].Value, nil
}

// object reads a 200 or 300 answer about one key.
func (a *answer) object() (*Object, error) {
	o := a.bare()
	media, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	switch {
	case a.status != http.StatusMultipleChoices:
		o.Siblings = []Sibling{{
			Dot:         a.header.Get("Dunlin-Dot"),
			ContentType: a.header.Get("Content-Type"),
			Value:       a.body,
			Modified:    httpTime(a.header.Get("Last-Modified")),
		}}
		return o, nil
	case err == nil && media == "application/json":
		return o, o.readJSON(a.body)
	case err == nil && media == "multipart/mixed":
		return o, o.readParts(a.body, params["boundary"])
	}
	return nil, fmt.Errorf("client: siblings came as %q, which is neither multipart/mixed nor JSON", a.header.Get("Content-Type"))
}

// bare is the object with what the headers tell, without values.
func (a *answer) bare() *Object {
	o := &Object{
		Context: a.header.Get("Dunlin-Context"),
		ETag:    a.header.Get("ETag"),
		Node:    a.header.Get("Dunlin-Node"),
		Acks:    a.header.Get("Dunlin-Acks"),
	}
	if t := a.header.Get("Dunlin-Trace"); json.Valid([]byte(t)) {
		o.Trace = json.RawMessage(t)
	}
	return o
}

func (o *Object) readParts(body []byte, boundary string) error {
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("client: reading siblings: %w", err)
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return fmt.Errorf("client: reading a sibling: %w", err)
		}
		if len(o.Siblings) == maxSiblings {
			return fmt.Errorf("client: more than %d siblings", maxSiblings)
		}
		o.Siblings = append(o.Siblings, Sibling{
			Dot:         part.Header.Get("Dunlin-Dot"),
			ContentType: part.Header.Get("Content-Type"),
			Value:       value,
			Modified:    httpTime(part.Header.Get("Last-Modified")),
			Deleted:     part.Header.Get("Dunlin-Deleted") == "true",
		})
	}
}

func (o *Object) readJSON(body []byte) error {
	var doc struct {
		Context  string        `json:"context"`
		Siblings []siblingJSON `json:"siblings"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return fmt.Errorf("client: reading siblings: %w", err)
	}
	if o.Context == "" {
		o.Context = doc.Context
	}
	var err error
	o.Siblings, err = siblingsOf(doc.Siblings)
	return err
}

// siblingJSON is a sibling in JSON answers.
type siblingJSON struct {
	Dot         string `json:"dot"`
	ContentType string `json:"content_type"`
	Value       string `json:"value"`
	Encoding    string `json:"encoding"`
	Modified    string `json:"modified"`
	Deleted     bool   `json:"deleted"`
}

func siblingsOf(list []siblingJSON) ([]Sibling, error) {
	var out []Sibling
	for _, s := range list {
		value, err := decode(s.Value, s.Encoding)
		if err != nil {
			return nil, err
		}
		out = append(out, Sibling{
			Dot: s.Dot, ContentType: s.ContentType, Value: value,
			Modified: anyTime(s.Modified), Deleted: s.Deleted,
		})
	}
	return out, nil
}

// decode undoes the encoding that JSON answers name for bytes.
func decode(text, encoding string) ([]byte, error) {
	switch encoding {
	case "", "utf-8":
		return []byte(text), nil
	case "base64":
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("client: a value said to be base64 is not: %w", err)
		}
		return b, nil
	}
	return nil, fmt.Errorf("client: unknown encoding %q of a value", encoding)
}

func httpTime(s string) time.Time {
	t, err := http.ParseTime(s)
	if err != nil {
		return time.Time{}
	}
	return t
}

func anyTime(s string) time.Time {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t
	}
	return httpTime(s)
}
