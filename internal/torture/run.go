package torture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/internal/crowd"
	"github.com/dunlindb/dunlin/internal/referee"
)

const (
	replicas  = 3
	bucket    = "torture"
	bucketLWW = "torture-lww"
	keys      = 64
	tellPause = 10 * time.Second
)

// Result is what came of a run.
type Result struct {
	History    *referee.History
	Violations []referee.Violation
	Answers    string         // how many operations had which outcome
	Faults     map[string]int // by kind
	Kills      int            // processes that were killed with SIGKILL
	Freezes    int
	Cuts       int           // all splits, one-way cuts, isolated nodes and flapping links
	Dots       int           // that the replicas were seen to hold
	Settled    time.Duration // from the last fault until all replicas were equal; negative: they were not
	Took       time.Duration // in all
}

// run is a run that is under way.
type run struct {
	*cluster
	opt     Options
	history *referee.History
	clients *crowd.Crowd
	begin   time.Time
	counts  map[string]int
	kills   int
	// r and w are the quorums of strict requests.
	r, w int
}

// quorums are pairs of R and W that overlap, the usual ones more often.
var quorums = [][2]int{{2, 2}, {2, 2}, {2, 2}, {1, 3}, {3, 1}}

// Run starts a cluster in opt.Dir, ill-treats it until a limit is reached or ctx ends, lets it come to rest, which it
// may take minutes for, and judges. The nodes have ended when it returns. The error tells why there is no judgement;
// it is an *Invalid for an option that cannot be.
func Run(ctx context.Context, opt Options) (res *Result, err error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	c, err := newCluster(opt)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	q := quorums[rand.New(rand.NewPCG(opt.Seed, 1<<34)).IntN(len(quorums))]
	r := &run{cluster: c, opt: opt, r: q[0], w: q[1], begin: time.Now(), counts: map[string]int{}, history: &referee.History{
		Title:   fmt.Sprintf("torture, seed %d, %d nodes, durability %s, strict requests with R=%d and W=%d", opt.Seed, opt.Nodes, opt.Durability, q[0], q[1]),
		Options: referee.Options{N: replicas, LWW: []string{bucketLWW}},
	}}
	r.introduce()
	if err := r.found(ctx); err != nil {
		return nil, err
	}
	return r.play(ctx)
}

func (r *run) say(format string, args ...any) {
	if r.opt.Say != nil {
		r.opt.Say(format, args...)
	}
}

func (r *run) note(format string, args ...any) {
	r.history.Note(r.clients.Since(), format, args...)
}

func (r *run) count(what string) { r.counts[what]++ }

func (r *run) operations() (n int) {
	for what, k := range r.clients.Counts() {
		if !strings.HasPrefix(what, "status ") && what != "repeats" {
			n += k
		}
	}
	return n
}

// introduce says which faults there are, and why not the others.
func (r *run) introduce() {
	r.say("%s", r.history.Title)
	kinds := []string{"kill -9 of one and of all, also while they start", "freezes (SIGSTOP)", "clean restarts"}
	if r.lab != nil {
		kinds = append(kinds, "splits, one-way cuts, isolated nodes, flapping links (network namespaces)")
		if r.canLose {
			kinds = append(kinds, "loss of packets")
		}
		if r.canDelay {
			kinds = append(kinds, "delay of packets")
		}
	}
	r.say("faults: %s", strings.Join(kinds, ", "))
	if r.lab == nil {
		r.say("left out: all of the network: %v", r.noLab)
	}
	for _, what := range r.missing {
		r.say("left out: %s", what)
	}
}

// found starts the nodes and makes the buckets.
func (r *run) found(ctx context.Context) error {
	for _, m := range r.members {
		if err := m.Start(); err != nil {
			return err
		}
		m.begun = time.Now()
	}
	if err := r.allReady(ctx); err != nil {
		return fmt.Errorf("at the start: %w", err)
	}
	var err error
	for end := time.Now().Add(readyLimit); time.Now().Before(end); { // 202: some have not heard of it
		if _, err = r.ask(ctx, http.MethodPut, r.members[0].URL("/buckets/"+bucketLWW), `{"conflict":"lww"}`); err == nil {
			return nil
		}
		if !pause(ctx, pollPause) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("a bucket: %w", err)
}

func (r *run) crowd() crowd.Options {
	return crowd.Options{
		Nodes: r.reachable(), Clients: r.opt.Clients, Keys: keys, Bucket: bucket, LWW: bucketLWW, Seed: r.opt.Seed,
		N: replicas, StrictR: r.r, StrictW: r.w, Least: true, ValueSize: 2000, Once: 10, MaxOnce: 2000, Wear: 200,
		Pause: 5 * time.Millisecond, Timeout: 2 * time.Second,
		Client: func(int) *http.Client { return r.client(4 * time.Second) },
	}
}

func (r *run) play(ctx context.Context) (*Result, error) {
	r.clients = crowd.Start(r.crowd(), r.history)
	defer r.clients.Finish()
	w := watchDots(r)
	defer w.stop()
	f := newFaults(r)
	if err := errors.Join(f.rage(ctx), f.calm()); err != nil {
		return nil, err
	}
	f.progress()
	res := &Result{History: r.history, Settled: -1}
	calm := time.Now()
	// From here on nobody waits for an interruption: each step has its limit.
	err := r.allReady(context.Background())
	r.clients.Finish()
	if err == nil {
		err = r.settle()
	}
	w.stop()
	for _, v := range w.violations {
		r.breach("%s", v)
	}
	if err != nil {
		r.breach("%v", err)
		r.clients.Abandon()
	} else {
		res.Settled = time.Since(calm) - settleFor
		r.say("at rest, all replicas equal, %.1f s after the last fault; reading all keys", res.Settled.Seconds())
		r.clients.Conclude(r.observer)
	}
	r.stop()
	res.Violations = r.history.Judge()
	res.Answers, res.Faults, res.Dots = r.clients.Summary(), maps.Clone(r.counts), len(w.seen)
	res.Kills, res.Freezes, res.Cuts = r.kills, r.counts["freeze"], r.cuts()
	res.Took = time.Since(r.begin)
	return res, nil
}

func (r *run) settle() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	r.history.Final.Nodes, err = Settle(ctx, r.observer, r.reachable(), replicas)
	return err
}

// stop ends all nodes as an operator would, and looks at what they have said last.
func (r *run) stop() {
	for _, m := range r.members {
		if m.Running() {
			m.Terminate()
		} else {
			r.breach("%s ended by itself: %s", m.Name, m.Words())
		}
	}
	for _, m := range r.members {
		if err := m.ended(stopLimit); err != nil {
			r.breach("%v of being told to stop", err)
			continue // close kills it
		}
		if !m.State().Success() {
			r.breach("%s did not stop cleanly: %s", m.Name, m.Words())
		}
		for _, line := range m.tell(true) {
			r.breach("%s", line)
		}
	}
}
