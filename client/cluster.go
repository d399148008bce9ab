package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Member is one node of the cluster as the answering node knows it.
type Member struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Addresses  Addresses `json:"addresses"`
	Zone       string    `json:"zone"`
	Weight     int       `json:"weight"`
	State      string    `json:"state"`
	Alive      bool      `json:"alive"`
	Partitions int       `json:"partitions"`
	Epoch      uint64    `json:"epoch"`
}

// Addresses are host:port of the three listeners; empty where unknown.
type Addresses struct {
	HTTP   string `json:"http"`
	RPC    string `json:"rpc"`
	Gossip string `json:"gossip"`
}

// Members lists the nodes as one node sees them, dead ones too.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	var out []Member
	return out, c.getList(ctx, "/cluster/members", "members", &out)
}

// Ready asks one node whether it serves requests. Not ready is an error, a
// *Problem with the reason; it is not repeated.
func (c *Client) Ready(ctx context.Context) error {
	e, _ := c.next(c.start(), 0)
	_, err := c.send(ctx, e, &request{method: http.MethodGet, path: "/readyz"})
	return err
}

// Properties are the settings of a bucket by name: n, r, w, conflict, ttl, ….
type Properties map[string]any

// Buckets lists the names of the buckets that have properties or keys.
func (c *Client) Buckets(ctx context.Context) ([]string, error) {
	var names []bucketName
	if err := c.getList(ctx, "/buckets", "buckets", &names); err != nil {
		return nil, err
	}
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = string(n)
	}
	return out, nil
}

// bucketName is listed bare or as the name of an object.
type bucketName string

// UnmarshalJSON accepts "b", {"name":"b"} and {"bucket":"b"}.
func (n *bucketName) UnmarshalJSON(text []byte) error {
	var doc struct{ Name, Bucket string }
	if text[0] == '"' {
		return json.Unmarshal(text, (*string)(n))
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	*n = bucketName(doc.Name + doc.Bucket)
	return nil
}

// Properties reads the settings of the bucket.
func (b *Bucket) Properties(ctx context.Context) (Properties, error) {
	a, err := b.c.do(ctx, &request{method: http.MethodGet, path: "/buckets/" + url.PathEscape(b.name), repeat: true})
	if err != nil {
		return nil, err
	}
	var p Properties
	if err := json.Unmarshal(a.body, &p); err != nil {
		return nil, fmt.Errorf("client: reading the properties of %s: %w", b.name, err)
	}
	return p, nil
}

// SetProperties changes settings of the bucket. everywhere tells that every
// live node has them already; else the others get them soon. Setting the same
// twice is harmless, so it is repeated like a read.
func (b *Bucket) SetProperties(ctx context.Context, p Properties) (everywhere bool, err error) {
	body, err := json.Marshal(p)
	if err != nil {
		return false, fmt.Errorf("client: properties of %s: %w", b.name, err)
	}
	a, err := b.c.do(ctx, &request{
		method: http.MethodPut, path: "/buckets/" + url.PathEscape(b.name), body: body, repeat: true,
		header: http.Header{"Content-Type": {"application/json"}},
	})
	return err == nil && a.status == http.StatusOK, err
}

// getList reads a JSON list, bare or as the member field of an object.
func (c *Client) getList(ctx context.Context, path, field string, into any) error {
	a, err := c.do(ctx, &request{method: http.MethodGet, path: path, repeat: true, header: http.Header{"Accept": {"application/json"}}})
	if err != nil {
		return err
	}
	text := bytes.TrimSpace(a.body)
	if len(text) > 0 && text[0] == '{' {
		var doc map[string]json.RawMessage
		if err := json.Unmarshal(text, &doc); err != nil {
			return fmt.Errorf("client: reading %s: %w", path, err)
		}
		text = doc[field]
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("client: reading %s: %w", path, err)
	}
	return nil
}

// BaseURL is the URL at which m answers clients, empty when it told none.
func (m Member) BaseURL() string {
	if m.Addresses.HTTP == "" || strings.HasPrefix(m.Addresses.HTTP, "http") {
		return m.Addresses.HTTP
	}
	return "http://" + m.Addresses.HTTP
}
