package sim

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/internal/crowd"
	"github.com/dunlindb/dunlin/internal/referee"
)

const (
	readyLimit  = 2 * time.Minute  // from the start, or from the healing, to a node that is ready
	settleLimit = 10 * time.Minute // from the healing to equal replicas and no hints
	settleFor   = 3 * time.Second  // that it must last
	reapLimit   = 20 * time.Minute // to the last tombstone
	lastTimers  = time.Minute      // memberlist's last probes end by their own timeouts
)

// The buckets; in one of them the last writer wins.
const (
	bucketSiblings = "sib"
	bucketLWW      = "lww"
)

// world is a simulated cluster.
type world struct {
	plan     Plan
	log      *slog.Logger
	begin    time.Time
	fabric   *fabric
	members  []*member
	observer *http.Client // reaches every node, whatever is cut
	admin    *http.Client // the same, with more patience
	history  *referee.History
	ghosts   sync.WaitGroup // nodes that crashed and still have to end

	mu      sync.Mutex
	cuts    map[link]int // how many faults cut it
	streams map[link]int // the same, but for gossip
	storms  []weather
	counts  map[string]int // faults
	losses  int            // nodes that were lost with their disks
	crowd   *crowd.Crowd
	fallen  bool              // a majority was lost at once
	back    map[uint64]*table // by epoch: what a cancelling is to bring back
	won     map[uint64]string // by epoch: the change that was told that it is that epoch

	newcomers atomic.Int32 // strikes of that name
}

func newWorld(p Plan, log *slog.Logger) *world {
	w := &world{
		plan: p, log: log, begin: time.Now(), fabric: newFabric(p.Seed),
		cuts: map[link]int{}, streams: map[link]int{}, counts: map[string]int{}, won: map[uint64]string{}, back: map[uint64]*table{},
	}
	w.history = &referee.History{Title: p.String(), Options: referee.Options{N: 3, Lossy: p.OS, Wiped: p.changing()}}
	if p.LWW {
		w.history.Options.LWW = []string{bucketLWW}
	}
	w.fabric.setWeather(p.Weather)
	w.observer, w.admin = w.client(0), w.client(adminNo)
	w.admin.Timeout = askTimeout
	w.admin.Transport.(*http.Transport).DisableKeepAlives = true // else a question takes now one time, now another
	for i := range p.Nodes + p.Spares {
		w.members = append(w.members, newMember(w, i+1))
	}
	return w
}

// client returns a client on a host of its own; number 0 is the observer.
func (w *world) client(id int) *http.Client {
	h := w.fabric.join(clientName(id), netip.AddrFrom4([4]byte{10, 9, 0, byte(id)}))
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) { return h.Dial(ctx, addr) }
	return &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: 4 * time.Second}
}

// adminNo is the client that operators use.
const adminNo = 250

func clientName(id int) string { return fmt.Sprintf("c%d", id) }

func (w *world) since() time.Duration { return time.Since(w.begin) }

func (w *world) note(format string, args ...any) { w.history.Note(w.since(), format, args...) }

// count counts a fault and notes it.
func (w *world) count(fault, format string, args ...any) {
	w.mu.Lock()
	w.counts[fault]++
	w.mu.Unlock()
	w.note(fault+": "+format, args...)
}

// breach notes a broken promise.
func (w *world) breach(err error) {
	if err != nil {
		w.history.Breach("", fmt.Sprintf("after %v: %v", w.since(), err))
	}
}

// sync lets the operating systems write back what was not synced, now and then, until stop is closed.
func (w *world) sync(stop <-chan struct{}) {
	rnd := rand.New(rand.NewPCG(w.plan.Seed, 3))
	for {
		select {
		case <-time.After(time.Duration(1+rnd.IntN(5000)) * time.Millisecond):
			w.members[rnd.IntN(len(w.members))].sync()
		case <-stop:
			return
		}
	}
}

// clear ends what is left of bad weather: a node that is taken for dead by chance is no broken promise.
func (w *world) clear() {
	x := w.plan.Weather
	w.fabric.setWeather(weather{least: x.least, most: x.most})
}

func (w *world) startAll() error {
	var errs []error
	for _, m := range w.present() {
		errs = append(errs, m.start(false))
	}
	return errors.Join(errs...)
}

// until waits for a condition, which says why it does not hold yet.
func (w *world) until(limit time.Duration, what string, f func() error) error {
	end := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %v, not %s: %w", limit, what, err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func (w *world) ready() error {
	for _, m := range w.present() {
		err := w.until(readyLimit, m.name+" is ready", func() error {
			_, err := get(w.observer, m.url()+"/readyz")
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// get returns the body of an answer of 200.
func get(c *http.Client, url string) (string, error) { return call(c, "GET", url, "") }

// close stops everything. Nothing of the world runs when it returns.
func (w *world) close() error {
	var errs []error
	for _, m := range w.members {
		n, h, gone := m.take()
		if n == nil {
			continue
		}
		close(gone)
		w.ghosts.Go(func() {
			_ = n.Stop()
			h.leave(false)
		})
	}
	w.observer.CloseIdleConnections()
	w.admin.CloseIdleConnections()
	w.ghosts.Wait()
	for _, m := range w.members {
		for _, d := range append(m.attic, m.disk) {
			errs = append(errs, d.Close())
		}
	}
	time.Sleep(lastTimers)
	return errors.Join(errs...)
}

// crowdOptions are those of the clients.
func (w *world) crowdOptions() crowd.Options {
	p := w.plan
	client := func(id int) *http.Client {
		c := w.client(id + 1)
		c.Timeout = p.Patience + 2*time.Second
		if id == p.Clients { // the guests', who say how long they wait
			c.Timeout = time.Minute
		}
		return c
	}
	o := crowd.Options{
		Client: client, Clients: p.Clients, Keys: p.Keys, Bucket: bucketSiblings,
		Pause: p.Pause, Timeout: p.Patience, Words: p.changes["number"]+p.changes["narrow"] > 0, N: 3, StrictR: p.R, StrictW: p.W, Least: p.Least, NoRetries: !p.Retries,
		LeastW: p.LeastW, Churn: p.Churn, ValueSize: p.Size, Once: p.Once, Seed: p.Seed,
	}
	if p.LWW {
		o.LWW = bucketLWW
	}
	for _, m := range w.members {
		o.Nodes = append(o.Nodes, crowd.Node{Name: m.name, URL: m.url, Out: func() bool { return !m.is(serving) }})
	}
	return o
}

// makeBuckets sets the policy of the bucket that needs one.
func (w *world) makeBuckets() error {
	if !w.plan.LWW {
		return nil
	}
	return w.until(readyLimit, "a bucket that all nodes know", func() error {
		req, err := http.NewRequest("PUT", w.members[0].url()+"/buckets/"+bucketLWW, strings.NewReader(`{"conflict":"lww"}`))
		if err != nil {
			return err
		}
		resp, err := w.observer.Do(req)
		if err != nil {
			return err
		}
		body, err := readAll(resp)
		if err == nil && resp.StatusCode != http.StatusOK { // 202: some have not heard of it
			err = fmt.Errorf("%d %s", resp.StatusCode, body)
		}
		return err
	})
}

// settle waits until no hint waits, all replicas are equal and all nodes know each other, and that lasts.
func (w *world) settle(o crowd.Options) error {
	var since time.Time
	return w.until(settleLimit, "settled", func() error {
		nodes, err := o.Look(w.observer)
		if err == nil {
			w.history.Final.Nodes = nodes
			w.history.Final.Numbered, err = w.numbered()
		}
		if err == nil {
			err = cmp.Or(referee.Settled(w.history.Final, w.history.Options.N), w.together(), w.unmarked())
		}
		switch {
		case err != nil:
			since = time.Time{}
			return err
		case since.IsZero():
			since = time.Now()
		}
		if time.Since(since) < settleFor {
			return errors.New("only just")
		}
		return nil
	})
}

// together says which node takes which other one for dead.
func (w *world) together() error {
	for _, m := range w.present() {
		if err := w.hears(m); err != nil {
			return err
		}
	}
	return nil
}

// unmarked says which node still has copies that may lack something, although they are equal.
func (w *world) unmarked() error {
	for _, m := range w.present() {
		var doc struct {
			Marked int `json:"marked_partitions"`
		}
		body, err := get(w.observer, m.url()+"/cluster/repair")
		if err == nil {
			err = json.Unmarshal([]byte(body), &doc)
		}
		if err == nil && doc.Marked > 0 {
			err = fmt.Errorf("%s: %d partitions are marked", m.name, doc.Marked)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// counted lists the faults that struck.
func (w *world) counted() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.counts)
}

func call(c *http.Client, method, url, body string) (string, error) {
	status, b, err := exchange(c, method, url, body)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("%s %s: %d %s", method, url, status, b)
	}
	return b, err
}

func exchange(c *http.Client, method, url, body string) (status int, answer string, err error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	answer, err = readAll(resp)
	return resp.StatusCode, answer, err
}
