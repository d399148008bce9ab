package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	elasticBucket    = "elastic"
	elasticRegisters = 6
	elasticSets      = 3
)

// readers check, all the time, that no read misses what was acknowledged before it began: registers with one writer
// each, and sets that only grow and that several writers add to. Half of the registers are written and read with a
// quorum, the other half are written to all replicas and read from one.
type readers struct {
	mu      sync.Mutex
	nodes   []*process
	broken  []string
	counts  map[string]int
	refused refusals
	rounds  rounds
	reach   *reach

	stop context.CancelFunc
	wg   sync.WaitGroup
}

func (f *flock) newReaders(seed uint64, nodes []*process) *readers {
	return f.newReadersOf(seed, nodes, true)
}

// newReadersOf is newReaders, where all registers may have W=2 and R=2.
func (f *flock) newReadersOf(seed uint64, nodes []*process, readOne bool) *readers {
	ctx, stop := context.WithCancel(context.Background())
	c := &readers{nodes: slices.Clone(nodes), counts: map[string]int{}, reach: &f.reach, stop: stop}
	c.reach.count(&c.rounds)
	c.countRounds(ctx, f.t)
	for i := range elasticRegisters {
		r := &register{crowd: c, key: fmt.Sprintf("register-%d", i), w: "quorum", r: "quorum"}
		if i%2 == 1 && readOne {
			r.w, r.r = "all", "one"
		}
		c.run(ctx, seed, 2*i, r.write)
		c.run(ctx, seed, 2*i+1, r.read)
	}
	for i := range elasticSets {
		s := &growing{crowd: c, key: fmt.Sprintf("set-%d", i)}
		for j := range 3 {
			c.run(ctx, seed, 100+4*i+j, func(p *asker) bool { return s.add(p, fmt.Sprintf("%d.%d", j, p.rnd.Uint64())) })
		}
		c.run(ctx, seed, 100+4*i+3, s.read)
	}
	return c
}

// asker is one client: it asks one node at a time, and another after a refusal.
type asker struct {
	http *http.Client
	rnd  *rand.Rand
	node *process
	need demand // of its latest request
	told string // in answer to that
}

func (c *readers) run(ctx context.Context, seed uint64, id int, step func(*asker) bool) {
	p := &asker{http: &http.Client{Timeout: 3 * time.Second, Transport: labTransport()}, rnd: rand.New(rand.NewPCG(seed, uint64(id)))}
	c.wg.Go(func() {
		defer p.http.CloseIdleConnections()
		fair := c.rounds.stretch()
		all := fair
		for ctx.Err() == nil {
			if p.node == nil || !c.asks(p.node) {
				p.node = c.any(p.rnd)
			}
			ok := step(p)
			c.judge(ctx, p, ok, &fair, &all)
			if !ok {
				p.node = nil
				<-time.After(10 * time.Millisecond)
			}
		}
	})
}

func (c *readers) any(rnd *rand.Rand) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[rnd.IntN(len(c.nodes))]
}

func (c *readers) all() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes
}

func (c *readers) asks(p *process) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.nodes, p)
}

// use has the clients ask these nodes from now on.
func (c *readers) use(nodes ...*process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = slices.Clone(nodes)
}

func (c *readers) finish() {
	c.stop()
	c.wg.Wait()
}

// done counts what succeeded so far.
func (c *readers) done() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts["reads"] + c.counts["reads of sets"] + c.counts["writes"] + c.counts["additions"]
}

func (c *readers) note(what string, broken string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what]++
	if broken != "" {
		c.broken = append(c.broken, fmt.Sprintf("%s: %s", time.Now().Format("15:04:05.000"), broken))
	}
}

func (p *asker) do(n demand, method, path, body, token string) (a answer, err error) {
	p.need = n
	defer func() {
		if p.told = fmt.Sprintf("%d %.300s", a.status, a.body); err != nil {
			p.told = err.Error()
		}
	}()
	req, err := http.NewRequest(method, p.node.url(path), strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.GetBody = nil
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Dunlin-Context", token)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

// liveValues are the live values of an answer to a read.
func liveValues(a answer) []string {
	if a.status == 200 {
		return []string{a.body}
	}
	var doc struct {
		Siblings []struct {
			Value   string
			Deleted bool
		}
	}
	var out []string
	if json.Unmarshal([]byte(a.body), &doc) == nil {
		for _, s := range doc.Siblings {
			if !s.Deleted {
				out = append(out, s.Value)
			}
		}
	}
	return out
}

func found(a answer) bool { return a.status == 200 || a.status == 300 }

// register has one writer, which counts up.
type register struct {
	crowd *readers
	key   string
	w, r  string

	next  int64 // the writer's
	token string
	acked atomic.Int64
}

func (r *register) path() string {
	return "/kv/" + elasticBucket + "/" + r.key + "?sloppy=false&timeout=2s"
}

func (r *register) write(p *asker) bool {
	r.next++
	a, err := p.do(demand{r.key, true, r.w}, "PUT", fmt.Sprintf("%s&w=%s", r.path(), r.w), strconv.FormatInt(r.next, 10), r.token)
	if err != nil || a.status != 204 {
		r.crowd.note("refused writes", "")
		// What became of it is not known: the context of a read replaces it, if it is there.
		told := p.told
		if got, err := p.do(demand{}, "GET", r.path()+"&r=quorum", "", ""); err == nil && found(got) {
			r.token = got.header.Get("Dunlin-Context")
		}
		p.need, p.told = demand{r.key, true, r.w}, told
		return false
	}
	r.token = a.header.Get("Dunlin-Context")
	r.acked.Store(r.next)
	r.crowd.note("writes", "")
	return true
}

func (r *register) read(p *asker) bool {
	least := r.acked.Load()
	a, err := p.do(demand{r.key, false, r.r}, "GET", fmt.Sprintf("%s&r=%s", r.path(), r.r), "", "")
	if err != nil || !found(a) && a.status != 404 {
		r.crowd.note("refused reads", "")
		return false
	}
	newest := int64(0)
	for _, v := range liveValues(a) {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			r.crowd.note("reads", fmt.Sprintf("%s reads %q", r.key, v))
		}
		newest = max(newest, n)
	}
	broken := ""
	if newest < least {
		broken = fmt.Sprintf("%s (w=%s, r=%s) was acknowledged as %d, and %s read %d: %d acks %s", r.key, r.w, r.r, least, p.node.name, newest, a.status, a.header.Get("Dunlin-Acks"))
	}
	r.crowd.note("reads", broken)
	return true
}

// growing is a set in one value: who adds an element reads the set and replaces what it read.
type growing struct {
	crowd *readers
	key   string

	mu    sync.Mutex
	acked []string
}

func (s *growing) path() string {
	return "/kv/" + elasticBucket + "/" + s.key + "?sloppy=false&timeout=2s"
}

func (s *growing) look(p *asker) (elements map[string]bool, token string, ok bool) {
	a, err := p.do(demand{s.key, false, "quorum"}, "GET", s.path()+"&r=quorum", "", "")
	if err != nil || !found(a) && a.status != 404 {
		return nil, "", false
	}
	elements = map[string]bool{}
	for _, v := range liveValues(a) {
		for e := range strings.FieldsSeq(v) {
			elements[e] = true
		}
	}
	return elements, a.header.Get("Dunlin-Context"), true
}

// maxElements keeps a set's value small.
const maxElements = 400

func (s *growing) add(p *asker, element string) bool {
	s.mu.Lock()
	full := len(s.acked) >= maxElements
	s.mu.Unlock()
	if full {
		<-time.After(100 * time.Millisecond)
		return true
	}
	elements, token, ok := s.look(p)
	if !ok {
		s.crowd.note("refused reads", "")
		return false
	}
	elements[element] = true
	all := make([]string, 0, len(elements))
	for e := range elements {
		all = append(all, e)
	}
	a, err := p.do(demand{s.key, true, "quorum"}, "PUT", s.path()+"&w=quorum", strings.Join(all, " "), token)
	if err != nil || a.status != 204 {
		s.crowd.note("refused additions", "")
		return false
	}
	s.mu.Lock()
	s.acked = append(s.acked, element)
	s.mu.Unlock()
	s.crowd.note("additions", "")
	<-time.After(50 * time.Millisecond)
	return true
}

func (s *growing) read(p *asker) bool {
	s.mu.Lock()
	must := s.acked[:len(s.acked):len(s.acked)]
	s.mu.Unlock()
	elements, _, ok := s.look(p)
	if !ok {
		s.crowd.note("refused reads", "")
		return false
	}
	broken := ""
	for i, e := range must {
		if !elements[e] {
			broken = fmt.Sprintf("%s lacks element %d of %d, %s, read at %s", s.key, i, len(must), e, p.node.name)
		}
	}
	s.crowd.note("reads of sets", broken)
	return true
}
