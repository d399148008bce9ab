package crowd

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/dunlindb/dunlin/internal/referee"
)

// Look asks every node what it holds as a whole, without reading a key.
func (o Options) Look(client *http.Client) ([]referee.Node, error) {
	var nodes []referee.Node
	for _, n := range o.nodes() {
		var doc struct{ Hints int }
		x := referee.Node{Name: n.Name}
		if err := errors.Join(fetch(client, n.URL()+"/cluster/handoff", &doc), fetch(client, n.URL()+"/cluster/digest", &x.Digests)); err != nil {
			return nil, fmt.Errorf("%s: %w", n.Name, err)
		}
		x.Hints = doc.Hints
		nodes = append(nodes, x)
	}
	return nodes, nil
}

// Conclude writes into the history what is left of every key: a read of all replicas, and what each member holds; and
// checks that a listing names the keys that live, and no other. What cannot be asked is a breach. For who does
// not answer it waits, a minute for a key and three in all.
func (c *Crowd) Conclude(client *http.Client) {
	h := c.history
	h.Final.Keys = map[string]referee.FinalKey{}
	live := map[string]map[string]bool{}
	nodes := c.opt.nodes()
	for i, at := range c.Places() {
		bucket, key := at[0], at[1]
		name := referee.KeyName(bucket, key)
		k, err := c.conclude(client, nodes[i%len(nodes)].URL(), bucket, key)
		if err != nil {
			h.Breach(name, err.Error())
			k.Unknown = true
		}
		h.Final.Keys[name] = k
		if live[bucket] == nil {
			live[bucket] = map[string]bool{}
		}
		if len(k.Values) > 0 {
			live[bucket][key] = true
		}
	}
	for bucket, keys := range live {
		if err := c.list(client, bucket, keys); err != nil {
			h.Breach(bucket, err.Error())
		}
	}
}

// errUnheard is wrapped by errors that say only that somebody does not answer now.
var errUnheard = errors.New("not all could be asked")

// errReaping is wrapped by errors that say only that some hold a tombstone still, and others nothing any more.
var errReaping = errors.New("a tombstone is being reaped")

// Where packets are lost, a node may be taken for dead at any moment, and a read of all replicas is refused then.
const (
	askAgainFor   = time.Minute
	askAgainPause = 500 * time.Millisecond
	askAgainInAll = 3 * time.Minute
)

// patiently repeats what failed because somebody did not answer, or something was being reaped, and nothing else.
func (c *Crowd) patiently(ask func() error) error {
	begin := time.Now()
	for {
		err := ask()
		if !errors.Is(err, errUnheard) && !errors.Is(err, errReaping) {
			return err
		}
		if waited := time.Since(begin); waited > askAgainFor || c.waited+waited > askAgainInAll {
			c.waited += waited
			return err
		}
		time.Sleep(askAgainPause)
	}
}

// Abandon writes into the history that nobody knows what is left of the keys.
func (c *Crowd) Abandon() {
	c.history.Final.Keys = map[string]referee.FinalKey{}
	for _, at := range c.Places() {
		c.history.Final.Keys[referee.KeyName(at[0], at[1])] = referee.FinalKey{Unknown: true}
	}
}

func (c *Crowd) conclude(client *http.Client, base, bucket, key string) (k referee.FinalKey, err error) {
	err = c.patiently(func() error {
		k, err = c.concludeNow(client, base, bucket, key)
		return err
	})
	return k, err
}

func (c *Crowd) concludeNow(client *http.Client, base, bucket, key string) (referee.FinalKey, error) {
	k, err := Inspect(client, base, bucket, key)
	a, readErr := exchange(client, request{method: "GET", path: base + "/kv/" + bucket + "/" + key + "?r=all&timeout=20s"})
	if readErr == nil && a.status != 200 && a.status != 300 && a.status != 404 {
		readErr = fmt.Errorf("cannot be read from all: %w", refusal(a))
	}
	if readErr == nil {
		k.Values, _, readErr = a.live()
	}
	return k, errors.Join(err, readErr)
}

// Inspect asks a node what each member holds of a key. It fails also when the replicas differ.
func Inspect(client *http.Client, base, bucket, key string) (k referee.FinalKey, err error) {
	var doc struct {
		Agree    bool
		Replicas []struct {
			Node, Role, Error string
			Copy, Hint        *struct {
				Found, Damaged, Deleted bool
				Digest                  string
			}
		}
	}
	if err := fetch(client, base+"/cluster/explain/"+bucket+"/"+key, &doc); err != nil {
		return k, err
	}
	unheard := ""
	for _, r := range doc.Replicas {
		if r.Role == "primary" && r.Error != "" {
			unheard = r.Node + ": " + r.Error
		}
		x := referee.Replica{Node: r.Node, Primary: r.Role == "primary", Hint: r.Hint != nil}
		if r.Copy != nil {
			x.Digest, x.Damaged, x.Dead = r.Copy.Digest, r.Copy.Damaged, r.Copy.Found && r.Copy.Deleted
		}
		k.Replicas = append(k.Replicas, x)
	}
	switch {
	case unheard != "":
		err = fmt.Errorf("%w: %s", errUnheard, unheard)
	case !doc.Agree && !slices.ContainsFunc(k.Replicas, func(r referee.Replica) bool { return r.Primary && (r.Damaged || r.Digest != "" && !r.Dead) }):
		err = fmt.Errorf("%w: %+v", errReaping, k.Replicas)
	case !doc.Agree:
		err = fmt.Errorf("the replicas differ: %+v", k.Replicas)
	}
	return k, err
}

func (c *Crowd) list(client *http.Client, bucket string, live map[string]bool) error {
	var names []string
	for page := "?limit=1000"; page != ""; {
		var doc struct {
			Keys []string
			Next string
		}
		page = c.opt.nodes()[0].URL() + "/kv/" + bucket + page
		if err := c.patiently(func() error { return fetch(client, page, &doc) }); err != nil {
			return err
		}
		names = append(names, doc.Keys...)
		if page = ""; doc.Next != "" {
			page = "?limit=1000&after=" + url.QueryEscape(doc.Next)
		}
	}
	if want := slices.Sorted(maps.Keys(live)); !slices.Equal(names, want) {
		return fmt.Errorf("the listing names %q, alive are %q", names, want)
	}
	return nil
}

// refusal is the error of an answer that is none.
func refusal(a answer) error {
	if a.status == http.StatusServiceUnavailable || a.status == http.StatusGatewayTimeout {
		return fmt.Errorf("%w: %d %s", errUnheard, a.status, a.body)
	}
	return fmt.Errorf("%d %s", a.status, a.body)
}

func fetch(client *http.Client, address string, into any) error {
	a, err := exchange(client, request{method: "GET", path: address})
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("%s: %w", address, refusal(a))
	}
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(a.body), into)
}
